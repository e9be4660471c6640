# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and Dice on the labelled voxels only (Zhai et al., IEEE TMI 2023, Eq. 3-5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ext.functional.partial_labels import UNLABELLED


class PartialLoss(nn.Module):
    r"""Partial cross-entropy and partial Dice, halved.

    .. math::
        L_{psup} = \frac{1}{2} \left( \frac{1}{|\Omega_L|} \sum_{i \in \Omega_L} -\log p_{i, q_i}
        + 1 - \frac{2 \sum_{i \in \Omega_L} p_i q_i}{\sum_{i \in \Omega_L} p_i^2 + q_i^2} \right)

    for each image, averaged over the batch; the Dice term is averaged over the foreground classes. Where every voxel
    is labelled this is full supervision.

    ``smooth`` stands above and below the Dice fraction: an image without labels costs exactly 0, and a class that is
    neither labelled nor predicted costs nothing. Masking logits before the softmax, as a generic masked loss would,
    turns an unlabelled voxel into a prediction of one half; here it is left out of both sums.

    The released code differs: a linear denominator over both classes (``dice="linear"``,
    ``include_background=True``) and no factor 1/2 (a weight of 2 on this term). Its smoothing stands below the
    fraction only, so that an absent class costs a flat 1.

    Args:
        dice: ``squared`` denominator as in Eq. 5, or ``linear``.
        include_background: count class 0 in the Dice term too.
        smooth: added to numerator and denominator of the Dice fraction.

    Raises:
        ValueError: unknown ``dice``.
    """

    def __init__(self, *, dice: str = "squared", include_background: bool = False, smooth: float = 1e-5) -> None:
        super().__init__()
        if dice not in ("squared", "linear"):
            raise ValueError(f"dice must be 'squared' or 'linear', found {dice!r}.")
        self.power = 2 if dice == "squared" else 1
        self.first_class = 0 if include_background else 1
        self.smooth = smooth

    def forward(self, logits: Tensor, seeds: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider.

        Args:
            logits: (B, C, *S), C of at least 2.
            seeds: (B, 1, *S), class indices, :py:data:`UNLABELLED` where nobody labelled.

        Raises:
            ValueError: shapes do not fit, or a label is neither a class nor unlabelled.
        """
        classes = logits.shape[1]
        if classes < 2 or seeds.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(
                "The partial loss needs logits (B, C >= 2, *S) and seeds (B, 1, *S), "
                f"found {tuple(logits.shape)} and {tuple(seeds.shape)}."
            )
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2).log_softmax(1)
        labels = seeds.flatten(1).long()
        labelled = labels != UNLABELLED
        if bool((labelled & ((labels < 0) | (labels >= classes))).any()):
            found = labels[labelled].unique().tolist()
            raise ValueError(f"seeds must hold classes 0 to {classes - 1} or {UNLABELLED}, found {found}.")
        onehot = labels[:, None] == torch.arange(classes, device=labels.device)[:, None]
        cross_entropy = -(onehot * log_probs).sum((1, 2)) / labelled.sum(1).clamp_min(1)
        return (cross_entropy.mean() + self._dice(log_probs.exp() * labelled[:, None], onehot)) / 2

    def _dice(self, probs: Tensor, onehot: Tensor) -> Tensor:
        probs, onehot = probs[:, self.first_class :], onehot[:, self.first_class :]
        overlap = (probs * onehot).sum(2)
        size = probs.pow(self.power).sum(2) + onehot.sum(2)
        return (1 - (2 * overlap + self.smooth) / (size + self.smooth)).mean()
