# SPDX-License-Identifier: Apache-2.0
"""COCO files, with pycocotools as the reader that everybody has."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import gaussian_filter, label

from monai_ext.data.coco import CocoReader, CocoWriter, run_lengths
from monai_ext.data.coco_faults import check_coco
from monai_ext.data.errors import DataFault
from monai_ext.functional.outlines import cutouts_of_labels, cutouts_of_masks

SHAPE = (23, 31)


def blobs(seed=0, shape=SHAPE):
    """A label map with holes, with parts of one pixel, and with cells at all borders."""
    return label(gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1) > 0.03)[0]


def overlapping():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return [np.hypot(rows - y, columns - x) < 6 for y, x in ((8, 8), (11, 12), (22, 30))]


def read_by_pycocotools(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("as_polygons", [False, True])
def test_pycocotools_reads_the_same_pixels(tmp_path, as_polygons):
    writer, maps = CocoWriter({1: "cell"}, as_polygons=as_polygons), {"a.png": blobs(1), "sub/b.png": blobs(2)}
    for name, labels in maps.items():
        writer.add(name, cutouts_of_labels(labels), shape=labels.shape)
    writer.write(tmp_path / "new" / "cells.json")
    coco = read_by_pycocotools(tmp_path / "new" / "cells.json")
    assert [(i["file_name"], i["height"], i["width"]) for i in coco.loadImgs([1, 2])] == [
        ("a.png", *SHAPE),
        ("sub/b.png", *SHAPE),
    ]
    assert [category["name"] for category in coco.loadCats([1])] == ["cell"]
    assert len(coco.anns) == sum(labels.max() for labels in maps.values())
    kinds = set()
    for image_id, labels in zip((1, 2), maps.values(), strict=True):
        again = np.zeros_like(labels)
        for number, annotation in enumerate(coco.imgToAnns[image_id], start=1):
            mask = coco.annToMask(annotation)
            again[mask > 0] = number
            run = coco_mask.encode(np.asfortranarray(mask))
            assert annotation["area"] == coco_mask.area(run)
            assert annotation["bbox"] == coco_mask.toBbox(run).tolist()
            assert annotation["iscrowd"] == 0
            assert "score" not in annotation
            kinds.add(type(annotation["segmentation"]))
        np.testing.assert_array_equal(again, labels)
    assert kinds == ({dict, list} if as_polygons else {dict})  # a hole needs run lengths
    names = {"a.png": {SHAPE[::-1]}, "b.png": {SHAPE[::-1]}}
    counts = check_coco(str(tmp_path / "new" / "cells.json"), names)
    assert counts == {one["file_name"]: len(coco.imgToAnns[number]) for number, one in coco.imgs.items()}


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 9, 2)) < rng.random() for _ in range(100)] + [np.ones((3, 4))]
    for mask in masks:
        expected = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        for cutout in cutouts_of_masks([mask]):
            assert run_lengths(cutout, shape=mask.shape) == {
                "size": list(mask.shape),
                "counts": expected["counts"].decode(),
            }


def test_masks_that_overlap_come_back_with_scores(tmp_path):
    writer = CocoWriter({1: "cytoplasm", 2: "nucleus"})
    writer.add("a.png", cutouts_of_masks(overlapping(), scores=[0.9, 0.25, 1 / 3]), shape=SHAPE)
    writer.add("a.png", cutouts_of_masks([np.eye(*SHAPE)]), shape=SHAPE, category_id=2)
    writer.write(tmp_path / "c.json")
    reader = CocoReader(tmp_path / "c.json")
    np.testing.assert_array_equal(list(reader.masks("a.png")), [*overlapping(), np.eye(*SHAPE) > 0])
    annotations = reader.annotations("elsewhere/a.png")
    assert [a.get("score") for a in annotations] == [0.9, 0.25, 0.333333, None]
    assert [a["category_id"] for a in annotations] == [1, 1, 1, 2]
    assert [a["id"] for a in annotations] == [1, 2, 3, 4]
    labels = reader.label_map("a.png")
    assert (labels[overlapping()[0]] == 1).all()  # the best score keeps its pixels
    assert (labels[(labels == 2)] == 2).any()
    assert not list(tmp_path.glob("*.tmp"))


def file_with(tmp_path, segmentations, **extra):
    images = [{"id": 7, "file_name": "a.png", "width": 8, "height": 6}]
    annotations = [
        {"id": n, "image_id": 7, "category_id": 1, "segmentation": one, **extra}
        for n, one in enumerate(segmentations, start=1)
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path / "c.json"


def test_labels_from_polygons_and_both_kinds_of_run_lengths(tmp_path):
    square, parts = [[1, 1, 5, 1, 5, 5, 1, 5]], [[0, 0, 1, 0, 1, 1, 0, 1], [6, 4, 8, 4, 8, 6, 6, 6]]
    runs = {"size": [6, 8], "counts": [14, 2, 32]}
    packed = coco_mask.frPyObjects(runs, 6, 8)
    path = file_with(tmp_path, [square, parts, runs, {"size": [6, 8], "counts": packed["counts"].decode()}, []])
    masks = list(CocoReader(path).masks("a.png"))
    expected = np.zeros((5, 6, 8), dtype=bool)
    expected[0, 1:5, 1:5], expected[1, 0, 0], expected[1, 4:, 6:], expected[2:4, 2:4, 2] = True, True, True, True
    np.testing.assert_array_equal(masks, expected)
    labels = CocoReader(path).label_map("a.png")
    assert labels.dtype == np.int32
    assert (labels[2:4, 2] == 3).all()  # the smaller one lies on top, of equal ones the earlier
    assert (labels == 1).sum() == 14
    assert (labels == 2).sum() == 5


def test_groups_are_no_instances(tmp_path):
    path = file_with(tmp_path, [[[0, 0, 2, 0, 2, 2]]], iscrowd=1)
    assert list(CocoReader(path).masks("a.png")) == []
    assert not CocoReader(path).label_map("a.png").any()


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ([[1, 1, 3, 3]], "annotation 1 cannot be drawn \\(a polygon of 4 numbers\\)"),
        ([[1, 1, 3, 3, 5, 1], [1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ({"size": [8, 6], "counts": [48]}, "run lengths for \\[8, 6\\]"),
        ({"size": [6, 8], "counts": [40]}, "run lengths of 40 pixels"),
        ({"size": [6, 8], "counts": [50, -2]}, "run lengths of 48 pixels"),
        ({"size": [6, 8], "counts": "0000a1"}, "annotation 1 cannot be drawn"),
        ({"size": [6, 8]}, "annotation 1 cannot be drawn"),
        ([5], "annotation 1 cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_told(tmp_path, segmentation, sentence):
    with pytest.raises(DataFault, match=sentence):
        list(CocoReader(file_with(tmp_path, [segmentation])).masks("a.png"))


def test_faulty_files_are_told(tmp_path):
    with pytest.raises(DataFault, match="cannot be read"):
        CocoReader(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataFault, match="expected a COCO JSON"):
        CocoReader(tmp_path / "list.json")
    path = file_with(tmp_path, [[]], image_id=3)
    with pytest.raises(DataFault, match="KeyError 3"):
        CocoReader(path)
    reader = CocoReader(file_with(tmp_path, []))
    with pytest.raises(DataFault, match=r"0 of its images are named b\.png"):
        reader.annotations("b.png")
    assert not reader.label_map("a.png").any()
