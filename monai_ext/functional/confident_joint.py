# SPDX-License-Identifier: Apache-2.0
"""Pixels whose labels are probably wrong, by the joint distribution of given and true labels."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext.functional.hard_labels import hard_labels

_TOLERANCE = 1e-6
_SMALLEST_THRESHOLD = 2e-6


def confidence_thresholds(labels: Tensor, probs: Tensor) -> Tensor:
    r"""Mean confidence of each class over the pixels that are labelled with it.

    .. math:: \gamma_j = \mathrm{mean}\left(p_j[\hat y = j]\right)

    Source: Yao et al., Computer Science and Application 16(2), 2026, Eq. 4.

    Args:
        labels: integer (B, N).
        probs: (B, C, N).

    Returns:
        float64 (B, C); 2, which no probability reaches, for a class that labels no pixel.
    """
    own = _members(labels, probs.shape[1])
    count = own.sum(-1)
    mean = torch.where(own, probs, 0).sum(-1, dtype=torch.float64) / count.clamp_min(1)
    return torch.where(count > 0, mean.clamp_min(_SMALLEST_THRESHOLD), 2.0)


def confident_joint(labels: Tensor, probs: Tensor) -> Tensor:
    r"""Numbers of pixels by given label i and confidently predicted label j.

    .. math::
        C[i][j] = \left|\left\{ x : \hat y(x) = i, \; j = \arg\max_{l : p_l(x) \ge \gamma_l} p_l(x) \right\}\right|

    Source: Eq. 5. It prints :math:`p_i \ge \gamma_j`; the text and confident learning, where it comes from, say
    :math:`p_j \ge \gamma_j`, which is done. A pixel that passes no threshold is not counted. Where several classes
    pass, cleanlab takes the largest of all probabilities, even one that did not pass; Eq. 5 does not, nor does this.

    Args:
        labels: integer (B, N).
        probs: (B, C, N).

    Returns:
        int64 (B, C, C).
    """
    passes = probs >= (confidence_thresholds(labels, probs)[..., None] - _TOLERANCE).to(probs.dtype)
    best = hard_labels(probs.masked_fill(~passes, -1.0))
    confident = _members(best, probs.shape[1]) & passes
    return (_members(labels, probs.shape[1])[:, :, None] & confident[:, None]).sum(-1)


def noisy_shares(joint: Tensor) -> Tensor:
    r"""Share of each label's pixels that belong to another class.

    .. math:: \frac{\sum_{j \ne i} \hat Q[i][j]}{\sum_j \hat Q[i][j]}, \qquad
        \hat Q[i][j] \propto \frac{C[i][j]}{\sum_j C[i][j]} \, |X_{\hat y = i}|

    Eq. 6 scales the rows of C to the numbers of labels, so within a row the shares are those of C. As in cleanlab, the
    diagonal counts one pixel at least: a label is never wrong everywhere, and a row of zeros is not divided.

    Args:
        joint: (B, C, C), see :func:`confident_joint`.

    Returns:
        float64 (B, C), from 0 to below 1.
    """
    joint = joint.double()
    diagonal = joint.diagonal(dim1=1, dim2=2)
    other = joint.sum(2) - diagonal
    return other / (other + diagonal.clamp_min(1))


@torch.no_grad()
def noisy_pixels(labels: Tensor, probs: Tensor, *, trim: bool = False, per_image: bool = True) -> Tensor:
    r"""Class-conditional self-identification of label noise, Eq. 4 to 7.

    Of the pixels labelled i, those with the lowest :math:`p_i` are taken for wrong, as many as Eq. 7 says:

    .. math:: n_i = \mathrm{round}\left(|X| \sum_{j \ne i} \hat Q[i][j]\right)

    For two classes this is cleanlab's ``prune_by_class`` but for pixels of equal confidence, of which this takes the
    first in row-major order up to :math:`n_i` and cleanlab none. Pixels are ranked in single precision. There is no
    loop over images, nothing waits for the device, and no sum is taken in a random order.

    Args:
        labels: noisy labels (B, \*S), integers below C: a student's hard prediction.
        probs: trusted probabilities (B, C, \*S): the teacher's softmax. No gradient passes.
        trim: leave out the pixels whose label is also the most probable class. The paper does not; cleanlab does.
        per_image: count in each image (the paper's text) or in the batch as if it were one image (AC-MT's code).

    Returns:
        bool (B, \*S), True for a pixel that is probably mislabelled.

    Raises:
        ValueError: the shapes do not fit.
    """
    if labels.shape != (probs.shape[0], *probs.shape[2:]):
        raise ValueError(
            f"labels: found shape {tuple(labels.shape)}, expected that of probs {tuple(probs.shape)} less C."
        )
    given, trusted = labels.flatten(1).long(), probs.detach().flatten(2)
    if not per_image:
        given, trusted = given.flatten()[None], trusted.transpose(0, 1).flatten(1)[None]
    sizes = _members(given, trusted.shape[1]).sum(-1)
    wrong = (noisy_shares(confident_joint(given, trusted)) * sizes).round().long()
    noisy = _lowest(given, trusted.gather(1, given[:, None])[:, 0], sizes, wrong)
    if trim:
        noisy &= hard_labels(trusted) != given
    return noisy.view(labels.shape)


def _members(labels: Tensor, classes: int) -> Tensor:
    """(B, N) to bool (B, C, N)."""
    return labels[:, None] == torch.arange(classes, device=labels.device)[:, None]


def _lowest(labels: Tensor, values: Tensor, sizes: Tensor, wanted: Tensor) -> Tensor:
    """The ``wanted`` (B, C) pixels of lowest value of each label and image, the first ones where values are equal.

    One sort serves all: by image and label, then by value, whose bits order as numbers do from 0 to 1.
    """
    group = labels + torch.arange(len(labels), device=labels.device)[:, None] * sizes.shape[1]
    key = (group << 30) + values.float().contiguous().view(torch.int32)
    order = key.flatten().argsort(stable=True)
    starts = sizes.flatten().cumsum(0) - sizes.flatten()
    last = (starts + wanted.flatten())[group.flatten()[order]]
    chosen = torch.arange(len(order), device=order.device) < last
    return torch.empty_like(chosen).scatter_(0, order, chosen).view(labels.shape)
