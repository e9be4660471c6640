# SPDX-License-Identifier: Apache-2.0
"""The files of instances that overlap, from pictures on the disk through MONAI's evaluator."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from monai_ext.handlers import ResultDetections
from monai_ext.handlers.result_pictures import CLASS_RGB
from monai_ext.inferers import DetectionInferer

NAMES = {"0": "background", "1": "cytoplasm", "2": "nucleus"}


class Cells(torch.nn.Module):
    """In each picture that is not dark: two cells that overlap, a nucleus in the first, and a doubtful one."""

    def instances(self, image):
        height, width = image.shape[2:]
        masks = torch.zeros(4, height, width, dtype=torch.bool)
        # Columns first, as MONAI reads pictures.
        masks[0, 0:4, 0:3], masks[1, 2:6, 1:4], masks[2, 1:3, 1:2], masks[3, 0:1, 0:1] = True, True, True, True
        found = {
            "boxes": torch.tensor([[0.0, 0, 3, 4], [1, 2, 4, 6], [1, 1, 2, 3], [0, 0, 1, 1]]),
            "labels": torch.tensor([1, 1, 2, 2]),
            "scores": torch.tensor([0.9, 0.8, 0.5, 0.4]),
            "pasted": masks,
        }
        return found if image.any() else {name: value[:0] for name, value in found.items()}


@pytest.fixture
def evaluate(tmp_path, evaluator_of):
    """Runs the handler over pictures; returns the output folder."""

    def run(pictures, runs=1, **options):
        evaluator = evaluator_of(pictures, Cells(), inferer=DetectionInferer(), decollate=False)
        options = {"labels": NAMES, "data_root_dir": tmp_path / "data", **options}
        ResultDetections(tmp_path / "out", **options).attach(evaluator)
        for _ in range(runs):
            evaluator.run()
        return tmp_path / "out"

    return run


def grey(value=100):
    return np.full((5, 8), value, np.uint8)


def test_every_form_holds_the_same_instances_overlaps_included(evaluate):
    out = evaluate({"slide/a.png": grey()})
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {"slide/a.geojson", "slide/a_overlay.png", "instances.coco.json", "instances.csv"}
    coco = json.loads((out / "instances.coco.json").read_text())
    assert coco["categories"] == [{"id": 1, "name": "cytoplasm"}, {"id": 2, "name": "nucleus"}]
    assert [(one["category_id"], one["score"]) for one in coco["annotations"]] == [(1, 0.9), (1, 0.8), (2, 0.5)]
    masks = [coco_mask.decode(one["segmentation"]).astype(bool) for one in coco["annotations"]]
    assert [mask.shape for mask in masks] == [(5, 8)] * 3
    assert masks[0][0:3, 0:4].all()
    assert masks[1][1:4, 2:6].all()
    assert [int(mask.sum()) for mask in masks] == [12, 12, 2]
    assert (masks[0] & masks[1]).sum() == 4
    features = json.loads((out / "slide/a.geojson").read_text())["features"]
    assert [one["properties"]["classification"]["name"] for one in features] == ["cytoplasm", "cytoplasm", "nucleus"]
    assert [one["properties"]["measurements"]["Area px"] for one in features] == [12, 12, 2]
    corners = {tuple(corner) for corner in features[1]["geometry"]["coordinates"][0]}
    assert {(2, 1), (6, 1), (6, 4), (2, 4)} <= corners


def test_the_overlay_outlines_each_class_in_its_colour(evaluate):
    overlay = np.asarray(Image.open(evaluate({"a.png": grey()}) / "a_overlay.png"))
    assert overlay.shape == (5, 8, 3)
    assert tuple(overlay[3, 5]) == tuple(CLASS_RGB[1])
    assert tuple(overlay[1, 1]) == tuple(overlay[1, 2]) == tuple(CLASS_RGB[2])
    assert len({tuple(overlay[4, column]) for column in range(8)}) == 1


def test_table_by_hand(evaluate):
    out = evaluate({"a.png": grey(), "b.png": grey(0), "c.png": grey(50)}, score_floor=0.3)
    rows = list(csv.DictReader((out / "instances.csv").open()))
    assert [row["image"] for row in rows] == ["a", "b", "c", "all"]
    assert [row["cytoplasm"] for row in rows] == ["2", "0", "2", "4"]
    assert [row["nucleus"] for row in rows] == ["2", "0", "2", "4"]
    assert [row["cytoplasm, mean area (px)"] for row in rows] == ["12.0", "", "12.0", "12.0"]
    assert [row["nucleus, mean area (px)"] for row in rows] == ["1.5", "", "1.5", "1.5"]


def test_a_picture_without_any_instance(evaluate):
    out = evaluate({"a.png": grey(0)}, overlays=False)
    assert json.loads((out / "a.geojson").read_text())["features"] == []
    coco = json.loads((out / "instances.coco.json").read_text())
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    assert not (out / "a_overlay.png").exists()


def test_a_second_run_begins_anew(evaluate):
    texts = [(evaluate({"a.png": grey()}, runs=runs) / "instances.coco.json").read_text() for runs in (1, 2)]
    assert texts[0] == texts[1]
