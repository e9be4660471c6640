# SPDX-License-Identifier: Apache-2.0
"""Anchors: the network that proposes boxes from them, and those that lie near objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
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


class RegionProposals(RegionProposalNetwork):
    """torchvision's region proposal network with Mask R-CNN's thresholds, whose parts can be called apart.

    Anchors of a level are as far apart as its pixels, 4 to 64 px on P2 to P6, at any image size: torchvision divides
    sizes to get strides, which is off at P6 where P5 has an odd size.

    Args:
        channels: of the pyramid's levels.
        anchor_sizes: in px, one for each level.
        aspect_ratios: height by width of the anchors.
        proposals: at most so many, of a level before and of an image after suppression, alike in both modes.
    """

    def __init__(
        self, channels: int, anchor_sizes: Sequence[int], *, aspect_ratios: Sequence[float], proposals: int
    ) -> None:
        limit = {"training": proposals, "testing": proposals}
        super().__init__(
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
        self.strides = [4 * 2**level for level in range(len(anchor_sizes))]

    def answer(self, features: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor], list[int]]:
        """Objectness logits and box regression of all anchors, the anchors of each image, and how many a level has.

        Args:
            features: of each level (B, channels, h, w).
        """
        scores, shifts = self.head(features)
        counts = [level.shape[1] * level.shape[2] * level.shape[3] for level in scores]
        objectness, deltas = concat_box_prediction_layers(scores, shifts)
        device = features[0].device
        self.anchor_generator.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        grids = [[level.shape[2], level.shape[3]] for level in features]
        anchors = torch.cat(self.anchor_generator.grid_anchors(grids, strides))
        return objectness.float(), deltas.float(), [anchors for _ in range(features[0].shape[0])], counts

    def propose(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], counts: list[int], image_size: tuple[int, int]
    ) -> list[Tensor]:
        """The best boxes that what :py:meth:`answer` gives amounts to, for each image (P, 4)."""
        boxes = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        return self.filter_proposals(boxes, objectness, [image_size for _ in anchors], counts)[0]

    @torch.jit.unused
    def anchors_of_levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of an image on each level, (h, w, A, 4)."""
        *_, anchors, counts = self.answer(list(features))
        levels = anchors[0].split(counts)
        return [some.view(*level.shape[2:], -1, 4) for some, level in zip(levels, features, strict=True)]
