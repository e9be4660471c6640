# SPDX-License-Identifier: Apache-2.0
"""A :class:`PointInstanceNet` as it is trained: one forward for all that an iteration needs of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_ext.functional.point_nms import replace_by_proposals
from monai_ext.networks.point_instance_net import PointInstanceNet


class CellPredictions(NamedTuple):
    """What the network says of a batch with known cells.

    Attributes:
        levels: score logits (B, 1, h, w), offsets (B, 2, h, w) in grid cells and the stride in px, of each scale.
        locations: (N, 2) in px, where each cell was segmented; no gradient.
        logits: mask logits (N, window, window).
        origin: int64 (N, 2), first pixel of each window.
    """

    levels: list[tuple[Tensor, Tensor, int]]
    locations: Tensor
    logits: Tensor
    origin: Tensor


class PointTraining(nn.Module):
    """Forward of a batch whose cells are known, as DistributedDataParallel can wrap it.

    A cell is segmented where the detector sees it, so that the masks learn from the locations that they will get when
    there are no points; where it sees nothing near, at the point. The paper says at the point; this is its code's.

    Args:
        network: the principal network; its parameters are all that this has.
        replace_px: a detection farther from the point than this does not stand in for it; 0 keeps every point.
    """

    def __init__(self, network: PointInstanceNet, *, replace_px: float = 12.0) -> None:
        super().__init__()
        self.network = network
        self.replace_px = replace_px

    def forward(self, image: Tensor, locations: Tensor, of_image: Tensor) -> CellPredictions:
        """Predictions at known cells.

        Args:
            image: (B, C, H, W).
            locations: (N, 2) in px, corner origin.
            of_image: int64 (N,), which image of the batch.
        """
        network = self.network
        levels = network.features(image)
        detections = network.detect(levels)
        places = locations
        if self.replace_px > 0:
            with torch.no_grad():
                found, scores, image_of_found = network.locate(detections, image.shape[2], image.shape[3])
                places = replace_by_proposals(
                    locations, of_image, found, image_of_found, scores, radius_px=self.replace_px
                )
        logits, origin = network.segment(levels[0], places, of_image)
        with_stride = [(score, offset, network.stride * 2**n) for n, (score, offset) in enumerate(detections)]
        return CellPredictions(with_stride, places, logits, origin)
