# SPDX-License-Identifier: Apache-2.0
"""The set of made-up tissue on disk is whole, repeatable and safe to remake."""

from __future__ import annotations

import json

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_ext.data import check_datalist, files, histology_set, phantoms
from monai_ext.data.histology_phantom import draw_tissue_stain, tissue_field
from monai_ext.data.histology_set import make_histology_phantoms

SECTIONS = ("training", "validation", "test")
TINY = {"training": 3, "validation": 2, "test": 1, "size": 64, "diameter_px": 14.0}
FILES = ("images/phantom_test_000.png", "labels/phantom_test_000.png", "datalist.json")


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_set_follows_the_data_contract(tmp_path):
    path = make_histology_phantoms(tmp_path, **TINY)
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert path == str(tmp_path / "datalist.json")
    assert content["labels"] == {"0": "background", "1": "nucleus"}
    assert [len(content[section]) for section in SECTIONS] == [3, 2, 1]
    items = [item for section in SECTIONS for item in content[section]]
    assert all(set(item) == {"image", "label", "group"} for item in items)
    groups = [item["group"] for item in content["training"]]
    assert groups[0] == groups[1] != groups[2]
    rows = check_datalist(path, tmp_path, needs={section: ["image", "label"] for section in SECTIONS})
    assert [row.shapes for row in rows] == [[(64, 64)] * count for count in (3, 2, 1)]
    for row in rows:  # label maps of 16 bits, and not masks
        named = [Image.open(tmp_path / item["label"]) for item in content[row.section]]
        assert {image.mode for image in named} == {"I;16"}
        assert row.instances == [np.asarray(image).max() for image in named]
    assert set(contents(tmp_path)) == {"datalist.json", *(item[key] for item in items for key in ("image", "label"))}


@pytest.mark.parametrize(("section", "index", "number"), [("training", 0, 2), ("validation", 1, 1), ("test", 2, 0)])
def test_pictures_and_label_maps_are_those_of_the_generator(tmp_path, section, index, number):
    make_histology_phantoms(tmp_path, **TINY, seed=5)
    field = number // 2
    stain = draw_tissue_stain(np.random.default_rng([5, index, field]))
    rng = np.random.default_rng([5, index, field, number])
    image, instances = tissue_field(64, rng=rng, stain=stain, diameter_px=14.0)
    name = f"phantom_{section}_{number:03d}.png"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / name)), image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels" / name)), instances)
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])
    read = load({"image": str(tmp_path / "images" / name), "label": str(tmp_path / "labels" / name)})
    assert read["image"].shape == (3, 64, 64)
    np.testing.assert_array_equal(read["label"][0].numpy().T, instances)  # MONAI reads columns first


def test_pictures_of_a_field_share_the_stain_as_many_as_asked_for(tmp_path):
    make_histology_phantoms(tmp_path, **(TINY | {"pictures_per_field": 3}))
    groups = [item["group"] for item in json.loads((tmp_path / "datalist.json").read_text())["training"]]
    assert len(set(groups)) == 1
    stain = draw_tissue_stain(np.random.default_rng([0, 0, 0]))
    expected, _ = tissue_field(64, rng=np.random.default_rng([0, 0, 0, 2]), stain=stain, diameter_px=14.0)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images/phantom_training_002.png")), expected)


def test_a_whole_set_is_left_alone_and_a_changed_request_is_made_again(tmp_path):
    make_histology_phantoms(tmp_path, **TINY)
    before, first = [(tmp_path / file).stat().st_mtime_ns for file in FILES], contents(tmp_path)
    make_histology_phantoms(tmp_path, **TINY)
    assert [(tmp_path / file).stat().st_mtime_ns for file in FILES] == before
    make_histology_phantoms(tmp_path, **(TINY | {"training": 1, "validation": 3}))
    second = contents(tmp_path)
    assert second[FILES[0]] == first[FILES[0]]  # a picture does not depend on how many there are
    assert len([name for name in second if name.startswith("labels/")]) == 5
    for changed in ({"seed": 1}, {"diameter_px": 18.0}, {"size": 48}):
        make_histology_phantoms(tmp_path, **(TINY | changed))
        assert all(contents(tmp_path)[file] != first[file] for file in FILES)
    make_histology_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == first


@pytest.mark.parametrize("lost", FILES)
def test_a_lost_file_is_made_again(tmp_path, lost):
    make_histology_phantoms(tmp_path, **TINY)
    before = contents(tmp_path)
    (tmp_path / lost).unlink()
    make_histology_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == before


def test_an_interruption_leaves_the_old_set(tmp_path, monkeypatch):
    """Nor a half of one: until all is drawn, the old set is whole."""
    make_histology_phantoms(tmp_path / "whole", **TINY)
    make_histology_phantoms(tmp_path / "new", **TINY, seed=1)
    old = contents(tmp_path / "new")

    def stop(*_, **__):
        raise KeyboardInterrupt

    for module, name in ((histology_set, "tissue_field"), (phantoms, "_publish")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                make_histology_phantoms(tmp_path / "new", **TINY)
        assert contents(tmp_path / "new") == old
    make_histology_phantoms(tmp_path / "new", **TINY)
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(FileExistsError, match="not a list of phantoms"):
        make_histology_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == {"datalist.json": b'{"training": []}'}
    other = tmp_path / "other"
    (other / "labels").mkdir(parents=True)
    (other / "labels/mine.png").write_text("mine")
    make_histology_phantoms(other, **TINY)
    assert (other / "labels/mine.png").read_text() == "mine"


def test_second_process_waits_for_the_first(tmp_path, monkeypatch):
    waits = []

    def first_process_works(seconds):
        waits.append(seconds)
        monkeypatch.setenv("LOCAL_RANK", "0")
        make_histology_phantoms(tmp_path, **TINY)
        monkeypatch.setenv("LOCAL_RANK", "1")

    monkeypatch.setattr(files.time, "sleep", first_process_works)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for _ in range(2):
        assert make_histology_phantoms(tmp_path, **TINY) == str(tmp_path / "datalist.json")
    assert len(waits) == 1
