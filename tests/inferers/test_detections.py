# SPDX-License-Identifier: Apache-2.0
"""Tiles against the whole image, with a detector that sees discs as far as it is shown them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pycocotools import mask as coco_mask

from monai_ext.inferers import DetectionInferer, LabelMapInferer
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


def coordinates():
    return torch.stack(torch.meshgrid(*(torch.arange(side).float() for side in SIDES), indexing="ij"))[None]


def test_label_map_equals_a_loop_over_instances():
    """A pixel has the best instance that covers it; numbers go by falling score, over all tiles."""
    network, image = Discs([(20, 20, 8, 1), (26, 24, 8, 1), (60, 100, 9, 2), (70, 70, 6, 1)]), coordinates()
    found = LabelMapInferer(64, overlap_px=24)(image, network)
    assert found.shape == (1, 2, *SIDES)
    (listed,) = DetectionInferer(64, overlap_px=24)(image, network)
    expected = torch.zeros(2, *SIDES)
    for number, runs in enumerate(listed["masks"], start=1):
        mask = torch.from_numpy(coco_mask.decode(runs).T > 0) & (expected[0] == 0)
        expected[:, mask] = torch.tensor([float(number), float(listed["scores"][number - 1])])[:, None]
    assert expected[0].max() == 4
    assert torch.equal(found[0], expected)


def test_label_map_of_a_hidden_instance_and_of_none():
    """The inner disc is found first and keeps its pixels; the same disc a second time has none left."""
    network = Discs([(30, 30, 10, 1), (30, 30, 10, 2)])
    found = LabelMapInferer()(coordinates(), network)[0]
    assert found[0].unique().tolist() == [0, 1]
    assert not LabelMapInferer()(coordinates(), Discs([])).any()


def test_label_map_is_what_the_network_ships():
    torch.manual_seed(0)
    network = CellMaskRCNN(
        classes=2, backbone="resnet18", norm="group", channels=16, hidden=16, score_threshold=0.0
    ).eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = LabelMapInferer()(MetaTensor(image), network)
        assert torch.equal(found[:, 0].as_tensor(), network(image)[:, 0])
    assert isinstance(found, MetaTensor)
    assert found[:, 0].max() > 1
