# SPDX-License-Identifier: Apache-2.0
"""Cells of images of any size, tile by tile, without cutting or doubling one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from monai_ext.functional.instance_map import paint_instances
from monai_ext.functional.point_nms import distance_nms
from monai_ext.inferers.tiles import tiles


class CellInferer(Inferer):
    """Label map and scores of a network that finds instances, such as :class:`~monai_ext.networks.PointInstanceNet`.

    An image larger than a tile is gone over in overlapping tiles. Each tile answers for the cells whose location lies
    in its part of a partition of the image, so that each has its whole window in the tile; a little beyond that part
    it speaks too, and of detections of one cell the best stays.

    Args:
        tile_px: side of a tile; None takes every image whole.
        overlap_px: of neighbouring tiles; at least the network's window. None is that window and twice the distance
            within which detections are one cell.
        threshold: probability from which on a pixel belongs to a cell.

    Raises:
        ValueError: an overlap that is not smaller than the tile.
    """

    def __init__(self, tile_px: int | None = None, *, overlap_px: int | None = None, threshold: float = 0.5) -> None:
        super().__init__()
        if tile_px is not None and overlap_px is not None and not 0 <= overlap_px < tile_px:
            raise ValueError(f"overlap_px: found {overlap_px}, expected less than the tile's {tile_px}.")
        self.tile_px = tile_px
        self.overlap_px = overlap_px
        self.threshold = threshold

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Images (B, C, H, W) to float32 (B, 2, H, W): number of the instance, 0 for none, and its score.

        Args:
            inputs: images.
            network: has ``instances``, ``window_px`` and ``nms_px``, as the networks of this package do, scripted or
                not.
        """
        height, width = inputs.shape[2:]
        maps = []
        for image in (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).split(1):
            _, scores, logits, origin = self._instances(image, network)
            maps.append(paint_instances(logits, origin, scores, height, width, self.threshold))
        found = torch.cat(maps)
        return MetaTensor(found).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else found

    def _instances(self, image: Tensor, network: Any) -> tuple[Tensor, ...]:
        sides = image.shape[2:]
        if self.tile_px is None or max(sides) <= self.tile_px:
            return network.instances(image)
        least = network.window_px + 2 * int(network.nms_px)
        overlap = least if self.overlap_px is None else self.overlap_px
        if not network.window_px <= overlap < self.tile_px:
            raise ValueError(
                f"overlap_px: found {overlap}, expected the window's {network.window_px} to less than {self.tile_px}."
            )
        found = []
        for first, low, high in tiles(sides[0], self.tile_px, overlap):
            for second, left, right in tiles(sides[1], self.tile_px, overlap):
                tile = image[:, :, first : first + self.tile_px, second : second + self.tile_px]
                corner = torch.tensor([first, second], device=image.device)
                bounds = torch.tensor([[low, left], [high, right]], device=image.device)
                locations, scores, logits, origin = network.instances(tile)
                locations = locations + corner
                mine = (locations >= bounds[0] - network.nms_px) & (locations < bounds[1] + network.nms_px)
                kept = mine.all(1)
                found.append((locations[kept], scores[kept], logits[kept], origin[kept] + corner))
        joined = [torch.cat(parts) for parts in zip(*found, strict=True)]
        best = distance_nms(joined[0], joined[1], network.nms_px)
        return tuple(part[best] for part in joined)
