# SPDX-License-Identifier: Apache-2.0
"""The scripts for published sets of tiles, on small trees of the same layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import check_datalist

SECTIONS = ("training", "validation", "test")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path):
    return np.asarray(Image.open(path))


def stain(height, width, *, seed=0):
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)


def blobs(height, width, *, seed=0):
    """A mask of 0 and 255 with foreground in every corner of it."""
    return (np.random.default_rng(seed).random((height, width)) < 0.3).astype(np.uint8) * 255


def load(out):
    """Read a data list after the bundle's own check, which refuses groups in two sections."""
    check_datalist(out / "datalist.json", out)
    return json.loads((out / "datalist.json").read_text())


def groups_of(datalist):
    return {section: {item["group"] for item in datalist.get(section, [])} for section in SECTIONS}


def her2_tree(root, *, side=64, count=24, patients=12):
    for n in range(count):
        save(root / f"images/f{n:02d}.png", stain(side, side, seed=n))
        save(root / f"masks/f{n:02d}.png", blobs(side, side, seed=n))
    if patients:
        rows = "".join(f"f{n:02d}.png,patient-{n % patients}\n" for n in range(count))
        (root / "patients.csv").write_text("file,group\n" + rows)


@pytest.fixture
def her2(script, tmp_path):
    def run(*options, out="out"):
        source = str(tmp_path / "source")
        script("prepare_her2").main([source, "--out", str(tmp_path / out), "--size", "32", "--step", "32", *options])
        return load(tmp_path / out)

    return run


@pytest.fixture
def cnseg(script, tmp_path):
    def run(*options, out="out"):
        script("prepare_cnseg").main([str(tmp_path / "source"), "--out", str(tmp_path / out), "--size", "32", *options])
        return load(tmp_path / out)

    return run


