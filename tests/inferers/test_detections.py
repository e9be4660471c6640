# SPDX-License-Identifier: Apache-2.0
"""Tiles against the whole image, with a detector that sees discs as far as it is shown them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pycocotools import mask as coco_mask

from monai_ext.inferers import DetectionInferer
from monai_ext.networks import CellMaskRCNN

SIDES = (90, 130)


class Discs:
    """Finds the discs that it is asked for, of two classes, where they show in what it is given.

    The picture holds the coordinates of its pixels, so that a tile says where it lies. Boxes ``slip`` by so many
    radii towards the tile's middle.
    """

    nms_iou = 0.5

    def __init__(self, discs, *, slip=0.0):
        self.discs, self.slip, self.seen = discs, slip, []

    def instances(self, image):
        self.seen.append(tuple(image.shape[2:]))
        rows, columns = image[0]
        masks, boxes, labels, scores = [], [], [], []
        for number, (i, j, radius, label) in enumerate(self.discs):
            mask = (rows - i) ** 2 + (columns - j) ** 2 <= radius**2
            if mask.any():
                y, x = torch.where(mask)
                box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
                middle = torch.tensor(image.shape[2:][::-1]) / 2
                shift = self.slip * radius * (middle - (box[:2] + box[2:]) / 2).sign()
                masks.append(mask)
                boxes.append(box + torch.cat([shift, shift]))
                labels.append(label)
                # What is cut looks the better, so that only its place tells.
                scores.append(0.99 - 0.001 * number - 0.1 * mask.sum() / (4 * radius**2))
        if not masks:
            empty = torch.zeros(0, *image.shape[2:], dtype=torch.bool)
            return {
                "boxes": torch.zeros(0, 4),
                "labels": torch.zeros(0).long(),
                "scores": torch.zeros(0),
                "pasted": empty,
            }
        return {
            "boxes": torch.stack(boxes),
            "labels": torch.tensor(labels),
            "scores": torch.tensor(scores),
            "pasted": torch.stack(masks),
        }


def places(sides=SIDES):
    return torch.stack(torch.meshgrid(*map(torch.arange, sides), indexing="ij")).float()[None]


def scattered(number, *, seed=0):
    """Cells of radius 8, which may overlap, and a nucleus within each."""
    generator = torch.Generator().manual_seed(seed)
    discs = []
    for _ in range(number):
        i, j = (int(torch.randint(side, (1,), generator=generator)) for side in SIDES)
        if all(abs(i - a) + abs(j - b) > 9 for a, b, *_ in discs):
            discs += [(i, j, 8, 1), (i, j, 3, 2)]
    return discs


def decoded(found):
    """The set of (class, mask)."""
    return {(int(n), coco_mask.decode(run).tobytes()) for n, run in zip(found["labels"], found["masks"], strict=True)}


@pytest.mark.parametrize("slip", [-0.12, 0.0, 0.12])
@pytest.mark.parametrize("tile", [64, 80])
def test_tiles_neither_cut_nor_double(tile, slip):
    discs = scattered(60)
    whole = DetectionInferer()(places(), Discs(discs))[0]
    network = Discs(discs, slip=slip)
    tiled = DetectionInferer(tile, overlap_px=34)(places(), network)[0]
    assert set(network.seen) == {(tile, tile)}
    assert len(network.seen) > 3
    assert len(tiled["masks"]) == len(whole["masks"]) == len(discs)
    assert decoded(tiled) == decoded(whole)
    assert (tiled["scores"].diff() <= 0).all()


def test_masks_are_rows_first():
    found = DetectionInferer()(MetaTensor(places()), Discs([(10, 100, 5, 1)]))[0]
    mask = coco_mask.decode(found["masks"][0])
    assert mask.shape == SIDES[::-1]
    assert mask[100, 10]
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == (100, 10)


def test_nothing_found_and_several_images():
    found = DetectionInferer(64)(places().expand(2, -1, -1, -1), Discs([]))
    assert [len(one["masks"]) for one in found] == [0, 0]
    assert found[0]["labels"].dtype == torch.int64
    assert found[0]["scores"].shape == (0,)


def test_the_real_detector_scripted():
    torch.manual_seed(0)
    network = CellMaskRCNN(
        backbone="resnet18", norm="group", channels=16, hidden=16, anchor_sizes=(8, 16, 32, 64, 128), detections=5
    ).eval()
    image = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        mine = DetectionInferer(64)(image, network)[0]
        theirs = DetectionInferer(64)(image, torch.jit.script(network))[0]
    assert len(mine["masks"]) > 5
    assert mine["masks"] == theirs["masks"]
    assert torch.equal(mine["scores"], theirs["scores"])


def test_an_overlap_as_large_as_the_tile():
    with pytest.raises(ValueError, match="overlap_px: found 64, expected less than the tile's 64"):
        DetectionInferer(64, overlap_px=64)
