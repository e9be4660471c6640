# SPDX-License-Identifier: Apache-2.0
"""The set of smears on disk is whole, repeatable and safe to remake."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import check_datalist, files, phantoms, smear_set
from monai_ext.data.coco import CocoReader
from monai_ext.data.smear_phantom import draw_smear_stain, smear_field
from monai_ext.data.smear_set import make_smear_phantoms

SECTIONS = ("training", "unlabeled", "validation", "test")
TINY = {"training": 3, "unlabeled": 4, "validation": 2, "test": 1, "size": 64, "diameter_px": 24.0}


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_set_follows_the_data_contract(tmp_path):
    path = make_smear_phantoms(tmp_path, **TINY)
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert path == str(tmp_path / "datalist.json")
    assert content["labels"] == {"0": "background", "1": "cytoplasm", "2": "nucleus"}
    assert [len(content[section]) for section in SECTIONS] == [3, 4, 2, 1]
    assert all(set(item) == {"image", "group"} for section in SECTIONS for item in content[section])
    groups = [item["group"] for item in content["training"]]
    assert groups[0] == groups[1] != groups[2]
    rows = check_datalist(path, tmp_path, needs={section: ["image", "annotations"] for section in SECTIONS})
    coco = json.loads((tmp_path / content["annotations"]).read_text())
    assert sum(row.annotations for row in rows) == len(coco["annotations"])
    assert coco["categories"] == [{"id": 1, "name": "cytoplasm"}, {"id": 2, "name": "nucleus"}]
    assert [one["file_name"] for one in coco["images"]] == [e["image"] for s in SECTIONS for e in content[s]]
    assert set(contents(tmp_path)) == {
        "datalist.json",
        "annotations.json",
        *(one["file_name"] for one in coco["images"]),
    }


@pytest.mark.parametrize(("section", "index", "number"), [("training", 0, 2), ("unlabeled", 1, 3), ("test", 3, 0)])
def test_pictures_and_masks_are_those_of_the_generator(tmp_path, section, index, number):
    make_smear_phantoms(tmp_path, **TINY, seed=5)
    field = number // 2
    stain = draw_smear_stain(np.random.default_rng([5, index, field]))
    rng = np.random.default_rng([5, index, field, number])
    image, instances = smear_field(64, rng=rng, stain=stain, diameter_px=24.0)
    name = f"images/phantom_{section}_{number:03d}.png"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), image)
    reader = CocoReader(tmp_path / "annotations.json")
    assert [one["category_id"] for one in reader.annotations(name)] == [kind for kind, _ in instances]
    for mask, (_, drawn) in zip(reader.masks(name), instances, strict=True):
        np.testing.assert_array_equal(mask, drawn)


def test_a_whole_set_is_left_alone_and_a_changed_request_is_made_again(tmp_path):
    make_smear_phantoms(tmp_path, **TINY)
    files = ("images/phantom_test_000.png", "annotations.json", "datalist.json")
    before, first = [(tmp_path / file).stat().st_mtime_ns for file in files], contents(tmp_path)
    make_smear_phantoms(tmp_path, **TINY)
    assert [(tmp_path / file).stat().st_mtime_ns for file in files] == before
    make_smear_phantoms(tmp_path, **(TINY | {"training": 1, "unlabeled": 6}))
    second = contents(tmp_path)
    assert second[files[0]] == first[files[0]]  # a picture does not depend on how many there are
    assert len([name for name in second if name.startswith("images/")]) == 10
    assert len(CocoReader(tmp_path / "annotations.json").shapes) == 10
    make_smear_phantoms(tmp_path, **TINY, seed=1)
    assert contents(tmp_path)[files[0]] != first[files[0]]
    make_smear_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == first


@pytest.mark.parametrize("lost", ["annotations.json", "images/phantom_unlabeled_001.png"])
def test_a_lost_file_is_made_again(tmp_path, lost):
    make_smear_phantoms(tmp_path, **TINY)
    before = contents(tmp_path)
    (tmp_path / lost).unlink()
    make_smear_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == before


def test_an_interruption_leaves_the_old_set(tmp_path, monkeypatch):
    """Nor a half of one: until all is drawn, the old set is whole."""
    make_smear_phantoms(tmp_path / "whole", **TINY)
    make_smear_phantoms(tmp_path / "new", **TINY, seed=1)

    def stop(*_, **__):
        raise KeyboardInterrupt

    for module, name in ((smear_set, "smear_field"), (phantoms, "_publish")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                make_smear_phantoms(tmp_path / "new", **TINY)
        assert (tmp_path / "new/datalist.json").exists()
        assert not list((tmp_path / "new").glob(".phantoms-*"))
    make_smear_phantoms(tmp_path / "new", **TINY)
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


MINE = '{"images": [{"id": 1, "file_name": "a.png", "height": 2, "width": 2}], "annotations": []}'


@pytest.mark.parametrize("foreign", [MINE, '{"images": []}', "no json"])
def test_foreign_files_are_never_touched(tmp_path, foreign):
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(FileExistsError, match="not a list of phantoms"):
        make_smear_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == {"datalist.json": b'{"training": []}'}
    (tmp_path / "datalist.json").unlink()
    (tmp_path / "annotations.json").write_text(foreign)
    with pytest.raises(FileExistsError, match=r"annotations\.json is not of phantoms and is left alone"):
        make_smear_phantoms(tmp_path, **TINY)
    assert contents(tmp_path) == {"annotations.json": foreign.encode()}


def test_second_process_waits_for_the_first(tmp_path, monkeypatch):
    waits = []

    def first_process_works(seconds):
        waits.append(seconds)
        monkeypatch.setenv("LOCAL_RANK", "0")
        make_smear_phantoms(tmp_path, **TINY)
        monkeypatch.setenv("LOCAL_RANK", "1")

    monkeypatch.setattr(files.time, "sleep", first_process_works)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert make_smear_phantoms(tmp_path, **TINY) == str(tmp_path / "datalist.json")
    assert make_smear_phantoms(tmp_path, **TINY) == str(tmp_path / "datalist.json")
    assert len(waits) == 1
    (tmp_path / "annotations.json").unlink()
    make_smear_phantoms(tmp_path, **TINY)
    assert len(waits) == 2
    assert (tmp_path / "annotations.json").exists()


def test_two_writers_at_once_leave_one_whole_set(tmp_path, monkeypatch):
    make_smear_phantoms(tmp_path / "alone", **TINY)
    write = smear_set._write

    def other_run_finishes_first(*arguments):
        monkeypatch.setattr(smear_set, "_write", write)
        make_smear_phantoms(tmp_path / "both", **TINY)
        stamp.append((tmp_path / "both/annotations.json").stat().st_mtime_ns)
        write(*arguments)

    stamp = []
    monkeypatch.setattr(smear_set, "_write", other_run_finishes_first)
    make_smear_phantoms(tmp_path / "both", **TINY)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")
    assert (tmp_path / "both/annotations.json").stat().st_mtime_ns == stamp[0]
