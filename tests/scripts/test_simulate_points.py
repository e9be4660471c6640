# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data.datalist import load_datalist
from monai_ext.data.points_io import read_points
from monai_ext.functional.points import group_points

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_points.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulate_points_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dataset(tmp_path):
    """Three cases: one object, two objects beside a speck, nothing; in an LPS-like grid."""
    masks = np.zeros((3, 16, 16, 16), dtype=np.uint8)
    masks[0, 4:9, 5:10, 6:11] = 1
    masks[1, 2:6, 2:6, 2:6] = masks[1, 9:14, 9:14, 9:14] = 1
    masks[1, 0, 15, 15] = 1
    for name, mask in zip("abc", masks, strict=True):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / folder / f"{name}.nii.gz")
    entries = [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz", "group": n} for n in "abc"]
    content = {"name": "toy", "labels": {"0": "background", "1": "thing"}, "training": entries, "test": entries[:1]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path, masks


def test_writes_points_and_a_new_datalist(script, dataset, capsys):
    folder, masks = dataset
    before = (folder / "datalist.json").read_text()
    script.main([str(folder / "datalist.json"), "--margin", "1", "3", "--drop_labels"])
    assert (folder / "datalist.json").read_text() == before
    written = json.loads((folder / "datalist_points.json").read_text())
    assert written["training"] == [
        {"image": f"images/{n}.nii.gz", "group": n, "points": f"points/{n}.json"} for n in "ab"
    ]
    assert written["test"] == json.loads(before)["test"]
    assert written["labels"] == {"0": "background", "1": "thing"}
    report = capsys.readouterr().out
    assert "b: 1 of 3 objects have fewer than 10 voxels" in report
    assert "c: no object of at least 10 voxels; left out" in report
    assert "2 of 3 cases with 3 objects" in report
    cases = load_datalist(folder / "datalist_points.json", folder, "training")
    for case, mask, objects in zip(cases, masks, (1, 2), strict=False):
        points = read_points(case["points"])
        assert points.space == "voxel"
        groups = group_points(points.labels, points.positions)
        assert len(groups) == objects
        for clicks in groups.values():
            assert set(clicks) == set("FLRAPIS")
            assert mask[tuple(clicks["F"].astype(int))] == 1
            assert clicks["R"][0] < clicks["F"][0] < clicks["L"][0]  # the first axis runs to the left


def test_a_case_keeps_its_clicks_in_another_list(script, dataset):
    folder, _ = dataset
    script.main([str(folder / "datalist.json"), "--out_dir", "first"])
    content = json.loads((folder / "datalist.json").read_text())
    content["training"] = content["training"][1:2]
    (folder / "datalist.json").write_text(json.dumps(content))
    script.main([str(folder / "datalist.json"), "--out_dir", "second", "--overwrite"])
    assert (folder / "first" / "b.json").read_text() == (folder / "second" / "b.json").read_text()
    script.main([str(folder / "datalist.json"), "--out_dir", "third", "--overwrite", "--seed", "1"])
    assert (folder / "first" / "b.json").read_text() != (folder / "third" / "b.json").read_text()


def test_labels_stay_unless_dropped_and_the_name_can_be_chosen(script, dataset):
    folder, _ = dataset
    script.main([str(folder / "datalist.json"), "--section", "test", "--out_datalist", str(folder / "new.json")])
    assert json.loads((folder / "new.json").read_text())["test"] == [
        {"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "group": "a", "points": "points/a.json"}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out_datalist", "{folder}/datalist.json"], "this datalist exists, expected a new name or --overwrite"),
        (["--section", "validation"], "no section 'validation'"),
        (["--margin", "3", "1"], "margin_voxels: found"),
        (["--section", "unlabeled"], "images/x.nii.gz, expected a mask"),
    ],
)
def test_faults_are_one_sentence(script, dataset, arguments, message):
    folder, _ = dataset
    content = json.loads((folder / "datalist.json").read_text())
    content["unlabeled"] = [{"image": "images/x.nii.gz"}]
    (folder / "datalist.json").write_text(json.dumps(content))
    before = (folder / "datalist.json").read_text()
    with pytest.raises(SystemExit, match=message):
        script.main([str(folder / "datalist.json"), *(a.format(folder=folder) for a in arguments)])
    assert (folder / "datalist.json").read_text() == before


def test_files_of_one_name_get_longer_names(script):
    assert script.case_names(["m/a.nii.gz", "m/b.nrrd"]) == ["a", "b"]
    assert script.case_names(["p1/seg.nii.gz", "p2/seg.nii.gz"]) == ["p1_seg", "p2_seg"]
