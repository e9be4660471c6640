# SPDX-License-Identifier: Apache-2.0
"""Places of a feature pyramid that lie near objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou


def near_anchors(boxes: Sequence[Tensor], anchors: Sequence[Tensor], *, share: float = 0.5) -> list[Tensor]:
    """Places with an anchor that fits an object nearly as well as the best one.

    Source: Wang et al., "Distilling object detectors with fine-grained feature imitation", CVPR 2019 (FFI): the IoU is
    above a share of the largest that any anchor has with the object, here of all levels.

    Args:
        boxes: for each image (N, 4), ``x1, y1, x2, y2``; N may be 0.
        anchors: for each level (h, w, A, 4).
        share: of the largest IoU.

    Returns:
        bool (B, h, w) for each level.
    """
    flat = torch.cat([level.reshape(-1, 4) for level in anchors])
    ious = [box_iou(some, flat) for some in boxes]
    near = torch.stack([(iou > share * iou.amax(1, keepdim=True)).any(0) for iou in ious])
    levels = near.split([level[..., 0].numel() for level in anchors], dim=1)
    return [fits.unflatten(1, level.shape[:3]).any(-1) for fits, level in zip(levels, anchors, strict=True)]
