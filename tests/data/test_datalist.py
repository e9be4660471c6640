# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from monai_ext.data.datalist import label_names, labels_of, load_datalist, sections_of
from monai_ext.data.errors import DataFault

CONTENT = {
    "name": "three cases",
    "labels": {"0": "background", "1": "tumour"},
    "training": [
        {"image": "images/a.nii.gz", "points": "points/a.json", "group": "p1"},
        {"image": ["images/b_t1.nii.gz", "images/b_t2.nii.gz"], "points": "points/b.json", "group": "p2"},
    ],
    "validation": [{"image": "./images/v.nii.gz", "label": "labels/v.nii.gz"}],
    "test": ["images/t.nii.gz"],
}


def save(tmp_path, content):
    path = tmp_path / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_paths_become_absolute_and_other_keys_stay(tmp_path):
    training = load_datalist(save(tmp_path, CONTENT), tmp_path / "data", "training")
    assert training[0] == {
        "image": str(tmp_path / "data/images/a.nii.gz"),
        "points": str(tmp_path / "data/points/a.json"),
        "group": "p1",
    }
    assert training[1]["image"] == [str(tmp_path / f"data/images/b_{kind}.nii.gz") for kind in ("t1", "t2")]


def test_relative_dataset_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (entry,) = load_datalist(save(tmp_path, CONTENT), "data", "test")
    assert entry == {"image": str(tmp_path / "data/images/t.nii.gz")}


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_monai_reads_the_same_entries(tmp_path, section):
    for name in ("points/a.json", "points/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    datalist = save(tmp_path, CONTENT)
    theirs = load_decathlon_datalist(str(datalist), data_list_key=section, base_dir=str(tmp_path))
    assert load_datalist(datalist, tmp_path, section) == theirs


def test_a_symlink_of_the_user_is_followed(tmp_path):
    outside = tmp_path / "archive"
    outside.mkdir()
    (outside / "a.nii.gz").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(outside)
    datalist = save(tmp_path, {"training": [{"image": "images/a.nii.gz"}]})
    (entry,) = load_datalist(datalist, tmp_path / "data", "training")
    assert Path(entry["image"]).read_text() == "x"


@pytest.mark.parametrize("key", ["image", "label", "points"])
@pytest.mark.parametrize(
    "path",
    ["../a.nii", "images/../../a.nii", "images/..", "..\\a.nii", "/etc/a.nii", "C:\\a.nii", "C:a.nii", "\\\\host\\a"],
)
def test_paths_may_not_leave_the_folder(tmp_path, key, path):
    datalist = save(tmp_path, {"training": [{"image": "a.nii", key: path}]})
    with pytest.raises(
        DataFault, match=f"\\({key}\\): the .*path .*expected a path relative to and inside dataset_dir"
    ):
        load_datalist(datalist, tmp_path, "training")


def test_every_file_of_a_list_is_held_to_it(tmp_path):
    datalist = save(tmp_path, {"training": [{"image": ["a.nii", "../b.nii"]}]})
    with pytest.raises(DataFault, match="goes up"):
        load_datalist(datalist, tmp_path, "training")


@pytest.mark.parametrize("path", [3, None, "", " ", [], {"a": 1}, ["a.nii", 3]])
def test_a_path_must_be_text(tmp_path, path):
    datalist = save(tmp_path, {"training": [{"image": path}]})
    with pytest.raises(DataFault, match="expected a path"):
        load_datalist(datalist, tmp_path, "training")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"training": [}', "not JSON: Expecting value in line 1, column 15"),
        ("[1]", "a JSON list, expected an object"),
        ({"validation": []}, "no section 'training' beside validation"),
        ({}, "no section 'training' beside no other"),
        ({"training": {"image": "a"}}, "a JSON dict, expected a list"),
        ({"training": [{"image": "a"}, 3]}, "entry 2 is 3"),
    ],
)
def test_malformed_files(tmp_path, content, match):
    with pytest.raises(DataFault, match=match) as caught:
        load_datalist(save(tmp_path, content), tmp_path, "training")
    assert "datalist.json" in str(caught.value)


def test_missing_or_binary_file(tmp_path):
    with pytest.raises(DataFault, match="cannot be opened \\(No such file"):
        load_datalist(tmp_path / "none.json", tmp_path, "training")
    (tmp_path / "a.json").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(DataFault, match="not UTF-8"):
        load_datalist(tmp_path / "a.json", tmp_path, "training")


def test_labels(tmp_path):
    assert labels_of(save(tmp_path, CONTENT)) == {0: "background", 1: "tumour"}


@pytest.mark.parametrize("labels", [None, {}, ["a"], {"tumour": 1}])
def test_bad_labels(tmp_path, labels):
    content = {"training": []} if labels is None else {"labels": labels}
    with pytest.raises(DataFault, match=r"\(labels\).*expected an object such as"):
        labels_of(save(tmp_path, content))


def test_sections():
    assert sections_of(
        {**CONTENT, "modality": {"0": "MRI"}, "shades": [1], "extra": [{"image": "a"}], "unlabeled": []}
    ) == [
        "training",
        "validation",
        "test",
        "extra",
        "unlabeled",
    ]


def test_label_names_for_results(tmp_path):
    file = tmp_path / "list.json"
    for content in (None, '{"training": []}'):
        if content:
            file.write_text(content)
        assert label_names(file) == {1: "object"}
    file.write_text('{"labels": {"0": "background", "1": "tumour"}}')
    assert label_names(file) == {0: "background", 1: "tumour"}
    file.write_text('{"labels": ["tumour"]}')
    with pytest.raises(DataFault, match="labels"):
        label_names(file)
