# SPDX-License-Identifier: Apache-2.0
"""Where a student's features are to be those of its teacher, and how far they are from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def masks_of_levels(mask: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """An image's foreground on the grids of a feature pyramid: pixels that it covers by more than half.

    Source: Zhou et al., MMT-PSM, MICCAI 2020, section 2.3, and their code for the half. They sum the instances' masks
    before, so that there an overlap counts twice; here it is the union, as the paper says.

    Args:
        mask: bool (B, H, W), of the images that the features are of.
        shapes: (h, w) of each level.

    Returns:
        bool (B, h, w) for each level.
    """
    cover = mask[:, None].to(torch.float32)
    return [F.adaptive_avg_pool2d(cover, (int(h), int(w)))[:, 0] > 0.5 for h, w in shapes]


def masked_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    r"""Mean squared distance of the features on a mask, the mean over the teacher's views.

    .. math:: \frac{\sum_x M_x \sum_c (Z^T_{xc} - Z^S_{xc})^2}{C \sum_x M_x}

    Source: Zhou et al., Eq. 4, one level of it, the sums over the batch. As the mean of squared distances to K
    features is the squared distance to their mean and their variance, the student meets the mean alone.

    Args:
        student: (B, C, h, w).
        teacher: (K, B, C, h, w), K views on the student's grid; no gradient passes.
        mask: bool (B, h, w).

    Returns:
        Scalar, in float32 or wider; 0 for an empty mask.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    weight = mask[:, None].to(wide)
    views = teacher.detach().to(wide)
    spread = (views.var(0, correction=0) * weight).sum()
    distance = ((student.to(wide) - views.mean(0)).square() * weight).sum()
    return (distance + spread) / (student.shape[1] * weight.sum().clamp_min(1))
