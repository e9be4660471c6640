# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.transforms import LabelMapToMasksd, MasksToTargetd


def masks_of(*boxes, shape=(9, 12)):
    masks = torch.zeros(len(boxes), *shape, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def convert(masks, classes, **options):
    data = {"image": 0, "masks": masks, "classes": torch.tensor(classes, dtype=torch.int64)}
    return MasksToTargetd(**options)(data)


def test_boxes_end_behind_the_last_pixel():
    out = convert(masks_of((2, 1, 6, 5), (0, 0, 12, 9)), [2, 1])
    assert out.keys() == {"image", "target"}
    assert out["target"]["boxes"].tolist() == [[2, 1, 6, 5], [0, 0, 12, 9]]
    assert out["target"]["labels"].tolist() == [2, 1]


def test_boxes_equal_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy((rng.random((5, 9, 12)) > 0.8).astype(np.uint8))
    for box, mask in zip(convert(masks, [1] * 5, smallest_px=1)["target"]["boxes"], masks, strict=True):
        rows, columns = np.nonzero(mask.numpy())
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_mirrored_picture_has_mirrored_boxes():
    masks = masks_of((2, 1, 6, 5))
    x1, y1, x2, y2 = convert(masks, [1])["target"]["boxes"][0].tolist()
    assert convert(masks.flip(-1), [1])["target"]["boxes"].tolist() == [[12 - x2, y1, 12 - x1, y2]]


def test_what_a_crop_left_too_little_of_goes():
    out = convert(masks_of((0, 0, 3, 3), (0, 0, 2, 5), (5, 5, 5, 5)), [1, 2, 1])
    assert out["target"]["labels"].tolist() == [2]
    assert out["target"]["masks"].shape == (1, 9, 12)


@pytest.mark.parametrize("masks", [torch.zeros(0, 9, 12, dtype=torch.uint8), masks_of((4, 4, 5, 5))])
def test_no_instance(masks):
    target = convert(masks, [1] * len(masks))["target"]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 9, 12)
    assert target["labels"].shape == (0,)


def test_smallest_px():
    with pytest.raises(ValueError, match="smallest_px"):
        MasksToTargetd(smallest_px=0)


def test_a_label_map_becomes_a_mask_an_instance():
    """Ids with gaps, one in two pieces; and none at all."""
    labels = torch.tensor([[[5, 0, 5], [2, 2, 0]]])
    out = LabelMapToMasksd(class_number=3)({"label": labels, "image": 0})
    assert out.keys() == {"image", "masks", "classes"}
    assert out["masks"].tolist() == [[[False] * 3, [True, True, False]], [[True, False, True], [False] * 3]]
    assert out["classes"].tolist() == [3, 3]
    empty = LabelMapToMasksd()({"label": torch.zeros(1, 2, 3)})
    assert empty["masks"].shape == (0, 2, 3)
    assert empty["classes"].shape == (0,)


def test_masks_of_a_label_map_are_its_pixels():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (1, 20, 15)))
    masks = LabelMapToMasksd()({"label": labels})["masks"]
    assert torch.equal(torch.einsum("nxy,n->xy", masks.long(), torch.arange(1, 9)), labels[0])


def test_a_label_map_has_one_channel():
    with pytest.raises(ValueError, match="label"):
        LabelMapToMasksd()({"label": torch.zeros(2, 3, 3)})
