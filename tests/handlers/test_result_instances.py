# SPDX-License-Identifier: Apache-2.0
"""The files that somebody opens, from pictures on the disk through MONAI's evaluator."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_ext.data.cell_phantom import cell_picture
from monai_ext.data.coco import CocoReader
from monai_ext.handlers import ResultInstances
from monai_ext.handlers.result_instances import label_map_file, neighbour_colours, outline, shown


class Numbers(torch.nn.Module):
    """Instances by brightness: pixels of 50, 100, 150 are cells 1, 2 and 3 with scores 0.5, 0.25 and 1."""

    def forward(self, image):
        numbers = torch.round(image[:, :1] / 50)
        return torch.cat([numbers, torch.tensor([0.0, 0.5, 0.25, 1.0])[numbers.long()]], dim=1)


def picture():
    """5 rows and 8 columns: two cells side by side, and one in a corner."""
    grey = np.zeros((5, 8), np.uint8)
    grey[0:3, 1:4], grey[0:2, 4:6], grey[4, 7] = 50, 100, 150
    return grey, grey // 50


@pytest.fixture
def evaluate(tmp_path, evaluator_of):
    """Runs the handler over pictures; returns the output folder."""

    def run(pictures, network=None, runs=1, **options):
        evaluator = evaluator_of(pictures, network or Numbers(), postprocessing=Compose([lambda data: data]))
        options = {"labels": {"0": "background", "1": "yeast"}, "data_root_dir": tmp_path / "data", **options}
        ResultInstances(tmp_path / "out", **options).attach(evaluator)
        for _ in range(runs):
            evaluator.run()
        return tmp_path / "out"

    return run


def test_every_form_holds_the_same_instances_as_the_picture_lies(evaluate):
    grey, labels = picture()
    out = evaluate({"well-1/a.png": grey, "well-2/a.png": grey[:, ::-1]})
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    each = {f"well-{n}/a{end}" for n in (1, 2) for end in ("_cells.png", ".geojson", "_overlay.png")}
    assert written == each | {"cells.coco.json", "cells.csv"}
    for name, expected in (("well-1/a", labels), ("well-2/a", labels[:, ::-1])):
        cells = Image.open(out / f"{name}_cells.png")
        assert cells.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(cells), expected)
        coco = CocoReader(out / "cells.coco.json")
        np.testing.assert_array_equal(coco.label_map(f"{name}.png"), expected)
        assert [annotation["score"] for annotation in coco.annotations(f"{name}.png")] == [0.5, 0.25, 1]
    features = json.loads((out / "well-1/a.geojson").read_text())["features"]
    assert features[1]["geometry"]["coordinates"] == [[[4, 0], [6, 0], [6, 2], [4, 2], [4, 0]]]
    assert features[1]["properties"]["classification"] == {"name": "yeast"}
    assert features[1]["properties"]["measurements"] == {"Number": 2, "Area px": 4, "Score": 0.25}
    assert json.loads((out / "cells.coco.json").read_text())["categories"] == [{"id": 1, "name": "yeast"}]
    again = LoadImaged("label")({"label": str(out / "well-1/a_cells.png")})["label"]
    np.testing.assert_array_equal(again.numpy(), labels.T)


def test_table_by_hand(evaluate):
    grey, _ = picture()
    out = evaluate({"a.png": grey, "b.png": np.zeros((5, 4), np.uint8), "c.png": np.full((2, 2), 50, np.uint8)})
    rows = list(csv.DictReader((out / "cells.csv").open()))
    assert [row["image"] for row in rows] == ["a", "b", "c", "all"]
    assert [row["cells"] for row in rows] == ["3", "0", "1", "4"]
    assert [row["mean area (px)"] for row in rows] == ["4.67", "", "4.0", "4.5"]
    assert [row["median area (px)"] for row in rows] == ["4.0", "", "4.0", "4.0"]
    assert [row["covered (%)"] for row in rows] == ["35.0", "0.0", "100.0", "28.125"]
    assert [row["mean score"] for row in rows] == ["0.5833", "", "0.5", "0.5625"]


def test_pictures_without_any_cell(evaluate):
    out = evaluate({"a.png": np.zeros((5, 4), np.uint8)})
    assert not np.asarray(Image.open(out / "a_cells.png")).any()
    assert json.loads((out / "a.geojson").read_text())["features"] == []
    coco = json.loads((out / "cells.coco.json").read_text())
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    assert not np.asarray(Image.open(out / "a_overlay.png")).any()


def test_overlays_can_be_left_out(evaluate):
    assert not list(evaluate({"a.png": picture()[0]}, overlays=False).glob("*_overlay.png"))


def test_a_second_run_begins_anew(evaluate):
    tables = [(evaluate({"a.png": picture()[0]}, runs=runs) / "cells.csv").read_text() for runs in (1, 2)]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 3


def test_a_result_of_another_size_than_its_picture_is_told(evaluate):
    with pytest.raises(ValueError, match=r"a\.png: the result has \(4, 2\) pixels, expected \(8, 5\)"):
        evaluate({"a.png": picture()[0]}, network=torch.nn.MaxPool2d(2))


def test_numbers_beyond_16_bits_are_a_tiff():
    labels = np.array([[0, 65535], [1, 70000]], dtype=np.int32)
    assert label_map_file(labels[:1])[1] == ".png"
    content, suffix = label_map_file(labels)
    assert suffix == ".tif"
    assert content[:2] == b"II"


def test_a_32_bit_label_map_is_read_by_monai(tmp_path):
    labels = np.array([[0, 65535, 5], [1, 70000, 5]], dtype=np.int32)
    (tmp_path / "a.tif").write_bytes(label_map_file(labels)[0])
    np.testing.assert_array_equal(LoadImaged("a")({"a": str(tmp_path / "a.tif")})["a"].numpy(), labels.T)


def test_colour_pictures_are_shown_as_they_are_and_all_others_from_dark_to_bright():
    rng = np.random.default_rng(0)
    colour = rng.integers(20, 60, (9, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(shown(colour), colour)
    np.testing.assert_array_equal(shown(np.concatenate([colour, colour[..., :1]], -1)), colour)
    for grey in (colour[..., :1], colour[..., :2], colour[..., [0, 0, 0]], 1000 * colour[..., :1], 100 * colour):
        drawn = shown(grey)
        assert (drawn.shape, drawn.dtype) == ((9, 9, 3), np.uint8)
        assert (drawn.min(), drawn.max()) == (0, 255)
    assert (shown(colour[..., :1]) == shown(colour[..., :2])).all()
    assert not shown(np.full((4, 4, 1), 7.0)).any()


def test_outlines_lie_within_and_leave_the_rest():
    _, labels = picture()
    grey = np.full((5, 8, 3), 77, np.uint8)
    drawn = outline(grey, labels.astype(np.int32))
    changed = (drawn != grey).any(-1)
    assert not changed[labels == 0].any()
    assert not changed[1, 2]  # the middle of a cell
    assert changed[0, 3]
    assert changed[0, 4]
    assert (drawn[0, 3] != drawn[0, 4]).any()
    assert (grey == 77).all()


def test_cells_near_each_other_have_different_colours():
    for labels in (
        cell_picture(128, rng=np.random.default_rng(0))[1].astype(np.int32),
        (np.arange(400).reshape(20, 20) * 7 + 3).astype(np.int32),
    ):
        colours = neighbour_colours(labels)
        assert ((colours > 0) == (labels > 0)).all()
        for number in np.unique(labels[labels > 0]):
            assert len(np.unique(colours[labels == number])) == 1
        for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            meet = (labels[a] != labels[b]) & (labels[a] > 0) & (labels[b] > 0)
            assert meet.any()
            assert (colours[a] != colours[b])[meet].all()
        assert set(np.unique(colours[colours > 0])) == {1, 2, 3, 4, 5, 6}
    assert not neighbour_colours(np.zeros((3, 3), np.int32)).any()
