# SPDX-License-Identifier: Apache-2.0
"""All instances of an image, overlaps included, as a label map cannot hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import batched_nms

from monai_ext.inferers.tiles import tiles

SLIP_PX = 8
"""How far off its part of the image a tile still answers: centres of one instance differ from tile to tile."""


class DetectionInferer(Inferer):
    """The instances that a detector such as :class:`~monai_ext.networks.CellMaskRCNN` finds.

    An image larger than a tile is gone over in overlapping tiles. Each answers for the instances whose box has its
    centre in the tile's part of a partition of the image or a little beyond; of those that two tiles find, the better
    one stays. Pictures are as MONAI reads them, columns first; masks are given as others draw them, rows first.

    Args:
        tile_px: side of a tile; None takes every image whole.
        overlap_px: of neighbouring tiles: the largest instance's length and 16, else a border may cut it. None is half
            a tile.

    Raises:
        ValueError: an overlap that is not smaller than the tile.
    """

    def __init__(self, tile_px: int | None = None, *, overlap_px: int | None = None) -> None:
        super().__init__()
        if tile_px is not None and overlap_px is not None and not 0 <= overlap_px < tile_px:
            raise ValueError(f"overlap_px: found {overlap_px}, expected less than the tile's {tile_px}.")
        self.tile_px = tile_px
        self.overlap_px = overlap_px

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """For each image (C, X, Y) of a batch ``masks``, N compressed run lengths of COCO on the grid (Y, X),
        ``labels`` int64 (N,) and ``scores`` (N,), by falling score.

        Args:
            inputs: (B, C, X, Y).
            network: has ``instances`` and ``nms_iou``, as :class:`~monai_ext.networks.CellMaskRCNN` does, scripted or
                not.
        """
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        return [self._of_image(image, network) for image in images.split(1)]

    def _of_image(self, image: Tensor, network: Any) -> dict[str, Any]:
        height, width = image.shape[2:]
        tile = self.tile_px or max(height, width)
        overlap = tile // 2 if self.overlap_px is None else self.overlap_px
        runs: list[Any] = []
        found: list[tuple[Tensor, ...]] = []
        for first, low, high in tiles(height, tile, overlap):
            for second, left, right in tiles(width, tile, overlap):
                seen = network.instances(image[:, :, first : first + tile, second : second + tile])
                boxes = seen["boxes"] + torch.tensor([second, first] * 2, device=image.device)
                mine = _centred(boxes, (left, low, right, high))
                found.append((boxes[mine], seen["labels"][mine], seen["scores"][mine].float()))
                runs += [_runs(mask, (first, second), (height, width)) for mask in seen["pasted"][mine].cpu().numpy()]
        boxes, labels, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(found) > 1:
            best = batched_nms(boxes, scores, labels, network.nms_iou)
            labels, scores, runs = labels[best], scores[best], [runs[number] for number in best.tolist()]
        return {"masks": runs, "labels": labels.cpu(), "scores": scores.cpu()}


class LabelMapInferer(DetectionInferer):
    """The same instances in one label map, for objects that do not overlap; classes are not told apart.

    Where two overlap, the better one has the pixel; one that shows nowhere has no number. The arguments are those of
    :class:`DetectionInferer`.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Images (B, C, X, Y) to float32 (B, 2, X, Y): number of the instance, by falling score from 1 on, and its
        score; 0 on background.

        Args:
            inputs: images.
            network: as for :class:`DetectionInferer`.
        """
        found = super().__call__(inputs, network)
        maps = torch.stack([_painted(one, inputs.shape[2], inputs.shape[3]) for one in found]).to(inputs.device)
        return MetaTensor(maps).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else maps


def _painted(found: dict[str, Any], *sides: int) -> Tensor:
    """Number and score of each pixel's instance (2, X, Y); one mask is unpacked at a time."""
    painted, order = np.zeros(sides, np.int64), np.argsort(-found["scores"].numpy(), kind="stable")
    for rank in range(len(order), 0, -1):
        painted[coco_mask.decode(found["masks"][order[rank - 1]]).T > 0] = rank
    shown, places = np.unique(np.append(0, painted), return_inverse=True)  # 0 is there where all is covered, too
    scores = np.append(0, found["scores"].numpy()[order])[shown]
    numbers = places[1:].reshape(sides)
    return torch.from_numpy(np.stack([numbers, scores[numbers]]).astype(np.float32))


def _centred(boxes: Tensor, part: tuple[int, int, int, int]) -> Tensor:
    """Which boxes (N, 4) have their centre in a part ``x1, y1, x2, y2`` of the image, or a little beyond it."""
    bounds = torch.tensor(part, device=boxes.device)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centre >= bounds[:2] - SLIP_PX) & (centre < bounds[2:] + SLIP_PX)).all(1)


def _runs(mask: np.ndarray, corner: tuple[int, int], sides: tuple[int, int]) -> dict[str, Any]:
    """COCO's run lengths of a tile's mask in the whole image.

    A mask (X, Y) in the order of C is the same mask (Y, X) in Fortran's, which COCO's run lengths follow.
    """
    whole = np.zeros(sides, np.uint8)
    whole[corner[0] : corner[0] + mask.shape[0], corner[1] : corner[1] + mask.shape[1]] = mask
    return coco_mask.encode(whole.T)
