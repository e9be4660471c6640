# SPDX-License-Identifier: Apache-2.0
"""The histology set's script, on a made-up tree and on the real images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import check_datalist

REAL = Path(os.environ.get("FRUGAL_DATA", "")) / "dsb2018_histology"


@pytest.fixture
def source(tmp_path):
    """Three pictures of two nuclei, one cut off by the border, and a split of them."""
    instances = np.zeros((12, 20), np.uint16)
    instances[2:9, 2:9], instances[5:12, 12:20] = 300, 7
    for kind in ("images", "labels"):
        (tmp_path / "source" / kind).mkdir(parents=True)
    for n, name in enumerate("abc"):
        Image.fromarray(np.full((12, 20, 3), 50 * n, np.uint8)).save(tmp_path / f"source/images/{name}.png")
        Image.fromarray(instances).save(tmp_path / f"source/labels/{name}.png")
    split = {"training": {"f": ["a"]}, "validation": {"g": ["b"]}, "test": {"h": ["c"]}}
    (tmp_path / "split.json").write_text(json.dumps(split))
    return [str(tmp_path / "source"), "--split", str(tmp_path / "split.json"), "--out", str(tmp_path / "out")]


def read(path):
    return np.asarray(Image.open(path))


def test_masks_and_sections(script, source, tmp_path, capsys):
    script("prepare_dsb2018_histology").main(source)
    out = tmp_path / "out"
    assert [row.section for row in check_datalist(out / "datalist.json", out)] == ["training", "validation", "test"]
    content = json.loads((out / "datalist.json").read_text())
    assert content["test"] == [{"image": "images/c.png", "group": "h", "label": "labels/c.png"}]
    np.testing.assert_array_equal(read(out / "labels/c.png"), read(tmp_path / "source/labels/c.png") > 0)
    assert (out / "images/c.png").is_symlink()
    assert "training" in capsys.readouterr().out
    script("prepare_dsb2018_histology").main([*source, "--no_validation", "--copy"])
    content = json.loads((out / "datalist.json").read_text())
    assert ([e["group"] for e in content["training"]], "validation" in content) == (["f", "g"], False)
    assert not (out / "images/c.png").is_symlink()


def test_rim_is_the_outermost_two_pixels_but_not_at_the_border(script, source, tmp_path):
    script("prepare_dsb2018_histology").main([*source, "--rim"])
    mask = read(tmp_path / "out/labels/a.png")
    assert json.loads((tmp_path / "out/datalist.json").read_text())["labels"]["2"] == "rim"
    assert (mask[2:9, 2:9] == 1).sum() == 9
    assert (mask[4:7, 4:7] == 1).all()
    assert (mask[7:, 14:] == 1).all()
    assert (mask[5:7, 12:] == 2).all()


def test_label_maps_of_nuclei(script, source, tmp_path):
    script("prepare_dsb2018_histology").main([*source, "--instances"])
    out = tmp_path / "out"
    content = json.loads((out / "datalist.json").read_text())
    assert content["labels"] == {"0": "background", "1": "nucleus"}
    assert [row.instances for row in check_datalist(out / "datalist.json", out)] == [[2], [2], [2]]
    for section, name in (("training", "a"), ("test", "c")):
        assert content[section][0]["label"] == f"labels/{name}.png"
        np.testing.assert_array_equal(read(out / f"labels/{name}.png"), read(tmp_path / f"source/labels/{name}.png"))
    points = json.loads((out / content["training"][0]["points"]).read_text())["points"]
    assert [point["position"] for point in points] == [[15.5, 8.0], [5.0, 5.0]]
    with pytest.raises(SystemExit):
        script("prepare_dsb2018_histology").main([*source, "--instances", "--rim"])


def test_a_missing_image_gets_a_sentence(script, source, tmp_path):
    (tmp_path / "source/labels/b.png").unlink()
    with pytest.raises(SystemExit, match=r"b\.png: found no such image or no mask of it"):
        script("prepare_dsb2018_histology").main(source)


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_set(script, tmp_path):
    """All 54 images once, groups apart, and rims equal to the masks that came with the set."""
    script("prepare_dsb2018_histology").main([str(REAL), "--rim", "--out", str(tmp_path)])
    rows = check_datalist(tmp_path / "datalist.json", tmp_path, classes=3)
    assert [row.entries for row in rows] == [32, 8, 14]
    names = {path.name for path in (REAL / "images").glob("*.png")}
    assert {path.name for path in (tmp_path / "labels").glob("*.png")} == names
    for name in names:
        np.testing.assert_array_equal(read(tmp_path / "labels" / name), read(REAL / "semantic" / name))


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_label_maps(script, tmp_path):
    """Each nucleus once, and none lost."""
    script("prepare_dsb2018_histology").main([str(REAL), "--instances", "--out", str(tmp_path)])
    rows = check_datalist(tmp_path / "datalist.json", tmp_path)
    assert [row.entries for row in rows] == [32, 8, 14]
    names = sorted(path.name for path in (REAL / "images").glob("*.png"))
    counts = [len(np.unique(read(REAL / "labels" / name))) - 1 for name in names]
    assert sorted(count for row in rows for count in row.instances) == sorted(counts)
