# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd
from PIL import Image
from pycocotools import mask as coco_mask

from monai_ext.data import CocoWriter, DataFault, LoadInstanceRunsd, LoadInstancesd, collate_instances
from monai_ext.functional.outlines import cutouts_of_labels


@pytest.fixture
def folder(tmp_path):
    """A picture, 6 rows by 8 columns, with a nucleus inside a cell, and one without instances."""
    (tmp_path / "images").mkdir()
    writer = CocoWriter({1: "cytoplasm", 2: "nucleus"})
    cell, nucleus = np.zeros((2, 6, 8), dtype=np.uint8)
    cell[1:5, 2:8], nucleus[2:4, 4:6] = 1, 1
    writer.add("images/a.png", cutouts_of_labels(cell), shape=(6, 8), category_id=1)
    writer.add("images/a.png", cutouts_of_labels(nucleus), shape=(6, 8), category_id=2)
    writer.add("images/b.png", [], shape=(6, 8))
    writer.write(tmp_path / "annotations.json")
    for name in "ab":
        Image.fromarray(40 * cell + 80 * nucleus).save(tmp_path / f"images/{name}.png")
    return tmp_path


def test_masks_lie_on_the_pictures_grid(folder):
    read = LoadInstancesd("image", folder / "annotations.json", dataset_dir=folder)
    pipeline = Compose([read, LoadImaged("image"), EnsureChannelFirstd("image")])
    case = pipeline({"image": str(folder / "images/a.png")})
    assert case["image"].shape == (1, 8, 6)
    assert case["masks"].shape == (2, 8, 6)
    assert case["masks"].dtype == torch.uint8
    assert case["classes"].tolist() == [1, 2]
    assert torch.equal((case["image"][0] > 0), case["masks"][0] > 0)
    assert torch.equal((case["image"][0] >= 120), case["masks"][1] > 0)


def test_masks_follow_the_pictures_flips(folder):
    read = LoadInstancesd("image", folder / "annotations.json", dataset_dir=folder)
    flip = RandFlipd(["image", "masks"], prob=1.0, spatial_axis=0)
    case = Compose([read, LoadImaged("image"), EnsureChannelFirstd("image"), flip])(
        {"image": str(folder / "images/a.png")}
    )
    assert torch.equal((case["image"][0] > 0), case["masks"][0] > 0)


def test_a_picture_without_instances(folder):
    case = LoadInstancesd("image", folder / "annotations.json", dataset_dir=folder)(
        {"image": str(folder / "images/b.png")}
    )
    assert case["masks"].shape == (0, 8, 6)
    assert case["classes"].shape == (0,)


def test_references_are_the_masks_as_run_lengths(folder):
    case = {"image": str(folder / "images/a.png")}
    label = LoadInstanceRunsd("image", folder / "annotations.json", dataset_dir=folder)(case)["label"]
    masks = LoadInstancesd("image", folder / "annotations.json", dataset_dir=folder)(case)["masks"]
    assert label["labels"].tolist() == [1, 2]
    for runs, mask in zip(label["masks"], masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(runs), mask.numpy().T)


def test_names_without_folders(folder, tmp_path):
    case = LoadInstancesd("image", folder / "annotations.json")({"image": "elsewhere/a.png"})
    assert len(case["masks"]) == 2


def test_faults(folder):
    read = LoadInstancesd("image", folder / "annotations.json", dataset_dir=folder)
    with pytest.raises(DataFault, match=r"0 of its images are named images/c\.png"):
        read({"image": str(folder / "images/c.png")})
    (folder / "annotations.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataFault, match="annotations"):
        LoadInstancesd("image", folder / "annotations.json")
    with pytest.raises(ValueError, match="keys"):
        LoadInstancesd(["image", "other"], folder / "annotations.json")


def test_targets_of_a_batch_stay_a_list():
    items = [{"image": torch.zeros(1, 4, 4), "target": {"boxes": torch.zeros(n, 4)}} for n in (0, 3)]
    batch = collate_instances(items)
    assert batch["image"].shape == (2, 1, 4, 4)
    assert [len(target["boxes"]) for target in batch["target"]] == [0, 3]
    assert "target" not in collate_instances([{"image": torch.zeros(1)}])
