# SPDX-License-Identifier: Apache-2.0
"""The baseline without learning, on discs that it cannot miss."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

CENTRES = ((15, 20), (30, 20), (60, 70), (20, 75))
"""Rows and columns; the first two discs touch."""


@pytest.fixture
def discs(tmp_path):
    rows, columns = np.mgrid[:90, :100]
    label = np.zeros((90, 100), dtype=np.uint16)
    for number, (row, column) in enumerate(CENTRES, start=1):
        label[(np.hypot(rows - row, columns - column) < 8) & (label == 0)] = number
    picture = np.where(label > 0, 180, 20) + np.random.default_rng(0).normal(0, 3, label.shape)
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "picture.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    entry = {"image": "picture.png", "label": "label.png"}
    content = {"labels": {"0": "background", "1": "cell"}, "test": [entry]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("points", ["given", "detected"])
@pytest.mark.parametrize("cut", ["watershed", "voronoi"])
def test_bright_discs_are_found_and_parted(script, discs, capsys, points, cut):
    script("watershed_cells").main([str(discs), "--points", points, "--cut", cut])
    found = json.loads(capsys.readouterr().out)
    assert (found["points"], found["cut"]) == (points, cut)
    assert found["ap50"] == 1
    assert found["dice"] > 0.95


@pytest.mark.parametrize("by", ["watershed", "voronoi"])
def test_nothing_to_part(script, by):
    cut = script("watershed_cells").cut
    assert not cut(np.full((5, 6), 7), np.array([[1.0, 1.0]]), by=by).any()
    assert not cut(np.eye(5), np.zeros((0, 2)), by=by).any()


def test_pixels_go_to_the_nearest_point(script):
    row = np.zeros((3, 9))
    row[1, 1:8] = 1
    cells = script("watershed_cells").cut(row, np.array([[1.0, 2.0], [1.0, 7.0]]), by="voronoi")
    assert cells[1].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 0]
