# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_ext.data.check import format_table


@pytest.fixture
def tiles(data):
    """One colour tile, 40 wide and 30 high, with a 16-bit instance map, points and a COCO file."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(data.folder / "t.png")
    instances = np.zeros((30, 40), np.uint16)
    instances[2:5, 3:9], instances[20:25, 30:39] = 300, 7
    Image.fromarray(instances).save(data.folder / "t_map.png")
    tifffile.imwrite(data.folder / "t_map.tif", instances)
    (data.folder / "t.csv").write_text("label,x,y\ncell,39,29\ncell,0,0\n")
    data.coco = {
        "images": [{"id": 1, "file_name": "t.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 40, 0, 40, 30]]},
            {"id": 6, "image_id": 1, "category_id": 1, "segmentation": {"size": [30, 40], "counts": "x"}},
        ],
    }
    data.content = {
        "labels": {"0": "background", "1": "nucleus"},
        "annotations": "coco.json",
        "training": [{"image": "t.png", "label": "t_map.png", "points": "t.csv"}],
    }
    data.write_coco = lambda: (data.folder / "coco.json").write_text(json.dumps(data.coco))
    data.write_coco()
    return data


@pytest.mark.parametrize("label", ["t_map.png", "t_map.tif"])
def test_instance_maps(tiles, label):
    tiles.content["training"][0]["label"] = label
    (row,) = tiles.check(None)
    assert (row.shapes, row.instances, row.points, row.annotations) == ([(40, 30)], [2], [(2, 2)], 2)
    assert "2 instances, 2 annotations" in format_table([row])
    tiles.assert_refused("(training)", "1 labels of 16 bits", "class numbers in 8 bits", needs=None, classes=2)


def test_8_bit_masks_are_held_to_the_labels(tiles):
    mask = np.zeros((30, 40), np.uint8)
    mask[3:6, 3:7] = 1
    Image.fromarray(mask).save(tiles.folder / "t_map.png")
    (row,) = tiles.check(None)
    assert row.label_volumes == {"nucleus": [12.0]}
    assert "nucleus 12 px" in format_table([row])
    Image.fromarray(mask * 0).save(tiles.folder / "empty.png")
    tiles.content["training"].append({"image": "t.png", "label": "empty.png"})
    (row,) = tiles.check(None)  # a tile may show nothing
    assert (row.entries, row.label_volumes) == (2, {"nucleus": [12.0]})
    del tiles.content["training"][0]
    tiles.assert_refused("(training)", "all of its 1 masks are empty", needs=None)
    tiles.content["training"] = [{"image": "t.png", "label": "t_map.png"}]
    Image.fromarray(mask * 255).save(tiles.folder / "t_map.png")
    tiles.assert_refused("t_map.png (label)", "the values 255", needs=None)
    Image.fromarray(np.stack([mask] * 3, -1)).save(tiles.folder / "t_map.png")
    tiles.assert_refused("t_map.png (label)", "3 channels", needs=None)


def test_2d_points_outside(tiles):
    (tiles.folder / "t.csv").write_text("x,y\n10,30\n")  # in a square of 40, but below the picture
    tiles.assert_refused("t.csv (points)", "inside the image of shape (40, 30)", needs=None)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"segmentation": [[1, 1, 41, 1, 5, 5]]}, ["annotation 5", "vertex at [41.0, 1.0]", "t.png of 40 x 30"]),
        ({"segmentation": [[1, 1, 5, 35, 5, 5]]}, ["vertex at [5.0, 35.0]"]),
        ({"segmentation": [[1, 1, 5, 5, -1, 5]]}, ["vertex at [-1.0, 5.0]"]),
        ({"segmentation": [[1, 1, 5, 5]]}, ["a polygon of 4 numbers"]),
        ({"segmentation": [[1, 1, 5, float("nan"), 5, 5]]}, ["vertex at [5.0, nan]"]),
        ({"segmentation": [[1, 1, 5, "five", 5, 5]]}, ["ValueError"]),
        ({"image_id": 9}, ["is on image 9"]),
    ],
)
def test_coco_polygons(tiles, change, parts):
    tiles.coco["annotations"][0].update(change)
    tiles.write_coco()
    tiles.assert_refused("coco.json (annotations)", *parts, needs=None)
    tiles.check({"training": ["image"]})


def test_coco_size_is_the_picture_s(tiles):
    tiles.coco["images"][0].update(width=30, height=40)
    tiles.write_coco()
    tiles.assert_refused("coco.json (annotations)", "said to be 30 x 40", "40 x 30 pixels", needs=None)


def test_coco_missing_or_malformed(tiles):
    (tiles.folder / "coco.json").write_text("[]")
    tiles.assert_refused("coco.json (annotations)", "TypeError", needs=None)
    (tiles.folder / "coco.json").write_text("{")
    tiles.assert_refused("coco.json (annotations)", "cannot be read", needs=None)
    (tiles.folder / "coco.json").unlink()
    tiles.assert_refused("coco.json (annotations)", "no such file", needs=None)
    del tiles.content["annotations"]
    tiles.check(None)
    tiles.assert_refused("list.json (annotations)", "'training' needs it", needs={"training": ["image", "annotations"]})


def test_coco_categories_are_the_datalist_s(tiles):
    tiles.coco["categories"] = [{"id": 4, "name": "debris"}]
    tiles.coco["annotations"][1]["category_id"] = 4
    tiles.write_coco()
    tiles.assert_refused(
        "coco.json (annotations)", "annotation 6 is of category 4 ('debris')", "labels, [1]", needs=None
    )
    tiles.content["labels"]["4"] = "debris"
    assert tiles.check(None)[0].annotations == 2


def test_coco_annotations_belong_to_the_sections_that_need_them(tiles):
    needs = {"training": ["image", "annotations"]}
    assert tiles.check(needs)[0].annotations == 2
    tiles.coco["images"].append({"id": 2, "file_name": "u.png", "width": 40, "height": 30})
    for annotation in tiles.coco["annotations"]:
        annotation["image_id"] = 2
    tiles.write_coco()
    tiles.assert_refused("list.json (training)", "none of its 1 images has an annotation in coco.json", needs=needs)
    assert tiles.check(None)[0].annotations == 0
    tiles.coco["images"] = tiles.coco["images"][1:]
    tiles.write_coco()
    tiles.assert_refused("coco.json (annotations)", "names no image t.png", "each of 'training'", needs=needs)
