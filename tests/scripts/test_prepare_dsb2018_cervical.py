# SPDX-License-Identifier: Apache-2.0
"""The cervical set's script, on a made-up tree and on the real fields."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import check_datalist
from monai_ext.data.coco import CocoReader

REAL = Path(os.environ.get("FRUGAL_DATA", "")) / "dsb2018_cervical_cytology"
SPLIT = Path(__file__).resolve().parents[2] / "scripts/splits/dsb2018_cervical.json"
SECTIONS = ("training", "unlabeled", "validation", "test")


def field():
    """A field of 40 x 60 pixels: a block in a tile of 20, one over the border at column 20, and one at row 20."""
    numbers = np.zeros((40, 60), np.uint16)
    numbers[2:6, 3:9] = 500
    numbers[2:12, 12:21] = 7  # 80 pixels left of column 20, 10 right of it
    numbers[17:29, 44:54] = 9  # 30 pixels above row 20, 90 below
    return numbers


@pytest.fixture
def source(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "source" / kind).mkdir(parents=True)
    for n, name in enumerate("abcdef"):
        image = (np.arange(40 * 60).reshape(40, 60) % 200 + n).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"source/images/{name}.png")
        Image.fromarray(field()).save(tmp_path / f"source/labels/{name}.png")
    split = {"training": {"A": ["a"]}, "unlabeled": {"B": ["b"], "C": ["c"]}, "validation": {"D": ["d"]}}
    (tmp_path / "split.json").write_text(json.dumps(split | {"test": {"E": ["e"], "F": ["f"]}}))
    return tmp_path / "source"


@pytest.fixture
def prepare(script, tmp_path, source):
    def run(*options, labeled=1, test=2, tile=20, out="out"):
        counts = ["--labeled_fields", str(labeled), "--test_fields", str(test), "--tile", str(tile)]
        split = ["--split", str(tmp_path / "split.json"), "--out", str(tmp_path / out)]
        script("prepare_dsb2018_cervical").main([str(source), *split, *counts, *options])
        return json.loads((tmp_path / out / "datalist.json").read_text())

    return run


def groups(content):
    return [sorted({item["group"] for item in content.get(section, [])}) for section in SECTIONS]


def test_sections_tiles_and_nuclei(tmp_path, source, prepare):
    content = prepare()
    out = tmp_path / "out"
    assert groups(content) == [["A"], ["B", "C"], ["D"], ["E", "F"]]
    assert [len(content[section]) for section in SECTIONS] == [6, 12, 6, 12]
    assert content["labels"] == {"0": "background", "1": "cytoplasm", "2": "nucleus"}
    assert json.loads((out / "annotations.json").read_text())["categories"] == [{"id": 2, "name": "nucleus"}]
    rows = check_datalist(out / "datalist.json", out, needs={s: ["image", "annotations"] for s in SECTIONS})
    assert [row.entries for row in rows] == [6, 12, 6, 12]
    reader = CocoReader(out / content["annotations"])
    whole = np.asarray(Image.open(source / "images/a.png"))
    for item in content["training"]:
        row, column = (int(part) for part in Path(item["image"]).stem.split("_")[1:])
        box = slice(row, row + 20), slice(column, column + 20)
        pixels = np.asarray(Image.open(out / item["image"]))
        np.testing.assert_array_equal(pixels, np.stack([whole[box]] * 3, axis=-1))
        assert all(one["category_id"] == 2 for one in reader.annotations(item["image"]))
        painted = reader.label_map(item["image"]) > 0
        expected = field()[box] > 0
        np.testing.assert_array_equal(painted, expected)  # 10 of 90 pixels are above a tenth


@pytest.mark.parametrize(("left", "kept"), [(27, True), (28, False)])
def test_a_tenth_of_a_small_nucleus_stays(source, tmp_path, prepare, left, kept):
    """Three pixels lie right of the border at column 20: a tenth of 30, but not of 31."""
    numbers = np.zeros((40, 60), np.uint16)
    side = np.zeros((14, 2), np.uint16)
    side.flat[:left] = 1
    numbers[:14, 18:20], numbers[:3, 20] = side, 1
    assert np.count_nonzero(numbers) == left + 3
    Image.fromarray(numbers).save(source / "labels/a.png")
    prepare()
    found = CocoReader(tmp_path / "out/annotations.json").annotations("images/a_00000_00020.png")
    assert [one["area"] for one in found] == ([3] if kept else [])


@pytest.mark.parametrize(("inside", "kept"), [(20, True), (19, False)])
def test_twenty_pixels_of_a_large_nucleus_stay(source, tmp_path, prepare, inside, kept):
    numbers = np.zeros((40, 60), np.uint16)
    numbers[:20, 0:20] = 1
    numbers[:inside, 20] = 1  # a twentieth of it
    Image.fromarray(numbers).save(source / "labels/a.png")
    prepare()
    found = CocoReader(tmp_path / "out/annotations.json").annotations("images/a_00000_00020.png")
    assert [one["area"] for one in found] == ([inside] if kept else [])


def test_more_labels_hold_those_of_fewer(prepare):
    assert groups(prepare(labeled=2)) == [["A", "B"], ["C"], ["D"], ["E", "F"]]
    assert groups(prepare(labeled=3)) == [["A", "B", "C"], [], ["D"], ["E", "F"]]
    assert groups(prepare(test=1)) == [["A"], ["B", "C", "D"], ["E"], ["F"]]
    assert groups(prepare("--no_validation")) == [["A"], ["B", "C", "D"], [], ["E", "F"]]


def test_a_tile_that_does_not_divide_the_field_overlaps_the_one_before(tmp_path, prepare):
    content = prepare(tile=32)
    corners = [Path(item["image"]).stem[2:] for item in content["training"]]
    assert corners == ["00000_00000", "00000_00028", "00008_00000", "00008_00028"]


def test_faults_get_a_sentence(source, tmp_path, prepare):
    for counts in ({"labeled": 4}, {"labeled": 0}, {"test": 0}):
        with pytest.raises(SystemExit, match="of 6 fields, expected at least 1 each and 1 that is left"):
            prepare(**counts)
    with pytest.raises(SystemExit, match=r"a\.png: found 40 x 60 pixels, expected at least 41 x 41"):
        prepare(tile=41)
    with pytest.raises(SystemExit, match="--tile: found 0, expected at least 1"):
        prepare(tile=0)
    with pytest.raises(SystemExit, match="expected another folder"):
        prepare(out="source")
    Image.fromarray(field()[:, 1:].copy()).save(source / "labels/a.png")
    with pytest.raises(SystemExit, match=r"found shape \(40, 59\), expected \(40, 60\) as its image has"):
        prepare()
    (source / "labels/a.png").unlink()
    with pytest.raises(SystemExit, match=r"a\.png: found no such file, expected it since .*split\.json names it"):
        prepare()


def test_the_committed_split_names_every_field_once():
    split = json.loads(SPLIT.read_text())
    assert list(split) == list(SECTIONS)
    assert [len(split[section]) for section in SECTIONS] == [2, 2, 1, 3]
    names = [name for section in SECTIONS for group, files in split[section].items() for name in files]
    assert sorted(names) == [f"edf_{number:03d}" for number in range(8)]
    drawn = np.random.default_rng(0).permutation(8)
    assert set(split["training"]) == {f"edf_{number:03d}" for number in drawn[:2]}


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_set(script, tmp_path):
    """The committed list with the options' defaults, and each nucleus's pixels in its tiles but for slivers."""
    script("prepare_dsb2018_cervical").main([str(REAL), "--out", str(tmp_path)])
    content = json.loads((tmp_path / "datalist.json").read_text())
    split = json.loads(SPLIT.read_text())
    assert groups(content) == [sorted(split[section]) for section in SECTIONS]
    rows = check_datalist(tmp_path / "datalist.json", tmp_path)
    assert {row.section: row.entries for row in rows} == dict(zip(SECTIONS, (32, 32, 16, 48), strict=True))
    reader = CocoReader(tmp_path / "annotations.json")
    painted = sum(np.count_nonzero(reader.label_map(name)) for name in reader.shapes)
    labels = [np.asarray(Image.open(path)) for path in sorted((REAL / "labels").glob("*.png"))]
    assert sum(len(np.unique(numbers)) - 1 for numbers in labels) == 613
    assert 0.999 < painted / sum(np.count_nonzero(numbers) for numbers in labels) < 1
