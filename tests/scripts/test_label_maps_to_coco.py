# SPDX-License-Identifier: Apache-2.0
"""Label maps to COCO: numbers, names, overlaps and outlines, on made-up maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_ext.data import check_datalist
from monai_ext.data.coco import CocoReader

SHAPE = (12, 20)


def blocks(*boxes):
    """Label map with a block for each (number, top, left, height, width)."""
    numbers = np.zeros(SHAPE, np.uint16)
    for number, top, left, height, width in boxes:
        numbers[top : top + height, left : left + width] = number
    return numbers


LOWER = blocks((300, 1, 2, 6, 8))
UPPER = blocks((7, 3, 6, 6, 8))
NUCLEI = blocks((1, 2, 3, 2, 2), (65535, 5, 9, 2, 3))


@pytest.fixture
def source(tmp_path):
    for folder in ("images", "lower", "upper", "nuclei"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
    Image.fromarray(LOWER).save(tmp_path / "lower/a.png")
    tifffile.imwrite(tmp_path / "upper/a.tif", UPPER)
    Image.fromarray(NUCLEI).save(tmp_path / "nuclei/a.png")
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "nuclei/b.png")
    return tmp_path


@pytest.fixture
def convert(script, source):
    def run(*options, out="annotations.json", categories=("1:cell=lower", "1:cell=upper", "2:nucleus=nuclei")):
        given = [f"{head}={source / folder}" for head, folder in (text.split("=") for text in categories)]
        arguments = [part for text in given for part in ("--category", text)]
        script("label_maps_to_coco").main([str(source / "images"), *arguments, "--out", str(source / out), *options])
        return CocoReader(source / out)

    return run


@pytest.mark.parametrize("options", [(), ("--polygons",)])
def test_overlapping_instances_come_back(source, convert, capsys, options):
    reader = convert(*options)
    found = list(zip(reader.annotations("images/a.png"), reader.masks("images/a.png"), strict=True))
    assert [one["category_id"] for one, _ in found] == [1, 1, 2, 2]
    for (_, mask), expected in zip(found, (LOWER > 0, UPPER > 0, NUCLEI == 1, NUCLEI == 65535), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert (found[0][1] & found[1][1]).sum() == 4 * 4  # rows 3 to 6, columns 6 to 9
    first = found[0][0]
    assert (first["bbox"], first["area"]) == ([2, 1, 8, 6], 48)
    assert isinstance(first["segmentation"], list if options else dict)
    content = json.loads((source / "annotations.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    assert "1 cell: 2 instances\n2 nucleus: 2 instances\n2 of 3 pictures" in capsys.readouterr().out


def test_an_empty_map_is_a_picture_without_instances_and_no_map_no_picture(convert):
    reader = convert()
    assert reader.annotations("images/b.png") == []
    assert set(reader.shapes) == {"images/a.png", "images/b.png"}
    assert reader.shapes["images/a.png"] == SHAPE


def test_a_hole_stays_and_an_outline_goes_along_the_pixels(source, convert):
    ring = blocks((4, 2, 2, 5, 5), (0, 3, 3, 2, 2), (9, 8, 10, 2, 3))
    Image.fromarray(ring).save(source / "nuclei/a.png")
    reader = convert("--polygons", categories=["2:nucleus=nuclei"])
    whole, outline = (one["segmentation"] for one in reader.annotations("images/a.png"))
    assert isinstance(whole, dict)  # COCO's polygons have no holes
    corners = {tuple(outline[0][n : n + 2]) for n in range(0, len(outline[0]), 2)}
    assert (len(outline), corners) == (1, {(10, 8), (13, 8), (13, 10), (10, 10)})
    for mask, number in zip(reader.masks("images/a.png"), (4, 9), strict=True):
        np.testing.assert_array_equal(mask, ring == number)


def test_the_file_serves_a_datalist_beside_it_or_elsewhere(source, convert):
    content = {"annotations": "annotations.json", "training": [{"image": "images/a.png", "group": "a"}]}
    (source / "datalist.json").write_text(json.dumps(content))
    convert()
    needs = {"training": ["image", "annotations"]}
    assert check_datalist(source / "datalist.json", source, needs=needs)[0].annotations == 4
    assert set(convert(out="elsewhere/of.json").shapes) == {"a.png", "b.png"}


def test_faults_get_a_sentence(source, convert, capsys):
    for wrong in ("nucleus=nuclei", "0:nucleus=nuclei", "x:nucleus=nuclei", "2:=nuclei"):
        with pytest.raises(SystemExit):
            convert(categories=[wrong])
        assert "expected number:name=folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="found the names cell and nucleus for 1, expected one"):
        convert(categories=["1:cell=lower", "1:nucleus=nuclei"])
    Image.fromarray(NUCLEI).save(source / "nuclei/stray.png")
    with pytest.raises(SystemExit, match=r"stray\.png: found no image of the stem 'stray'"):
        convert()
    (source / "nuclei/stray.png").unlink()
    Image.fromarray(NUCLEI[:, :-1].copy()).save(source / "nuclei/b.png")
    with pytest.raises(SystemExit, match=r"b\.png: found 12 x 19 pixels, expected 12 x 20 as .*b\.png has"):
        convert()
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(source / "nuclei/b.png")
    with pytest.raises(SystemExit, match="expected one channel of whole numbers"):
        convert()
    (source / "images/c.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"c\.png: found a file that PIL cannot read"):
        convert(categories=["1:cell=lower"])
    assert not (source / "annotations.json").exists()
