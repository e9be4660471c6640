# SPDX-License-Identifier: Apache-2.0
"""The scripts for data sets that come as NIfTI, on small trees of the same layout."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data.points_io import read_points

AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])  # i runs to the left


def save_case(image_path, label_path, *, seed=0, values=(1,)):
    """Save an image (20, 28, 18) and a label with one cube per value, apart, of 216, 64 and 8 voxels."""
    label = np.zeros((20, 28, 18), np.uint8)
    for value, start, size in zip(values, (2, 14, 24), (6, 4, 2), strict=False):
        label[6 : 6 + size, start : start + size, 6 : 6 + size] = value
    image = np.random.default_rng(seed).normal(100, 10, label.shape).astype(np.float32)
    for array, path in ((image, image_path), (label, label_path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), path)


def write_split(path, **sections):
    path.write_text(json.dumps(sections))
    return str(path)


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_hippocampus(tmp_path, script, check_set, folders, capsys):
    names = [f"hippocampus_{n:03d}.nii.gz" for n in range(4)]
    for n, name in enumerate([*names, "hippocampus_099.nii.gz"]):
        # The original labels are 1 and 2; here two separate cubes, so that a lost class is seen.
        save_case(tmp_path / folders[0] / name, tmp_path / folders[1] / name, seed=n, values=(1, 2))
    split = write_split(tmp_path / "split.json", training=names[:2], validation=names[2:3], test=names[3:])
    out = tmp_path / "out"
    main = script("prepare_msd_hippocampus").main
    main([str(tmp_path), "--out", str(out), "--split", split])
    datalist = check_set(out)
    assert [item["group"] for item in datalist["training"]] == ["hippocampus_000", "hippocampus_001"]
    assert np.asarray(nib.load(out / "labels" / names[0]).dataobj).sum() == 216 + 64
    assert (out / "images" / names[0]).is_symlink()
    assert re.search(r"training\s+2\s+4\s+28", capsys.readouterr().out)
    clicks = (out / "points/hippocampus_000.json").read_text()
    main([str(tmp_path), "--out", str(out), "--split", split, "--copy"])
    assert (out / "points/hippocampus_000.json").read_text() == clicks
    assert not (out / "images" / names[0]).is_symlink()
    main([str(tmp_path), "--out", str(out), "--split", split, "--seed", "1"])
    assert (out / "points/hippocampus_000.json").read_text() != clicks
    main([str(tmp_path), "--out", str(tmp_path / "all"), "--split", split, "--no_validation"])
    whole = json.loads((tmp_path / "all/datalist.json").read_text())
    assert [item["group"] for item in whole["training"]] == [name.removesuffix(".nii.gz") for name in names[:3]]
    assert all((tmp_path / "all" / item["points"]).exists() for item in whole["training"])
    assert (whole["validation"], whole["test"]) == ([], datalist["test"])


def test_hippocampus_never_writes_into_the_source(tmp_path, script):
    for n in range(3):
        save_case(tmp_path / f"images/{n}.nii.gz", tmp_path / f"labels/{n}.nii.gz")
    names = [f"{n}.nii.gz" for n in range(3)]
    split = write_split(tmp_path / "split.json", training=names[:1], validation=names[1:2], test=names[2:])
    main = script("prepare_msd_hippocampus").main
    main([str(tmp_path), "--out", str(tmp_path / "out"), "--split", split])
    assert (tmp_path / "out/labels/0.nii.gz").is_symlink()  # it was 0 and 1 already
    save_case(tmp_path / "images/0.nii.gz", tmp_path / "labels/0.nii.gz", values=(2,))
    main([str(tmp_path), "--out", str(tmp_path / "out"), "--split", split])
    assert np.asarray(nib.load(tmp_path / "labels/0.nii.gz").dataobj).max() == 2
    assert np.asarray(nib.load(tmp_path / "out/labels/0.nii.gz").dataobj).max() == 1


def test_clicks_lie_on_the_anatomical_side_and_within_the_margin(tmp_path, script):
    for n in range(3):
        save_case(tmp_path / f"images/{n}.nii.gz", tmp_path / f"labels/{n}.nii.gz")
    names = [f"{n}.nii.gz" for n in range(3)]
    split = write_split(tmp_path / "split.json", training=names[:1], validation=names[1:2], test=names[2:])
    out = tmp_path / "out"
    script("prepare_msd_hippocampus").main([str(tmp_path), "--out", str(out), "--split", split, "--margin", "2", "2"])
    points = read_points(out / "points/0.json")
    clicks = dict(zip(points.labels, points.positions, strict=True))
    assert clicks["R"][0] == 6 - 2  # i runs to the left
    assert clicks["L"][0] == 11 + 2
    assert clicks["P"][1] == 0
    assert clicks["A"][1] == 7 + 2
    assert clicks["I"][2] == 6 - 2
    assert clicks["S"][2] == 11 + 2


def test_hippocampus_says_what_is_missing(tmp_path, script):
    main = script("prepare_msd_hippocampus").main
    with pytest.raises(SystemExit, match="neither images and labels nor imagesTr"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    save_case(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
    with pytest.raises(SystemExit, match=r"hippocampus_.*\(one of 64\)"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])


def test_committed_splits_name_each_file_once(script):
    prepare = script("_prepare")
    sizes = {"msd_hippocampus": [40, 8, 16], "open_ms_lesions": [1, 1, 1]}
    for name, expected in sizes.items():
        split = prepare.read_split(prepare.SPLITS / f"{name}.json")
        assert [len(names) for names in split.values()] == expected
        assert len({n for names in split.values() for n in names}) == sum(expected)


@pytest.mark.parametrize("layout", ["subset", "repository"])
def test_ms_lesions_keep_lesions_of_enough_voxels(tmp_path, script, check_set, layout):
    for n, patient in enumerate(("patient07", "patient19", "patient26")):
        for modality, seed in (("FLAIR", n), ("T1", 10 + n)):
            if layout == "subset":
                image, label = f"images/{patient}_{modality}.nii.gz", f"labels/{patient}_lesion.nii.gz"
            else:
                folder = f"cross_sectional/MNI/{patient}"
                image, label = f"{folder}/{modality}_N4.nii.gz", f"{folder}/GOLD_STANDARD_N4.nii.gz"
            save_case(tmp_path / image, tmp_path / label, seed=seed, values=(1, 1, 1))
    main = script("prepare_open_ms_lesions").main
    main([str(tmp_path), "--out", str(tmp_path / "out")])
    datalist = check_set(tmp_path / "out")
    assert [item["group"] for item in datalist["training"]] == ["patient19"]
    assert len(read_points(tmp_path / "out/points/patient19.json").labels) == 14  # 8 voxels are too few
    flair = nib.load(tmp_path / "out/images/patient19.nii.gz").get_fdata()
    main([str(tmp_path), "--out", str(tmp_path / "all"), "--min_voxels", "8", "--modality", "T1"])
    assert len(read_points(tmp_path / "all/points/patient19.json").labels) == 21
    assert not np.array_equal(nib.load(tmp_path / "all/images/patient19.nii.gz").get_fdata(), flair)


def brats_tree(root):
    """Seven cases of six patients: the last patient was scanned twice."""
    ids = [f"BraTS19_X_{n}_1" for n in range(6)] + ["BraTS19_X_5_2"]
    for n, name in enumerate(ids):
        folder = root / ("HGG" if n < 4 else "LGG") / name
        suffix = ".nii" if n == 0 else ".nii.gz"
        save_case(folder / f"{name}_flair{suffix}", folder / f"{name}_seg{suffix}", seed=n, values=(4, 2))
    return ids


def test_brats_draws_patients_and_writes_the_split_down(tmp_path, script, check_set):
    ids = brats_tree(tmp_path / "source")
    main, out = script("prepare_brats2019").main, tmp_path / "out"
    counts = ["--counts", "3", "1", "2", "--min_voxels", "64"]
    main([str(tmp_path / "source"), "--out", str(out), *counts])
    datalist = check_set(out)
    split = json.loads((out / "split.json").read_text())
    assert sorted(n for names in split.values() for n in names) == sorted(ids)
    patients = {section: {item["group"] for item in datalist[section]} for section in split}
    assert [len(patients[s]) for s in ("training", "validation", "test")] == [3, 1, 2]
    for name in split["training"]:
        assert len(read_points(out / f"points/{name}.json").labels) == 14
    main([str(tmp_path / "source"), "--out", str(tmp_path / "again"), "--split", str(out / "split.json"), *counts])
    assert json.loads((tmp_path / "again/datalist.json").read_text()) == datalist
    main([str(tmp_path / "source"), "--out", str(tmp_path / "other"), "--split_seed", "1", *counts])
    assert json.loads((tmp_path / "other/split.json").read_text()) != split


def test_brats_takes_a_list_without_test_and_names_faults(tmp_path, script, check_set):
    ids = brats_tree(tmp_path / "source")
    main, source = script("prepare_brats2019").main, str(tmp_path / "source")
    split = write_split(tmp_path / "s.json", training=ids[:2], validation=ids[2:3])
    main([source, "--out", str(tmp_path / "out"), "--split", split])
    assert [item["image"] for item in check_set(tmp_path / "out")["test"]] == [f"images/{n}.nii.gz" for n in ids[3:]]
    with pytest.raises(SystemExit, match="no-such"):
        main([source, "--split", write_split(tmp_path / "s.json", training=["no-such"])])
    with pytest.raises(SystemExit, match="found 6 cases, expected 335"):
        main([source, "--out", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no case folders"):
        main([str(tmp_path), "--out", str(tmp_path / "none")])
    (tmp_path / "source/HGG" / ids[1] / f"{ids[1]}_flair.nii.gz").unlink()
    with pytest.raises(SystemExit, match=f"{ids[1]}_flair"):
        main([source, "--out", str(tmp_path / "out"), "--split", write_split(tmp_path / "s.json", training=ids[1:2])])
