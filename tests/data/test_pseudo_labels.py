# SPDX-License-Identifier: Apache-2.0
"""What a round of pseudo labels leaves on the disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import PseudoLabels
from monai_ext.data.patch_folder import patch_at, write_patches

SIDE = 24


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def data(tmp_path):
    """Three images of 24 px with two squares each but the last; the path, picture, labels and scores of each."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        labels = np.zeros((SIDE, SIDE), np.int64)
        if number < 2:
            labels[2:7, 3:9], labels[12:20, 10:15] = 1, 2
        scores = np.choose(labels, [0, 0.8, 0.6 if number else 0.3])
        picture = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        found.append((tmp_path / f"data/images/{number}.png", picture, labels, scores))
    return found


def run(folder, data, **options):
    labels = PseudoLabels(folder, **({"size": 8, "number": 10, "data_root_dir": folder.parent / "data"} | options))
    labels.start()
    for one in data:
        labels.add(*one)
    return labels, labels.write(1)


def test_files_of_a_round(data, tmp_path):
    labels, told = run(tmp_path / "pseudo", data)
    assert told == {"images": 3, "kept": 3, "dropped": 1, "patches": 10}
    items = labels.items(1)
    assert len(items) == 10
    names = [item["image"].rsplit("/", 1)[1].split("_") for item in items]
    assert [name[1] for name in names] == ["0"] * 5 + ["1"] * 5, "as many of both images in which something was found"
    for item, (_, number, row, column) in zip(items, names, strict=True):
        row, column = int(row[1:]), int(column.removesuffix(".png")[1:])
        _, picture, instances, scores = data[int(number)]
        place = np.s_[row : row + 8, column : column + 8]
        np.testing.assert_array_equal(read(item["image"]), picture[place])
        np.testing.assert_array_equal(read(item["label"]) > 0, ((instances > 0) & (scores >= 0.5))[place])
    for number in range(3):
        assert read(tmp_path / f"pseudo/round_1/maps/images_{number}.png").dtype == np.uint16
    assert read(tmp_path / "pseudo/round_1/maps/images_1.png").max() == 2


def test_draws_depend_on_seed_and_round(data, tmp_path):
    first, second, other = (
        [entry["image"] for entry in json.loads((folder / "round_1/datalist.json").read_text())["training"]]
        for folder in (tmp_path / name for name in "abc")
        if run(folder, data, seed=int(folder.name == "c"))
    )
    assert first == second != other


def test_annotated_pixels_keep_their_annotation(data, tmp_path):
    """Of the second image the upper left is annotated: there is nothing, but one nucleus elsewhere."""
    patch = patch_at("images/1.png", row=0, column=0, size=10)
    write_patches(tmp_path / "patches", [patch], [np.zeros((10, 10, 3), np.uint8)], how={})
    annotation = np.zeros((10, 10), np.uint16)
    annotation[8:10, 0:2] = 7
    (tmp_path / "patches/labels").mkdir()
    Image.fromarray(annotation).save(tmp_path / f"patches/labels/{patch['name']}.png")
    _, told = run(tmp_path / "pseudo", data, patches_dir=tmp_path / "patches")
    found = read(tmp_path / "pseudo/round_1/maps/images_1.png")
    np.testing.assert_array_equal(found[:10, :10] > 0, annotation > 0)
    np.testing.assert_array_equal(found[10:] > 0, data[1][2][10:] > 0)
    assert read(tmp_path / "pseudo/round_1/maps/images_0.png")[3, 4] == 1, "the other image is as it was"
    assert told["kept"] == 3


def test_patches_of_unknown_places_change_nothing(data, tmp_path):
    (tmp_path / "patches").mkdir()
    run(tmp_path / "pseudo", data, patches_dir=tmp_path / "patches")
    assert read(tmp_path / "pseudo/round_1/maps/images_1.png").max() == 2


def test_a_network_that_finds_nothing_gives_no_patch(data, tmp_path):
    labels, told = run(tmp_path / "pseudo", data[2:])
    assert told == {"images": 1, "kept": 0, "dropped": 0, "patches": 0}
    assert labels.items(1) == []


def test_a_round_begins_anew(data, tmp_path):
    labels, _ = run(tmp_path / "pseudo", data)
    labels.start()
    labels.add(*data[1])
    assert labels.write(2)["images"] == 1
    assert len(labels.items(1)) == 10, "an earlier round's files stay"
