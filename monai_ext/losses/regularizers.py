# SPDX-License-Identifier: Apache-2.0
"""What else can regularise voxels that nobody labelled: the rivals in Table II of Zhai et al., IEEE TMI 2023."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ext.functional.partial_labels import UNLABELLED


def _probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def _total_variation(probs: Tensor, counted: Tensor) -> Tensor:
    """Absolute steps (B,) along every axis, summed over classes, of pairs whose voxels both have ``counted`` 1."""
    total = probs.new_zeros(probs.shape[0])
    for axis in range(2, probs.ndim):
        both = counted.narrow(axis, 1, probs.shape[axis] - 1) * counted.narrow(axis, 0, probs.shape[axis] - 1)
        total = total + (probs.diff(dim=axis).abs() * both).flatten(1).sum(1)
    return total


class SizeLoss(nn.Module):
    r"""Quadratic penalty where the predicted size leaves its bounds (Kervadec et al., Medical Image Analysis 2019).

    .. math:: L = \max(0, V - u\,n, l\,n - V)^2 / |\Omega|^2, \qquad V = \sum_{i \in \Omega} p_i

    for each image, averaged over the batch. Table II takes the target's true size n, so this rival sees a little of
    the dense mask. The released code of Kervadec et al. divides by :math:`100 |\Omega|`; the square makes the weight
    independent of the number of voxels.

    Args:
        lower: smallest accepted size, as a share of the true one.
        upper: largest accepted size, as a share of the true one.

    Raises:
        ValueError: bounds out of order.
    """

    def __init__(self, *, lower: float = 0.9, upper: float = 1.1) -> None:
        super().__init__()
        if not 0 <= lower <= upper:
            raise ValueError(f"Size bounds must satisfy 0 <= lower <= upper, found {lower} and {upper}.")
        self.lower = lower
        self.upper = upper

    def forward(self, logits: Tensor, size: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider.

        Args:
            logits: (B, C, *S); every class but 0 counts as target.
            size: voxels of the target within this crop, (B,) or any shape with B numbers.

        Raises:
            ValueError: not one size per image.
        """
        if size.numel() != logits.shape[0]:
            raise ValueError(f"The size loss needs one size per image, found {size.numel()} for {logits.shape[0]}.")
        foreground = _probabilities(logits)[:, 1:].flatten(1)
        voxels = logits[0, 0].numel()
        size = size.flatten().to(foreground.dtype)
        predicted = foreground.sum(1)
        excess = (predicted - self.upper * size).clamp_min(0) + (self.lower * size - predicted).clamp_min(0)
        return (excess / voxels).square().mean()


class MumfordShahLoss(nn.Module):
    r"""Piecewise constant intensity and short borders (Kim and Ye, IEEE TIP 2020).

    .. math::
        L = \frac{1}{|\Omega|} \sum_c \sum_i |x_i - u_c|^2 p_{ic} + \frac{\lambda}{|\Omega|} \sum_c \|\nabla p_c\|_1,
        \qquad u_c = \frac{\sum_i x_i p_{ic}}{\sum_i p_{ic}}

    for each image over all voxels, labelled or not, averaged over the batch. Unlike variance minimisation (Eq. 10 of
    Zhai et al.) the data term is not divided by the size of the class, so a small object weighs little. The released
    code of Kim and Ye sums over voxels; here both terms are per voxel.

    Args:
        tv_weight: lambda, weight of the total variation; the default is the released one.
        eps: least class size in voxels to divide by.
    """

    def __init__(self, *, tv_weight: float = 1e-3, eps: float = 1e-6) -> None:
        super().__init__()
        self.tv_weight = tv_weight
        self.eps = eps

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider.

        Args:
            logits: (B, C, *S).
            image: (B, M, *S); the data term is summed over the M channels.

        Raises:
            ValueError: the arrays lie on different grids.
        """
        if logits.shape[0] != image.shape[0] or logits.shape[2:] != image.shape[2:]:
            raise ValueError(
                f"Logits and image must share batch and grid, found {tuple(logits.shape)} and {tuple(image.shape)}."
            )
        probs = _probabilities(logits)
        voxels = logits[0, 0].numel()
        flat = probs.flatten(2)[:, :, None]
        intensity = image.detach().to(flat.dtype).flatten(2)[:, None]
        mean = (intensity * flat).sum(-1, keepdim=True) / flat.sum(-1, keepdim=True).clamp_min(self.eps)
        data = ((intensity - mean).square() * flat).flatten(1).sum(1)
        length = _total_variation(probs, torch.ones_like(probs[:, :1]))
        return (data + self.tv_weight * length).mean() / voxels


class EntropyLoss(nn.Module):
    r"""Confident predictions: mean of :math:`-\sum_c p_{ic} \log p_{ic}` (Grandvalet and Bengio, NeurIPS 2004).

    The source minimises the entropy of unlabelled examples only, and so does Table II.

    Args:
        unlabelled_only: leave out the voxels that seeds label.
    """

    def __init__(self, *, unlabelled_only: bool = True) -> None:
        super().__init__()
        self.unlabelled_only = unlabelled_only

    def forward(self, logits: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Mean over the counted voxels of logits (B, C, *S); seeds (B, 1, *S). Exactly 0 where none counts."""
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        counted = _counted(log_probs, seeds if self.unlabelled_only else None)
        entropy = -(log_probs.exp() * log_probs).sum(1, keepdim=True)
        return (entropy * counted).sum() / counted.sum().clamp_min(1)


class TotalVariationLoss(nn.Module):
    r"""Smooth probability maps: :math:`\sum_c \|\nabla p_c\|_1` per voxel (Javanmardi et al., arXiv 1605.01368).

    Steps to the next voxel along each axis, summed over axes and classes. The source penalises every voxel.

    Args:
        unlabelled_only: count only steps between two voxels that seeds leave unlabelled.
    """

    def __init__(self, *, unlabelled_only: bool = False) -> None:
        super().__init__()
        self.unlabelled_only = unlabelled_only

    def forward(self, logits: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Mean over the counted voxels of logits (B, C, *S); seeds (B, 1, *S). Exactly 0 where none counts."""
        probs = _probabilities(logits)
        counted = _counted(probs, seeds if self.unlabelled_only else None)
        return _total_variation(probs, counted).sum() / counted.sum().clamp_min(1)


def _counted(probs: Tensor, seeds: Tensor | None) -> Tensor:
    """(B, 1, *S) of ``probs``' type: 1 everywhere, or where ``seeds`` are given, 1 at unlabelled voxels."""
    if seeds is None:
        return torch.ones_like(probs[:, :1])
    if seeds.shape != probs[:, :1].shape:
        raise ValueError(f"seeds must be {tuple(probs[:, :1].shape)} like the logits, found {tuple(seeds.shape)}.")
    return (seeds == UNLABELLED).to(probs.dtype)
