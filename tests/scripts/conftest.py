# SPDX-License-Identifier: Apache-2.0
"""What the tests of the ``prepare_*.py`` scripts share."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data.points_io import read_points


@pytest.fixture
def script(monkeypatch):
    """Import a script the way Python does that runs it: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    return importlib.import_module


@pytest.fixture
def check_set():
    """Return the data list of a prepared folder after checking what holds for all: files, values, groups and clicks."""

    def check(out):
        datalist = json.loads((out / "datalist.json").read_text())
        assert set(datalist["labels"]) == {"0", "1"}
        sections = ("training", "validation", "test")
        groups = [group for section in sections for group in {item["group"] for item in datalist[section]}]
        assert len(groups) == len(set(groups))
        for section in sections:
            for item in datalist[section]:
                image, label = nib.load(out / item["image"]), nib.load(out / item["label"])
                mask = np.asarray(label.dataobj)
                assert image.shape == mask.shape
                assert np.allclose(image.affine, label.affine)
                assert set(np.unique(mask)) == {0, 1}
                assert ("points" in item) == (section == "training")
                if "points" in item:
                    points = read_points(out / item["points"])
                    assert {"F", "L", "R", "A", "P", "I", "S"} <= set(points.labels)
                    for name, position in zip(points.labels, points.positions.astype(int), strict=True):
                        assert mask[tuple(position)] == name.startswith("F")
        return datalist

    return check