def test_her2_fields_are_cut_and_split_by_patient(tmp_path, her2, capsys):
    her2_tree(tmp_path / "source")
    glass = stain(64, 64, seed=3)
    glass[:32] = 245
    save(tmp_path / "source/images/f03.png", glass)
    datalist = her2()
    assert datalist["labels"] == {"0": "background", "1": "membrane"}
    groups = groups_of(datalist)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 12
    counts = {section: len(datalist[section]) for section in SECTIONS}
    assert sum(counts.values()) == 24 * 4 - 2
    assert abs(counts["test"] / 94 - 555 / 2905) <= 8 / 94  # one patient has 8 tiles
    assert abs(counts["validation"] / (94 - counts["test"]) - 0.1) <= 8 / 94
    for section in SECTIONS:
        for item in datalist[section]:
            stem, row, column = item["image"].removeprefix("images/").removesuffix(".png").split("_")
            assert item["group"] == f"patient-{int(stem[1:]) % 12}"
            window = (slice(int(row), int(row) + 32), slice(int(column), int(column) + 32))
            for key, field in (
                ("image", read(tmp_path / f"source/images/{stem}.png")),
                ("label", read(tmp_path / f"source/masks/{stem}.png") // 255),
            ):
                assert np.array_equal(read(tmp_path / "out" / item[key]), field[window])
    printed = capsys.readouterr().out
    assert "24 fields, 96 tiles cut, 2 dropped by the tissue filter, 94 kept" in printed
    assert "the paper has 126 fields and 2905 tiles, here are 94" in printed
    assert "2350 for training, without validation, and 555 for testing" in printed
    assert her2() == datalist


def test_her2_validation_does_not_change_the_test_patients(tmp_path, her2):
    her2_tree(tmp_path / "source")
    splits = [groups_of(her2("--validation", share)) for share in ("0", "0.1", "0.3")]
    assert splits[0]["test"] == splits[1]["test"] == splits[2]["test"] != set()
    assert [len(split["validation"]) for split in splits] == [0, 1, 3]
    assert any(groups_of(her2("--seed", seed))["test"] != splits[1]["test"] for seed in ("1", "2"))


def test_her2_overlapping_and_all_tiles(tmp_path, her2):
    her2_tree(tmp_path / "source")
    save(tmp_path / "source/images/f00.png", np.full((64, 64, 3), 250, np.uint8))
    assert sum(len(her2("--step", "16")[section]) for section in SECTIONS) == 23 * 9
    assert sum(len(her2("--min_tissue", "0")[section]) for section in SECTIONS) == 24 * 4


def test_her2_tiles_are_taken_as_they_are(tmp_path, her2, capsys):
    her2_tree(tmp_path / "source", side=32)
    save(tmp_path / "source/images/f00.png", np.full((32, 32, 3), 250, np.uint8))  # the owners kept it
    datalist = her2()
    items = [item for section in SECTIONS for item in datalist[section]]
    assert sorted(item["image"] for item in items) == [f"images/f{n:02d}.png" for n in range(24)]
    for item in items:
        assert np.array_equal(read(tmp_path / "out" / item["image"]), read(tmp_path / "source" / item["image"]))
    (tmp_path / "source/patients.csv").unlink()
    with pytest.raises(SystemExit, match=r"patients\.csv: found no such file, expected one"):
        her2()


def test_her2_without_patients_is_split_by_field(tmp_path, her2, capsys):
    her2_tree(tmp_path / "source", patients=0)
    assert set.union(*groups_of(her2()).values()) == {f"f{n:02d}" for n in range(24)}
    assert "the split is by field" in capsys.readouterr().err


def test_her2_errors(tmp_path, her2):
    with pytest.raises(SystemExit, match=r"source/images: found no such files, expected \.png"):
        her2()
    her2_tree(tmp_path / "source")
    (tmp_path / "source/masks/f05.png").unlink()
    with pytest.raises(SystemExit, match=r"f05\.png: found no mask \(one of 1\), expected one for each image"):
        her2()
    with pytest.raises(SystemExit, match="expected another folder"):
        her2("--out", str(tmp_path / "source"))
    assert read(tmp_path / "source/images/f05.png").shape == (64, 64, 3)


CLUSTER = {"difficult": 6, "normal": 8, "sample": 6, "test-difficult": 2, "test-normal": 3, "test-sample": 2}


def cnseg_tree(root, *, side=32, masks=True):
    """Training images named after ten slides, two each, and test images that are numbered through."""
    number = 0
    for folder, count in CLUSTER.items():
        for n in range(count):
            stem = f"case-{n:03d}" if folder.startswith("test") else f"s{number // 2}_{number % 2}"
            save(root / folder / f"{stem}.png", stain(side, side, seed=number))
            if masks:
                save(root / f"{folder}_masks" / f"{stem}.png", blobs(side, side, seed=number))
            number += 1


def test_cnseg_keeps_the_owners_test_folders(tmp_path, cnseg, capsys):
    cnseg_tree(tmp_path / "source")
    datalist = cnseg("--validation", "0.2")
    assert [len(datalist[section]) for section in SECTIONS] == [16, 4, 7]
    assert all("images/test-" in item["image"] for item in datalist["test"])
    groups = groups_of(datalist)
    assert groups["training"] | groups["validation"] == {f"s{n}" for n in range(10)}
    assert len(groups["training"] & groups["validation"]) == 0
    assert groups["test"] == {"case"}
    for section in SECTIONS:
        for item in datalist[section]:
            folder, stem = item["image"].removeprefix("images/").removesuffix(".png").split("_", 1)
            assert np.array_equal(
                read(tmp_path / "out" / item["image"]), read(tmp_path / "source" / folder / f"{stem}.png")
            )
            mask = read(tmp_path / f"source/{folder}_masks/{stem}.png")
            assert np.array_equal(read(tmp_path / "out" / item["label"]), mask > 0)
    printed = capsys.readouterr().out
    assert "training folders: 20 images, the paper has 1500" in printed
    assert "test folders: 7 images, the paper has 454" in printed
    assert cnseg("--validation", "0.2") == datalist
    assert "validation" not in cnseg("--validation", "0")
    assert any(groups_of(cnseg("--seed", seed))["validation"] != groups["validation"] for seed in "12")


def test_cnseg_guesses_groups_with_care(tmp_path, script):
    guess = script("prepare_cnseg").choose_groups

    def of(training, test):
        names = {"training": training, "test": test}
        return guess({s: {n: (tmp_path / n.partition("/")[2],) * 2 for n in rows} for s, rows in names.items()}, None)

    training = ["n/a_1.png", "n/a-2.png", "n/b_1.png", "n/b_2.png", "d/c_1.png", "d/7.png", "n/7.png", "d/x1.png"]
    groups = of(training, ["t/b_9.png", "t/e_1.png", "t/e_2.png"])
    assert groups["n/a_1.png"] == groups["n/a-2.png"] == "a"
    assert groups["n/b_1.png"] == "n/b_1.png"  # the owners divided b
    assert groups["n/b_2.png"] == "n/b_2.png"
    assert groups["t/b_9.png"] == "t/b_9.png"
    assert groups["d/c_1.png"] == "d/c_1.png"  # shared with none
    assert groups["d/7.png"] == groups["n/7.png"] == "7"
    assert groups["d/x1.png"] == "d/x1.png"
    assert groups["t/e_1.png"] == groups["t/e_2.png"] == "e"
    numbered = [f"n/image_{n}.png" for n in range(5)]
    assert of([*numbered, "n/z_1.png"], []) == {name: name for name in [*numbered, "n/z_1.png"]}


def test_cnseg_groups_from_a_table(tmp_path, cnseg):
    cnseg_tree(tmp_path / "source")
    images = [path for folder in CLUSTER for path in sorted((tmp_path / "source" / folder).iterdir())]
    rows = {f"{path.parent.name}_{path.stem}": path.parent.name + str(n % 3) for n, path in enumerate(images)}
    (tmp_path / "g.csv").write_text("file,group\n" + "".join(f"{name},{group}\n" for name, group in rows.items()))
    groups = groups_of(cnseg("--groups", str(tmp_path / "g.csv")))
    assert set.union(*groups.values()) == set(rows.values())
    (tmp_path / "g.csv").write_text("file,group\n" + "".join(f"{name},{n % 3}\n" for n, name in enumerate(rows)))
    with pytest.raises(SystemExit, match=r"g\.csv: found the group 0 in training and test folders"):
        cnseg("--groups", str(tmp_path / "g.csv"))


def labelme(points, *, kind="polygon", side=32):
    return {"imageHeight": side, "imageWidth": side, "shapes": [{"points": points, "shape_type": kind}]}


def test_cnseg_fills_labelme_polygons(tmp_path, cnseg):
    root = tmp_path / "source"
    cnseg_tree(root, masks=False)
    square = [[4, 8], [14, 8], [14, 12], [4, 12]]  # x from 4 to 14, y from 8 to 12
    for folder in CLUSTER:
        for path in (root / folder).glob("*.png"):
            path.with_suffix(".json").write_text(json.dumps(labelme(square)))
    expected = np.zeros((32, 32), np.uint8)
    expected[8:12, 4:14] = 1
    datalist = cnseg()
    assert sum(len(datalist[section]) for section in SECTIONS) == 27
    for item in datalist["training"]:
        assert np.array_equal(read(tmp_path / "out" / item["label"]), expected)
    broken = root / "difficult/s0_0.json"
    for content, match in (
        (labelme(square, kind="circle"), "found a circle of 4 points, expected polygons of 3 or more"),
        (labelme(square[:2]), "found a polygon of 2 points"),
        (labelme(square, side=64), r"found polygons of an image of \(64, 64\), expected \(32, 32\)"),
        ({"annotations": []}, "found no LabelMe polygons .*'shapes'"),
    ):
        broken.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=rf"s0_0\.json: {match}"):
            cnseg()
    broken.unlink()
    with pytest.raises(SystemExit, match=r"s0_0\.png: found neither difficult_masks/s0_0\.png nor s0_0\.json"):
        cnseg()


