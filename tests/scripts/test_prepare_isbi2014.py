# SPDX-License-Identifier: Apache-2.0
"""The ISBI 2014 script, on small made-up files of MATLAB's form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from monai_ext.data import check_datalist
from monai_ext.data.coco import CocoReader

SHAPE = (16, 20)
SECTIONS = ("training", "unlabeled", "validation", "test")


def mask(*boxes):
    """Mask with blocks of (top, left, height, width)."""
    made = np.zeros(SHAPE, bool)
    for top, left, height, width in boxes:
        made[top : top + height, left : left + width] = True
    return made


CYTOPLASMS = [mask((1, 1, 8, 9)), mask((4, 6, 9, 10))]
NUCLEI = [mask((3, 3, 2, 2)), mask((9, 11, 3, 2))]


def cells(entries):
    """A cell array (n, 1)."""
    made = np.empty((len(entries), 1), dtype=object)
    made[:, 0] = entries
    return made


def write(folder, stem, names, count, *, nuclei=None, cytoplasms=CYTOPLASMS, images=None):
    pictures = [np.full(SHAPE, 10 * number, np.uint8) for number in range(count)] if images is None else images
    savemat(folder / f"{stem}.mat", {names[0]: cells(pictures)})
    union = np.any(NUCLEI, axis=0) if nuclei is None else nuclei
    truth = {names[1]: cells([cells(cytoplasms)] * count), names[2]: cells([union] * count)}
    savemat(folder / f"{stem}_GT.mat", {**truth, "CellNum": np.full((count, 1), 2)})


TRAIN = ("isbi_train", ("ISBI_Train", "train_Cytoplasm", "train_Nuclei"))
TEST = ("isbi_test90", ("ISBI_Test90", "test_Cytoplasm", "test_Nuclei"))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder, *TRAIN, 6)
    write(folder, *TEST, 3)
    return folder


@pytest.fixture
def prepare(script, tmp_path, source):
    def run(*options, labeled=2, validation=1, out="out"):
        counts = ["--labeled", str(labeled), "--validation", str(validation)]
        script("prepare_isbi2014").main([str(source), "--out", str(tmp_path / out), *counts, *options])
        return json.loads((tmp_path / out / "datalist.json").read_text())

    return run


def test_sections_pictures_and_masks(tmp_path, prepare, capsys):
    content = prepare()
    out = tmp_path / "out"
    assert [len(content[section]) for section in SECTIONS] == [2, 3, 1, 3]
    assert content["labels"] == {"0": "background", "1": "cytoplasm", "2": "nucleus"}
    rows = check_datalist(out / "datalist.json", out, needs={s: ["image", "annotations"] for s in SECTIONS})
    assert [row.annotations for row in rows] == [4 * 2, 4 * 3, 4 * 1, 4 * 3]
    images = [item["image"] for section in SECTIONS for item in content[section]]
    assert len({item["group"] for section in SECTIONS for item in content[section]}) == len(set(images)) == 9
    for name in images:
        grey = 10 * int(name[-7:-4])
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), np.full((*SHAPE, 3), grey))
    reader = CocoReader(out / content["annotations"])
    assert set(reader.shapes) == set(images)
    for name in images:
        assert [one["category_id"] for one in reader.annotations(name)] == [1, 1, 2, 2]
        for found, expected in zip(reader.masks(name), CYTOPLASMS + NUCLEI, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert "cytoplasm: 18 instances\nnucleus: 18 instances\n" in capsys.readouterr().out


def test_nuclei_of_a_mask_are_its_parts_and_those_of_a_label_map_its_numbers(source, tmp_path, prepare):
    def areas(nuclei):
        write(source, *TRAIN, 6, nuclei=nuclei)
        content = prepare(out="other")
        reader = CocoReader(tmp_path / "other" / content["annotations"])
        found = reader.annotations(content["training"][0]["image"])
        return sorted(one["area"] for one in found if one["category_id"] == 2)

    touching = np.zeros(SHAPE)
    touching[3:5, 3:6], touching[3:5, 6:8] = 1, 2
    assert areas(touching) == [4, 6]
    assert areas((touching > 0) * np.uint8(255)) == [10]
    assert areas(np.zeros(SHAPE, np.uint8)) == []


@pytest.mark.parametrize("cytoplasms", [[], [np.zeros(SHAPE, bool)], [np.zeros((0, 0))]])
def test_a_picture_without_cells(source, tmp_path, prepare, cytoplasms):
    write(source, *TRAIN, 6, cytoplasms=cytoplasms)
    content = prepare()
    reader = CocoReader(tmp_path / "out/annotations.json")
    assert [one["category_id"] for one in reader.annotations(content["training"][0]["image"])] == [2, 2]


def test_more_labels_hold_those_of_fewer_and_the_validation_stays(prepare):
    def groups(content, section):
        return {item["group"] for item in content.get(section, [])}

    few, more, other = prepare(labeled=1), prepare(labeled=4), prepare("--seed", "1", labeled=1)
    assert groups(few, "training") < groups(more, "training")
    assert groups(few, "validation") == groups(more, "validation")
    assert any(groups(few, section) != groups(other, section) for section in ("training", "validation"))
    everything = prepare(labeled=6, validation=0)
    assert len(groups(everything, "training")) == 6
    assert not groups(everything, "unlabeled") | groups(everything, "validation")


def test_other_files_and_names(source, tmp_path, prepare):
    write(source, "trainset", ("trainset", "cyto", "nuc"), 3)
    names = ["--train_names", "trainset", "cyto", "nuc"]
    content = prepare("--train_files", "trainset.mat", "trainset_GT.mat", *names)
    assert [len(content.get(section, [])) for section in SECTIONS] == [2, 0, 1, 3]


def test_faults_get_a_sentence(source, prepare):
    with pytest.raises(SystemExit, match=r"found 6 labelled and 1 for validation, expected .* of 6 pictures"):
        prepare(labeled=6)
    with pytest.raises(SystemExit, match="found 0 labelled"):
        prepare(labeled=0)
    with pytest.raises(SystemExit, match="expected another folder"):
        prepare(out="source")
    with pytest.raises(SystemExit, match=r"isbi_train_GT\.mat: found no variable cyto, expected cells"):
        prepare("--train_names", "ISBI_Train", "cyto", "train_Nuclei")
    with pytest.raises(SystemExit, match="found no cell array CellNum, expected cells"):
        prepare("--train_names", "ISBI_Train", "train_Cytoplasm", "CellNum")
    write(source, *TRAIN, 6, nuclei=np.zeros((16, 19), bool))
    with pytest.raises(SystemExit, match=r"in picture 1 found a mask of shape \(16, 19\), expected \(16, 20\)"):
        prepare()
    write(source, *TRAIN, 6)
    savemat(source / "isbi_train.mat", {"ISBI_Train": cells([np.zeros(SHAPE, np.uint8)] * 5)})
    with pytest.raises(SystemExit, match="found 6 cells of train_Cytoplasm and 6 of train_Nuclei, expected 5"):
        prepare()
    savemat(source / "isbi_train.mat", {"ISBI_Train": cells([np.zeros(SHAPE)] * 6)})
    with pytest.raises(SystemExit, match=r"found float64 of shape .* as picture 1, expected uint8"):
        prepare()


def test_files_that_are_no_older_matlab_files(source, prepare):
    path = source / "isbi_train.mat"
    whole = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(SystemExit, match=r"found a MATLAB file of version 7\.3, expected an older one"):
        prepare()
    for content in (b"", b"no file of MATLAB" * 20, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=r"isbi_train\.mat: found a file that cannot be read"):
            prepare()
    path.unlink()
    with pytest.raises(SystemExit, match=r"isbi_train\.mat: found no such file"):
        prepare()
