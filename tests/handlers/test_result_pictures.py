# SPDX-License-Identifier: Apache-2.0
"""The files that somebody opens, from pictures on the disk through MONAI's evaluator."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_ext.handlers import ResultPictures
from monai_ext.handlers.result_pictures import CLASS_RGB, colour_of, palette_png, tint

LABELS = {"0": "background", "1": "membrane", "2": "nucleus"}


class ByChannel(torch.nn.Module):
    """Class numbers: 1 where red, 2 where green, else 0."""

    def forward(self, image):
        return (image[:, :1] > 128) + 2.0 * (image[:, 1:2] > 128)


def picture():
    """5 rows and 8 columns: a red square, a green row, black around."""
    rgb = np.zeros((5, 8, 3), np.uint8)
    rgb[0:3, 1:4, 0], rgb[4, :, 1] = 255, 255
    classes = np.zeros((5, 8), np.uint8)
    classes[0:3, 1:4], classes[4] = 1, 2
    return rgb, classes


@pytest.fixture
def evaluate(tmp_path, evaluator_of):
    """Runs the handler over pictures; returns the output folder."""

    def run(pictures, **options):
        evaluator = evaluator_of(pictures, ByChannel(), postprocessing=Compose([lambda data: data]))
        options = {"labels": LABELS, "data_root_dir": tmp_path / "data", **options}
        ResultPictures(tmp_path / "out", **options).attach(evaluator)
        evaluator.run()
        return tmp_path / "out"

    return run


def test_masks_lie_as_the_pictures_do_and_can_be_read_again(evaluate):
    rgb, classes = picture()
    out = evaluate({"slide-1/a.png": rgb, "slide-2/a.png": rgb[:, ::-1]})
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*_seg.png")) == ["slide-1/a_seg.png", "slide-2/a_seg.png"]
    mask = Image.open(out / "slide-1/a_seg.png")
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), classes)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB"))[4, 0], CLASS_RGB[2])
    np.testing.assert_array_equal(np.asarray(Image.open(out / "slide-2/a_seg.png")), classes[:, ::-1])
    label = LoadImaged("label")({"label": str(out / "slide-1/a_seg.png")})["label"]
    np.testing.assert_array_equal(label.numpy(), classes.T)


def test_areas_by_hand(evaluate):
    rgb, _ = picture()
    out = evaluate({"a.png": rgb, "b.png": np.zeros((5, 4, 3), np.uint8)})
    rows = list(csv.DictReader((out / "areas.csv").open()))
    assert [row["image"] for row in rows] == ["a", "b", "all"]
    assert [row["pixels"] for row in rows] == ["40", "20", "60"]
    assert [float(row["membrane (%)"]) for row in rows] == [22.5, 0, 15]
    assert [int(row["nucleus (px)"]) for row in rows] == [8, 0, 8]


def test_overlay_tints_and_outlines(evaluate):
    rgb, classes = picture()
    drawn = tint(rgb, classes)
    assert (drawn[classes == 0] == 0).all()
    np.testing.assert_array_equal(drawn[2, 1], CLASS_RGB[1])  # a corner is outline
    np.testing.assert_array_equal(drawn[1, 2], np.round(0.7 * rgb[1, 2] + 0.3 * np.array(CLASS_RGB[1])))
    assert (rgb == picture()[0]).all()
    out = evaluate({"a.png": rgb})
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a_overlay.png")), drawn)
    (out / "a_overlay.png").unlink()
    assert not (evaluate({"a.png": rgb}, overlays=False) / "a_overlay.png").exists()


def test_every_class_number_has_a_colour():
    assert colour_of(0) == CLASS_RGB[0]
    assert colour_of(255) in CLASS_RGB[1:]
    assert len({colour_of(value) for value in range(len(CLASS_RGB))}) == len(CLASS_RGB)
    assert palette_png(np.arange(256, dtype=np.uint8).reshape(16, 16))[:4] == b"\x89PNG"