def test_cnseg_cuts_large_images_and_keeps_small_ones(tmp_path, cnseg):
    root = tmp_path / "source"
    cnseg_tree(root)
    for name, shape in (("normal/s3_0", (48, 64)), ("test-sample/case-000", (20, 40))):
        folder, stem = name.split("/")
        save(root / folder / f"{stem}.png", stain(*shape))
        save(root / f"{folder}_masks/{stem}.png", blobs(*shape))
    datalist = cnseg()
    tiles = [item for s in SECTIONS for item in datalist[s] if item["image"].startswith("images/normal_s3_0")]
    corners = {tuple(map(int, item["image"].removesuffix(".png").split("_")[-2:])): item for item in tiles}
    assert set(corners) == {(0, 0), (0, 32), (16, 0), (16, 32)}
    assert {item["group"] for item in tiles} == {"s3"}
    for (row, column), item in corners.items():
        window = (slice(row, row + 32), slice(column, column + 32))
        assert np.array_equal(read(tmp_path / "out" / item["image"]), stain(48, 64)[window])
        assert np.array_equal(read(tmp_path / "out" / item["label"]), blobs(48, 64)[window] > 0)
    assert np.array_equal(read(tmp_path / "out/images/test-sample_case-000.png"), stain(20, 40))
    assert np.array_equal(read(tmp_path / "out/labels/test-sample_case-000.png"), blobs(20, 40) > 0)


def test_cnseg_patches_and_errors(tmp_path, cnseg, capsys):
    with pytest.raises(SystemExit, match="found none of the training folders, expected difficult, normal, sample"):
        cnseg()
    for n in range(12):
        save(tmp_path / f"source/train-images/{n}.png", stain(32, 32, seed=n))
        save(tmp_path / f"source/train-masks/{n}.png", blobs(32, 32, seed=n))
    datalist = cnseg("--layout", "patch")
    assert [len(datalist.get(section, [])) for section in SECTIONS] == [11, 1, 0]
    assert "the paper" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected another folder"):
        cnseg("--layout", "patch", "--out", str(tmp_path / "source"))
    (tmp_path / "source/train-masks/3.png").unlink()
    with pytest.raises(SystemExit, match=r"train-images/3\.png: found neither train-masks/3\.png"):
        cnseg("--layout", "patch")
