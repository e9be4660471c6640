# SPDX-License-Identifier: Apache-2.0
"""Phantoms: what the volumes must look like, and that the data set on disk is whole, repeatable and safe to remake."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label

from monai_ext.data import phantoms
from monai_ext.data.phantoms import PhantomSpec, make_phantoms, phantom_volume

SMALL = {"shape": (32, 28, 20), "spacing_mm": (1.0, 1.0, 1.5)}
TINY_SET = {**SMALL, "training": 2, "validation": 1, "test": 1}


def components(mask):
    return label(mask, generate_binary_structure(3, 3))[1]


def best_threshold_dice(image, mask):
    scores = [
        2 * (mask[image > t]).sum() / ((image > t).sum() + mask.sum())
        for t in np.quantile(image, np.linspace(0, 1, 99))
    ]
    return max(scores)


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_volume_has_zero_surround_and_one_component_per_object(objects, seed):
    image, mask, affine = phantom_volume(**SMALL, objects=objects, rng=np.random.default_rng(seed))
    assert image.shape == mask.shape == (32, 28, 20)
    assert (image.dtype, mask.dtype) == (np.float32, np.uint8)
    assert np.isfinite(image).all()
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1], 0] == 0).all()
    assert 0.3 < (image == 0).mean() < 0.8
    assert (image[mask == 1] > 0).all()
    assert set(np.unique(mask)) == {0, 1}
    assert components(mask) == objects
    assert np.allclose(affine[:3, :3], np.diag([1, 1, 1.5]))
    assert not np.allclose(affine[:3, 3], 0)


@pytest.mark.parametrize("seed", range(3))
def test_target_is_brighter_than_its_surroundings_but_no_threshold_finds_it(seed):
    image, mask, _ = phantom_volume(rng=np.random.default_rng(seed))
    head = image[(image > 0) & (mask == 0)]
    assert np.median(image[mask == 1]) > np.quantile(head, 0.75)
    assert best_threshold_dice(image, mask) < 0.5


def test_best_threshold_dice_can_be_one():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    assert best_threshold_dice(mask * 5.0 + 1, mask) == 1


def test_same_generator_state_same_volume_and_another_differs():
    first, again, other = (phantom_volume(**SMALL, rng=np.random.default_rng(s))[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_target_has_the_same_size_in_millimetres_on_an_anisotropic_grid():
    volumes = []
    for shape, spacing in (((48, 48, 48), (1, 1, 1)), ((48, 48, 16), (1, 1, 3)), ((24, 48, 48), (2, 1, 1))):
        mask = phantom_volume(shape=shape, spacing_mm=spacing, rng=np.random.default_rng(1))[1]
        volumes.append(mask.sum() * np.prod(spacing))
    assert volumes[1] == pytest.approx(volumes[0], rel=0.1)
    assert volumes[2] == pytest.approx(volumes[0], rel=0.1)


def test_each_number_of_the_look_acts():
    def spread(**look):
        image, mask, _ = phantom_volume(**SMALL, spec=PhantomSpec(**look), rng=np.random.default_rng(2))
        inside = image[mask == 1]
        return inside.std() / inside.mean()

    flat = {"bias": 0.0, "noise": 0.0, "texture": 0.0}
    assert spread(**flat) < 0.1
    for name in flat:
        assert spread(**{**flat, name: 0.4}) > spread(**flat) + 0.05


@pytest.mark.parametrize("wrong", [{"shape": (32, 32)}, {"shape": (32, 32, 8)}, {"objects": 0}, {"objects": 3}])
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        phantom_volume(**{**SMALL, **wrong}, rng=np.random.default_rng(0))


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
        content = json.loads((tmp_path / f"points/phantom_training_{case:03d}.json").read_text())
        assert content["space"] == "voxel"
        clicks = {point["label"]: point["position"] for point in content["points"]}
        suffixes = ["", "2"][:objects]
        assert set(clicks) == {letter + suffix for letter in "FLRAPIS" for suffix in suffixes}
        parts = label(mask, generate_binary_structure(3, 3))[0]
        for suffix in suffixes:
            part = parts == parts[tuple(clicks["F" + suffix])]
            assert mask[tuple(clicks["F" + suffix])] == 1
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

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(phantoms, "simulate_points", stop, raising=True)
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
    code = (
        "import sys; from monai_ext.data.phantoms import make_phantoms;"
        "print(make_phantoms(sys.argv[1], shape=(32, 28, 20), training=2, validation=1, test=1))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [
        subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("1", "0")
    ]
    assert [run.communicate()[0].strip() for run in runs] == [str(tmp_path / "datalist.json")] * 2
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(phantoms, "_WAIT_S", 0.0)
    assert make_phantoms(tmp_path, **TINY_SET) == str(tmp_path / "datalist.json")
    with pytest.raises(TimeoutError, match=r"datalist\.json"):
        make_phantoms(tmp_path, **TINY_SET, seed=5)
