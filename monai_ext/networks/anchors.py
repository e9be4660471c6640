# SPDX-License-Identifier: Apache-2.0
"""Anchors: the network that proposes boxes from them, and those that lie near objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
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


def region_proposals(
    channels: int, anchor_sizes: Sequence[int], *, aspect_ratios: Sequence[float], proposals: int
) -> RegionProposalNetwork:
    """torchvision's region proposal network with Mask R-CNN's thresholds.

    Args:
        channels: of the pyramid's levels.
        anchor_sizes: in px, one for each level.
        aspect_ratios: height by width of the anchors.
        proposals: at most so many, of a level before and of an image after suppression, alike in both modes.
    """
    limit = {"training": proposals, "testing": proposals}
    return RegionProposalNetwork(
        AnchorGenerator(tuple((size,) for size in anchor_sizes), (tuple(aspect_ratios),) * len(anchor_sizes)),
        RPNHead(channels, len(aspect_ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=limit,
        post_nms_top_n=limit,
        nms_thresh=0.7,
    )
