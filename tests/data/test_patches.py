# SPDX-License-Identifier: Apache-2.0
"""Patches on the disk: what is cut for them, what is refused, and random ones in place of chosen ones."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import annotate_patches, check_datalist, files, make_random_patches
from monai_ext.data.patch_folder import cut, patch_at, read_selection, write_patch_list, write_patches


def picture(number):
    """An image of 24 rows and 36 columns, and its label map of 8 nuclei with numbers far apart."""
    image = np.random.default_rng(number).integers(0, 256, (24, 36, 3)).astype(np.uint8)
    label = np.kron(100 * np.arange(1, 9).reshape(2, 4), np.ones((12, 9), int)).astype(np.uint16)
    label[::4] = 0
    return image, label


@pytest.fixture
def data(tmp_path):
    """A labelled set of three images."""
    entries = []
    for number in range(3):
        item = {key: f"{key}s/{number}.png" for key in ("image", "label")}
        for name, pixels in zip(item.values(), picture(number), strict=True):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / name)
        entries.append({**item, "group": f"slide {number}"})
    return Data(tmp_path, {"labels": {"0": "background", "1": "nucleus"}, "training": entries})


class Data:
    """The set, and a folder of patches of it."""

    def __init__(self, root, content):
        self.root, self.content, self.out = root, content, root / "out"
        self.dataset_dir, self.datalist = root / "data", root / "data/datalist.json"

    def options(self):
        self.datalist.write_text(json.dumps(self.content))
        return {"datalist": self.datalist, "dataset_dir": self.dataset_dir}

    def choose(self, *places):
        """Patches of 8 pixels, (image, row, column)."""
        chosen = [patch_at(f"images/{n}.png", row=i, column=j, size=8, group=f"slide {n}") for n, i, j in places]
        cuts = [cut(picture(place[0])[0], patch) for place, patch in zip(places, chosen, strict=True)]
        write_patches(self.out, chosen, cuts, how={"a": 1})
        write_patch_list(self.out, chosen)

    def assert_refused(self, *parts):
        """Annotating stops with one sentence that holds all ``parts``."""
        with pytest.raises(SystemExit) as caught:
            annotate_patches(self.out, **self.options())
        sentence = str(caught.value)
        assert all(part in sentence for part in parts), sentence
        assert ", expected " in sentence
        assert sentence.endswith(".")


def read(path):
    return np.asarray(Image.open(path))


def test_label_maps_are_cut_where_the_patches_lie(data):
    data.choose((0, 3, 5), (2, 16, 28), (0, 0, 0))
    assert not (data.out / "labels").exists()
    annotate_patches(data.out, **data.options())
    first = read(data.out / "labels/images_0_r3_c5.png")
    assert first.dtype == np.uint16
    expected = picture(0)[1][3:11, 5:13]  # rows 3 to 10 and columns 5 to 12: nuclei 100 and 200, two rows empty
    assert set(np.unique(expected)) == {0, 100, 200}
    np.testing.assert_array_equal(first, expected // 100)
    np.testing.assert_array_equal(
        read(data.out / "labels/images_2_r16_c28.png"), picture(2)[1][16:24, 28:36].astype(bool)
    )
    np.testing.assert_array_equal(read(data.out / "patches/images_2_r16_c28.png"), picture(2)[0][16:24, 28:36])
    (row,) = check_datalist(data.out / "datalist.json", data.out, needs={"training": ["image", "label"]})
    assert row.instances == [2, 1, 1]
    assert read_selection(data.out)[1]["group"] == "slide 2"


def test_a_patch_without_nuclei_has_an_empty_label_map(data):
    Image.fromarray(picture(1)[1] * 0).save(data.dataset_dir / "labels/1.png")
    data.choose((1, 0, 0))
    annotate_patches(data.out, **data.options())
    assert read(data.out / "labels/images_1_r0_c0.png").max() == 0


def test_what_cannot_be_annotated(data):
    data.assert_refused("selection.json", "cannot be read")
    data.choose((1, 2, 2))
    Image.fromarray(picture(1)[1].T.copy()).save(data.dataset_dir / "labels/1.png")
    data.assert_refused("labels/1.png", "(24, 36)")
    Image.fromarray(picture(1)[1].astype(bool).astype(np.uint8)).save(data.dataset_dir / "labels/1.png")
    data.assert_refused("labels/1.png", "uint8", "a mask", "instance map")
    (data.dataset_dir / "labels/1.png").unlink()
    data.assert_refused("labels/1.png", "no such file")
    del data.content["training"][1]["label"]
    data.assert_refused("datalist.json", "no label of images/1.png", "images_1_r2_c2")
    del data.content["training"][1]
    data.assert_refused("datalist.json", "no label of images/1.png")
    assert not (data.out / "labels").exists()


def test_two_patches_of_one_name_are_refused(data):
    with pytest.raises(ValueError, match="found the name 'images_0_r0_c0' twice"):
        data.choose((0, 0, 0), (0, 0, 0))
    assert not data.out.exists()


def test_random_patches_are_different_cuts_with_their_labels(data):
    path = make_random_patches(data.out, **data.options(), size=16, number=12, seed=3)
    assert path == str(data.out / "datalist.json")
    (row,) = check_datalist(path, data.out, needs={"training": ["image", "label"]})
    assert row.shapes == [(16, 16)] * 12
    chosen = read_selection(data.out)
    assert len({patch["name"] for patch in chosen}) == 12
    for patch in chosen:
        image, label = picture(int(patch["image"][7]))
        np.testing.assert_array_equal(read(data.out / f"patches/{patch['name']}.png"), cut(image, patch))
        np.testing.assert_array_equal(read(data.out / f"labels/{patch['name']}.png") > 0, cut(label, patch) > 0)
        assert patch["group"] == f"slide {patch['image'][7]}"
    other, again = (
        make_random_patches(data.root / str(seed), **data.options(), size=16, number=12, seed=seed) for seed in (4, 3)
    )
    assert read_selection(data.root / "3") == chosen != read_selection(data.root / "4")
    assert other != again


def test_patches_that_are_there_stay(data):
    data.choose((0, 3, 5))
    before = {file: file.read_bytes() for file in data.out.rglob("*") if file.is_file()}
    make_random_patches(data.out, **data.options(), size=16, number=2)
    assert {file: file.read_bytes() for file in data.out.rglob("*") if file.is_file()} == before


def test_more_random_patches_than_there_are(data):
    data.content["training"] = data.content["training"][:1]
    with pytest.raises(SystemExit, match="its images have 5 patches of 24 px, expected 6 or more"):
        make_random_patches(data.out, **data.options(), size=24, number=6)
    with pytest.raises(SystemExit, match="its images have 0 patches of 25 px"):
        make_random_patches(data.out, **data.options(), size=25, number=1)
    assert not data.out.exists()


def test_an_interrupted_run_leaves_no_list(data):
    (data.dataset_dir / "labels/0.png").unlink()
    with pytest.raises(SystemExit, match="no such file"):
        make_random_patches(data.out, **data.options(), size=24, number=15)
    assert not (data.out / "datalist.json").exists()


def test_other_processes_wait_for_the_first(data, monkeypatch):
    options = data.options()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(files, "WAIT_S", 0.3)
    with pytest.raises(TimeoutError, match="not written by the first process"):
        make_random_patches(data.out, **options, size=16, number=2)
    monkeypatch.setattr(files, "WAIT_S", 60.0)

    def write():
        time.sleep(0.3)
        data.choose((0, 3, 5))

    writer = threading.Thread(target=write)
    writer.start()
    path = make_random_patches(data.out, **options, size=16, number=2)
    writer.join()
    assert len(json.loads(Path(path).read_text())["training"]) == 1
