# SPDX-License-Identifier: Apache-2.0
"""The phantom data set on disk is whole, repeatable and safe to remake."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from scipy.ndimage import generate_binary_structure, label

from monai_ext.data import check_datalist, files, phantoms
from monai_ext.data.phantoms import _SECTIONS, make_cell_phantoms, make_membrane_phantoms, make_phantoms
from monai_ext.data.points_io import LoadPointsd, read_points

SMALL = {"shape": (32, 28, 20), "spacing_mm": (1.0, 1.0, 1.5)}
TINY_SET = {**SMALL, "training": 2, "validation": 1, "test": 1}


def test_set_follows_the_data_contract(tmp_path):
    path = make_phantoms(tmp_path / "set", **TINY_SET)
    root = tmp_path / "set"
    assert path == str(root / "datalist.json")
    datalist = json.loads((root / "datalist.json").read_text())
    assert datalist["labels"] == {"0": "background", "1": "target"}
    assert [len(datalist[s]) for s in ("training", "validation", "test")] == [2, 1, 1]
    items = datalist["training"] + datalist["validation"] + datalist["test"]
    assert len({item["group"] for item in items}) == 4
    for item in items:
        image, mask = nib.load(root / item["image"]), nib.load(root / item["label"])
        assert image.shape == mask.shape == SMALL["shape"]
        assert np.array_equal(image.affine, mask.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert np.allclose(image.header.get_zooms(), SMALL["spacing_mm"])
        assert ("points" in item) == (item in datalist["training"])
    assert not list(root.glob(".phantoms-*"))


def test_points_enclose_each_object(tmp_path):
    make_phantoms(tmp_path, **TINY_SET)
    for case, objects in enumerate((1, 2)):  # the default look's first two cases
        mask = np.asarray(nib.load(tmp_path / f"labels/phantom_training_{case:03d}.nii.gz").dataobj)
        points = read_points(tmp_path / f"points/phantom_training_{case:03d}.json")
        assert points.space == "voxel"
        clicks = dict(zip(points.labels, map(tuple, points.positions.astype(int)), strict=True))
        suffixes = ["", "2"][:objects]
        assert set(clicks) == {letter + suffix for letter in "FLRAPIS" for suffix in suffixes}
        parts = label(mask, generate_binary_structure(3, 3))[0]
        for suffix in suffixes:
            part = parts == parts[clicks["F" + suffix]]
            assert mask[clicks["F" + suffix]] == 1
            for axis, (low, high) in enumerate(("LR", "PA", "IS")):
                extent = np.nonzero(part)[axis]
                assert clicks[low + suffix][axis] < extent.min()
                assert clicks[high + suffix][axis] > extent.max()


def test_a_complete_set_is_left_alone_and_a_changed_request_is_made_again(tmp_path):
    make_phantoms(tmp_path, **TINY_SET)
    image = tmp_path / "images/phantom_training_000.nii.gz"
    before, pixels = image.stat().st_mtime_ns, nib.load(image).get_fdata()
    make_phantoms(tmp_path, **TINY_SET)
    assert image.stat().st_mtime_ns == before
    make_phantoms(tmp_path, **{**TINY_SET, "training": 1, "test": 2})
    assert sorted(p.name for p in (tmp_path / "points").iterdir()) == ["phantom_training_000.json"]
    assert np.array_equal(nib.load(image).get_fdata(), pixels)  # a case does not depend on how many there are
    make_phantoms(tmp_path, **TINY_SET, seed=1)
    assert not np.array_equal(nib.load(image).get_fdata(), pixels)


def test_a_missing_file_or_an_interruption_leads_to_a_whole_set(tmp_path, monkeypatch):
    make_phantoms(tmp_path, **TINY_SET)
    image = tmp_path / "images/phantom_test_000.nii.gz"
    image.unlink()
    make_phantoms(tmp_path, **TINY_SET)
    assert image.exists()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(phantoms, "simulate_points", stop)
        with pytest.raises(KeyboardInterrupt):
            make_phantoms(tmp_path / "new", **TINY_SET)
    assert not (tmp_path / "new/datalist.json").exists()
    make_phantoms(tmp_path / "new", **TINY_SET)
    assert image.read_bytes()[10:] == (tmp_path / "new/images/phantom_test_000.nii.gz").read_bytes()[10:]


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(FileExistsError, match="not a list of phantoms"):
        make_phantoms(tmp_path, **TINY_SET)
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "images/mine.nii.gz").write_text("mine")
    make_phantoms(other, **TINY_SET)
    assert (other / "images/mine.nii.gz").read_text() == "mine"


def test_second_process_waits_for_the_first(tmp_path, monkeypatch):
    waits = []

    def first_process_works(seconds):
        waits.append(seconds)
        monkeypatch.setenv("LOCAL_RANK", "0")
        make_phantoms(tmp_path, **TINY_SET)
        monkeypatch.setenv("LOCAL_RANK", "1")

    monkeypatch.setattr(files.time, "sleep", first_process_works)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert make_phantoms(tmp_path, **TINY_SET) == str(tmp_path / "datalist.json")
    assert make_phantoms(tmp_path, **TINY_SET) == str(tmp_path / "datalist.json")
    assert len(waits) == 1
    monkeypatch.setattr(files, "WAIT_S", -1.0)
    with pytest.raises(TimeoutError, match=r"datalist\.json"):
        make_phantoms(tmp_path, **TINY_SET, seed=5)


def test_two_writers_at_once_leave_one_whole_set(tmp_path, monkeypatch):
    write = phantoms._write_cases

    def other_run_finishes_first(root, parameters, spec):
        monkeypatch.setattr(phantoms, "_write_cases", write)
        make_phantoms(tmp_path, **TINY_SET)
        write(root, parameters, spec)

    monkeypatch.setattr(phantoms, "_write_cases", other_run_finishes_first)
    monkeypatch.setattr(phantoms, "_publish", publish := Counted(phantoms._publish))
    make_phantoms(tmp_path, **TINY_SET)
    assert publish.calls == 1
    assert not list(tmp_path.glob(".phantoms-*"))


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


TILES = {"training": 3, "unlabeled": 5, "validation": 2, "test": 1, "size": 64, "tiles_per_field": 2}


def test_membrane_set_follows_the_data_contract(tmp_path):
    path = make_membrane_phantoms(tmp_path, **TILES)
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert path == str(tmp_path / "datalist.json")
    assert [len(content[s]) for s in ("training", "unlabeled", "validation", "test")] == [3, 5, 2, 1]
    assert all("label" in item for item in content["unlabeled"])
    groups = [item["group"] for item in content["training"]]
    assert groups[0] == groups[1] != groups[2]
    sections = [row.section for row in check_datalist(tmp_path / "datalist.json", tmp_path)]
    assert sections == ["training", "unlabeled", "validation", "test"]


def test_membrane_tiles_do_not_depend_on_other_sections_and_are_made_once(tmp_path):
    make_membrane_phantoms(tmp_path / "a", **TILES)
    make_membrane_phantoms(tmp_path / "b", **(TILES | {"training": 1, "unlabeled": 1}))
    same = [(tmp_path / name / "images/phantom_test_000.png").read_bytes() for name in "ab"]
    assert same[0] == same[1]
    before = (tmp_path / "a/images/phantom_test_000.png").stat().st_mtime_ns
    make_membrane_phantoms(tmp_path / "a", **TILES)
    assert (tmp_path / "a/images/phantom_test_000.png").stat().st_mtime_ns == before
    make_membrane_phantoms(tmp_path / "a", **(TILES | {"test": 2}))
    assert len(list((tmp_path / "a/images").glob("phantom_test_*"))) == 2
    (tmp_path / "c").mkdir()
    (tmp_path / "c/datalist.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not a list of phantoms"):
        make_membrane_phantoms(tmp_path / "c", **TILES)


CELLS = {"training": 3, "validation": 2, "test": 1, "size": 48, "diameter_px": 14.0}


def test_cell_set_follows_the_data_contract(tmp_path):
    path = make_cell_phantoms(tmp_path, **CELLS)
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert path == str(tmp_path / "datalist.json")
    assert content["labels"] == {"0": "background", "1": "cell"}
    assert [len(content[s]) for s in ("training", "validation", "test")] == [3, 2, 1]
    groups = [item["group"] for item in content["training"]]
    assert groups[0] == groups[1] != groups[2]
    assert all(("points" in item) == (item in content["training"]) for s in _SECTIONS for item in content[s])
    rows = check_datalist(tmp_path / "datalist.json", tmp_path)
    assert [len(row.instances) for row in rows] == [3, 2, 1]  # label maps of 16 bits
    assert rows[0].instances == [points for points, _ in rows[0].points]


def test_clicks_lie_on_their_cells_as_monai_reads_them(tmp_path):
    make_cell_phantoms(tmp_path, **CELLS)
    item = {"image": "images/phantom_training_000.png", "label": "labels/phantom_training_000.png"}
    item |= {"points": "points/phantom_training_000.json"}
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), LoadPointsd("points")])
    data = load({key: str(tmp_path / file) for key, file in item.items()})
    x, y = np.floor(data["points"] + 0.5).astype(int).T
    np.testing.assert_array_equal(data["label"][0].numpy()[x, y], np.arange(1, len(x) + 1))
    assert set(data["points_label"]) == {"cell"}


def test_cell_pictures_do_not_depend_on_the_counts_and_are_made_once(tmp_path):
    make_cell_phantoms(tmp_path / "a", **CELLS)
    make_cell_phantoms(tmp_path / "b", **(CELLS | {"training": 1}))
    same = [(tmp_path / name / "images/phantom_test_000.png").read_bytes() for name in "ab"]
    assert same[0] == same[1]
    before = (tmp_path / "a/images/phantom_test_000.png").stat().st_mtime_ns
    make_cell_phantoms(tmp_path / "a", **CELLS)
    assert (tmp_path / "a/images/phantom_test_000.png").stat().st_mtime_ns == before
    make_cell_phantoms(tmp_path / "a", **(CELLS | {"training": 1, "style": "label_free"}))
    assert [file.name for file in (tmp_path / "a/points").iterdir()] == ["phantom_training_000.json"]
    assert (tmp_path / "a/images/phantom_test_000.png").read_bytes() != same[0]
