# SPDX-License-Identifier: Apache-2.0
"""Agreement with a teacher on chosen pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class MaskedConsistencyLoss(nn.Module):
    r"""Squared difference of two predictions on the pixels of a mask.

    .. math:: L_c = \frac{\sum_v E_v \sum_c (f^t_{vc} - f^s_{vc})^2}{\sum_v E_v}

    Source: Yao et al., Computer Science and Application 16(2), 2026, Eq. 14. The sums run over the batch. The paper
    takes f before the softmax; the code it descends from (AC-MT, UA-MT) hands logits to a function that applies it,
    and divides by the number of classes too. Without a softmax the loss is not bounded.

    Args:
        space: ``"prob"`` compares probabilities, ``"logit"`` logits as printed.

    Raises:
        ValueError: an unknown space.
    """

    def __init__(self, space: Literal["prob", "logit"] = "prob") -> None:
        super().__init__()
        if space not in ("prob", "logit"):
            raise ValueError(f"space: found {space!r}, expected 'prob' or 'logit'.")
        self.space = space

    def forward(self, logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider; an empty mask costs 0. The teacher gets no gradient.

        Args:
            logits: (B, C, *S), the student's.
            teacher_logits: (B, C, *S).
            mask: bool (B, *S), the pixels E.

        Raises:
            ValueError: the shapes do not fit.
        """
        if logits.shape != teacher_logits.shape or mask.shape != (logits.shape[0], *logits.shape[2:]):
            found = f"{tuple(logits.shape)}, {tuple(teacher_logits.shape)} and {tuple(mask.shape)}"
            raise ValueError(
                f"Student, teacher and mask must have shapes (B, C, *S), the same and (B, *S), found {found}."
            )
        wide = torch.promote_types(logits.dtype, torch.float32)
        student, teacher = logits.to(wide), teacher_logits.detach().to(wide)
        if self.space == "prob":
            student, teacher = student.softmax(1), teacher.softmax(1)
        weight = mask.to(wide)
        return ((student - teacher).square().sum(1) * weight).sum() / weight.sum().clamp_min(1)
