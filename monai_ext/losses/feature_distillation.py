# SPDX-License-Identifier: Apache-2.0
"""Features of a student that are to be those of its teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_ext.functional.distill import masked_distance


class MaskGuidedDistillationLoss(nn.Module):
    r"""Squared distance of adapted features in the image's foreground (L_mgd).

    .. math::
        L_{mgd} = \frac{1}{C T} \sum_t \frac{\sum_x M_{tx} \sum_c (Z^T_{txc} - Z^S_{txc})^2}{\sum_x M_{tx}}

    Source: Zhou et al., MMT-PSM, MICCAI 2020, Eq. 4, meant over the views; no square root is taken.
    """

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
        """Scalar loss; a level whose mask is empty adds 0.

        Args:
            student: for each of T levels (L, B, C, h, w), L views.
            teacher: for each level (K, B, C, h, w), K views on the same grid; no gradient passes.
            masks: for each level bool (B, h, w), where features count, for example
                :func:`~monai_ext.functional.distill.masks_of_levels`.
        """
        levels = [
            masked_distance(view, theirs, covered)
            for mine, theirs, covered in zip(student, teacher, masks, strict=True)
            for view in mine
        ]
        return torch.stack(levels).mean()
