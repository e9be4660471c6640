# SPDX-License-Identifier: Apache-2.0
"""The fluorescence set's script, on a made-up tree and on the real images."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import check_datalist
from monai_ext.data.points_io import read_points

REAL = Path(os.environ.get("FRUGAL_DATA", "")) / "dsb2018_fluorescence"
SPLIT = Path(__file__).resolve().parents[2] / "scripts/splits/dsb2018_fluorescence.json"


def ring():
    """A C whose centre of mass is not in it, beside a block, on 12 rows and 30 columns."""
    numbers = np.zeros((12, 30), np.uint16)
    numbers[1:10, 2:11] = 300
    numbers[3:8, 4:11] = 0
    numbers[4:8, 20:26] = 7
    return numbers


@pytest.fixture
def source(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "source" / kind).mkdir(parents=True)
    for n, name in enumerate("abcd"):
        numbers = ring()[:, : 26 + 4 * (n != 3)]
        Image.fromarray(np.full(numbers.shape, 50 * n, np.uint8)).save(tmp_path / f"source/images/{name}.png")
        Image.fromarray(numbers).save(tmp_path / f"source/labels/{name}.png")
    split = {"training": {"f": ["a"]}, "validation": {"g": ["b"]}, "test": {"h": ["c", "d"]}, "diameter_px": {"f": 15}}
    (tmp_path / "split.json").write_text(json.dumps(split))
    return [str(tmp_path / "source"), "--split", str(tmp_path / "split.json"), "--out", str(tmp_path / "out")]


def read(path):
    return np.asarray(Image.open(path))


def test_points_masks_and_sections(script, source, tmp_path, capsys):
    script("prepare_dsb2018_fluorescence").main(source)
    out = tmp_path / "out"
    rows = check_datalist(out / "datalist.json", out)
    assert [(row.section, row.points) for row in rows] == [
        ("training", [(2, 2)]),
        ("validation", [(2, 2)]),
        ("test", [(2, 2), (2, 2)]),
    ]
    content = json.loads((out / "datalist.json").read_text())
    assert content["labels"] == {"0": "background", "1": "cell"}
    names = {"image": "images/a.png", "points": "points/a.json", "label": "labels/a.png"}
    assert content["training"] == [names | {"group": "f", "diameter_px": 15}]
    assert "diameter_px" not in content["test"][0]
    points = read_points(out / "points/a.json")
    assert (points.labels, points.space) == (("cell", "cell"), "voxel")
    assert points.positions[0].tolist() == [22.5, 5.5]  # columns 20 to 25, rows 4 to 7
    x, y = points.positions[1].astype(int)
    assert ring()[y, x] == 300
    np.testing.assert_array_equal(read(out / "labels/a.png"), ring())
    assert (out / "images/a.png").is_symlink()
    assert (out / "labels/a.png").is_symlink()
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[1:3]] == [
        ["12", "x", "26", "1", "2", "6.6"],
        ["12", "x", "30", "3", "6", "6.6"],
    ]


def test_no_validation_and_copy(script, source, tmp_path):
    script("prepare_dsb2018_fluorescence").main([*source, "--no_validation", "--copy"])
    content = json.loads((tmp_path / "out/datalist.json").read_text())
    assert ([e["group"] for e in content["training"]], "validation" in content) == (["f", "g"], False)
    assert not (tmp_path / "out/images/c.png").is_symlink()


def test_jitter_stays_near_and_inside_the_cell(script, source, tmp_path):
    def clicks(out, *options):
        script("prepare_dsb2018_fluorescence").main([*source, "--out", str(tmp_path / out), *options])
        return {name: read_points(tmp_path / out / f"points/{name}.json").positions for name in "abc"}

    exact, far, again, other = (
        clicks("exact"),
        clicks("far", "--jitter_px", "3"),
        clicks("again", "--jitter_px", "3"),
        clicks("other", "--jitter_px", "3", "--seed", "1"),
    )
    seen = set()
    for name in "abc":
        np.testing.assert_array_equal(far[name], again[name])
        assert (np.linalg.norm(far[name] - exact[name], axis=1) <= 3).all()
        x, y = far[name].astype(int).T
        assert ring()[y, x].tolist() == [7, 300]
        seen |= {tuple(map(tuple, clicked[name].tolist())) for clicked in (far, other)}
    assert len(seen) > 3  # other files and seeds, other errors
    with pytest.raises(SystemExit, match="--jitter_px: found -1, expected 0 or more"):
        clicks("bad", "--jitter_px", "-1")


def test_faults_get_a_sentence(script, source, tmp_path):
    run = script("prepare_dsb2018_fluorescence").main
    with pytest.raises(SystemExit, match="expected another folder"):
        run([*source, "--out", str(tmp_path / "source")])
    (tmp_path / "source/labels/b.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"b\.png: found a file that PIL cannot read .* expected a label map"):
        run(source)
    (tmp_path / "source/labels/b.png").unlink()
    with pytest.raises(SystemExit, match=r"b\.png: found no such file, expected it since .*split\.json names it"):
        run(source)
    (tmp_path / "split.json").write_text(json.dumps({"training": {"f": ["../../secret"]}}))
    with pytest.raises(SystemExit, match=r"goes up by '\.\.'"):
        run(source)


def test_the_committed_split_names_every_image_once():
    split = json.loads(SPLIT.read_text())
    sections = [split[section] for section in ("training", "validation", "test")]
    names = [name for groups in sections for images in groups.values() for name in images]
    assert len(names) == len(set(names)) == 77
    groups = [group for section in sections for group in section]
    assert len(groups) == len(set(groups)) == len(split["diameter_px"])
    assert set(split["diameter_px"].values()) <= {10, 15, 20, 30, 40}
    assert {"8175a55b711c948f", "9f073db4acd7e634"} <= set(split["training"])
    kinds = [{split["diameter_px"][group] for group in section} for section in sections]
    assert kinds[2] <= kinds[0]


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_set(script, tmp_path):
    """Groups as the manifest has them, one point in each nucleus, and glances that are right to a third."""
    script("prepare_dsb2018_fluorescence").main([str(REAL), "--out", str(tmp_path)])
    rows = check_datalist(tmp_path / "datalist.json", tmp_path)
    assert [row.entries for row in rows] == [47, 11, 19]
    assert sum(sum(row.instances) for row in rows) == 3088
    manifest = {row["file"]: row["field_group"] for row in csv.DictReader((REAL / "manifest.csv").open())}
    content = json.loads((tmp_path / "datalist.json").read_text())
    for entry in [entry for section in ("training", "validation", "test") for entry in content[section]]:
        assert manifest[Path(entry["image"]).name] == entry["group"]
        numbers = read(tmp_path / entry["label"])
        x, y = np.floor(read_points(tmp_path / entry["points"]).positions + 0.5).astype(int).T
        assert numbers[y, x].tolist() == np.unique(numbers[numbers > 0]).tolist()
        areas = np.unique(numbers[numbers > 0], return_counts=True)[1]
        assert 2 / 3 < entry["diameter_px"] / (2 * np.sqrt(np.median(areas) / np.pi)) < 3 / 2
