# SPDX-License-Identifier: Apache-2.0
"""The scripts for published sets of cells, on small trees of the same layouts."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from monai_ext.data import check_datalist
from monai_ext.data.points_io import read_points

SECTIONS = ("training", "validation", "test")
YEAST = Path(os.environ.get("FRUGAL_DATA", "")) / "yeast_trap_brightfield"


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path):
    return np.asarray(Image.open(path))


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(1, 200, shape, dtype=dtype)


def load(out):
    """Read a data list after the bundle's own check, which refuses groups in two sections."""
    check_datalist(out / "datalist.json", out)
    return json.loads((out / "datalist.json").read_text())


def names(datalist, section):
    return {Path(item["image"]).stem for item in datalist.get(section, [])}


def points_of(out, item):
    return read_points(out / item["points"]).positions.tolist()


@pytest.fixture
def prepare(script, tmp_path):
    def run(name, *options, out="out"):
        script(f"prepare_{name}").main([str(tmp_path / "source"), "--out", str(tmp_path / out), *options])
        return load(tmp_path / out)

    return run


# Yeast in traps


def box(category, *corners):
    return {"category": category, "box_xyxy": corners, "point_xy": [0, 0]}


def yeast_tree(root):
    boxes = {
        "trap_1.png": [box("trap", 0, 0, 9, 9), box("cell_of_interest", 2, 4, 12, 10)],
        "trap_2.png": [box("additional_cell", 1, 1, 13, 13), box("cell_of_interest", 8, 2, 20, 14)],
        "trap_3.png": [box("trap", 0, 0, 9, 9)],
        "trap_4.png": [box("cell_of_interest", 2, 2, 12, 12)],
    }
    for n, name in enumerate(boxes):
        save(root / "images" / name, noise(24, 32, seed=n))
    (root / "annotations.json").write_text(json.dumps(boxes))


def test_yeast_points_are_the_centres_of_cells(tmp_path, prepare):
    yeast_tree(tmp_path / "source")
    datalist = prepare("yeast_trap", "--test", "trap_4")
    assert names(datalist, "training") == {"trap_1", "trap_2"}
    assert names(datalist, "test") == {"trap_3", "trap_4"}  # 3 has a trap only
    assert "validation" not in datalist
    items = [item for section in ("training", "test") for item in datalist[section]]
    assert all("label" not in item and item["diameter_px"] == 10 for item in items)
    assert points_of(tmp_path / "out", items[0]) == [[7, 7]]
    assert points_of(tmp_path / "out", items[1]) == [[7, 7], [14, 8]]
    assert "points" not in items[2]


def test_yeast_faults(tmp_path, prepare):
    with pytest.raises(SystemExit, match=r"annotations\.json: found no such file"):
        prepare("yeast_trap")
    yeast_tree(tmp_path / "source")
    with pytest.raises(SystemExit, match="--test trap_9: found no such picture"):
        prepare("yeast_trap", "--test", "trap_9")
    (tmp_path / "source/annotations.json").write_text(json.dumps({"/etc/passwd": []}))
    with pytest.raises(SystemExit, match="absolute path"):
        prepare("yeast_trap", "--test")
    (tmp_path / "source/annotations.json").write_text("[1]")
    with pytest.raises(SystemExit, match="found another structure"):
        prepare("yeast_trap")


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_yeast_pictures(script, tmp_path):
    script("prepare_yeast_trap").main([str(YEAST), "--out", str(tmp_path)])
    rows = check_datalist(tmp_path / "datalist.json", tmp_path)
    assert [(row.entries, sum(count for count, _ in row.points)) for row in rows] == [(3, 7), (2, 3)]


# LIVECell


def square(left, top, side):
    return [left, top, left + side, top, left + side, top + side, left, top + side]


CELLS = [square(2, 2, 8), square(20, 4, 6), square(10, 12, 7), square(28, 14, 5)]


def livecell_tree(root, lists, *, pixels=None):
    """``lists``: by published list, the file names and their polygons; ``pixels``: the seed of a file's pixels."""
    for word, rows in lists.items():
        content = {"images": [], "annotations": []}
        for number, (name, cells) in enumerate(rows, start=100):
            content["images"].append({"id": number, "file_name": name, "width": 40, "height": 24})
            for cell in cells:
                content["annotations"].append({"image_id": number, "segmentation": [cell], "iscrowd": 0})
            folder = f"livecell_{'test' if word == 'test' else 'train_val'}_images"
            seed = (pixels or {}).get(name, zlib.crc32(name.encode()))
            save(root / "images" / folder / name.partition("_")[0] / name, noise(24, 40, seed=seed))
        path = root / f"annotations/LIVECell/livecell_coco_{word}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def field(line, well, count, *, cells=CELLS, start=0):
    return [(f"{line}_Phase_{well}_1_{start + n:02d}d00h00m_1.tif", cells) for n in range(count)]


def whole():
    """Two lines of several fields; the published lists divide a field of the first."""
    a172, bv2 = ([row for n in range(8) for row in field(line, f"B{n}", 2)] for line in ("A172", "BV2"))
    return {"train": a172[:-1] + bv2, "val": a172[-1:], "test": field("A172", "H1", 2) + field("SkBr3", "H1", 1)}


def test_livecell_cells_points_and_keys(tmp_path, prepare):
    livecell_tree(tmp_path / "source", whole())
    datalist = prepare("livecell")
    assert names(datalist, "test") == {n.removesuffix(".tif") for n, _ in whole()["test"]}
    assert {len(datalist[section]) for section in ("training", "validation")} == {28, 4}
    groups = {section: {item["group"] for item in datalist[section]} for section in SECTIONS}
    assert groups["training"] | groups["validation"] == {
        f"{line}_Phase_B{n}_1" for line in ("A172", "BV2") for n in range(8)
    }
    assert {group.partition("_")[0] for group in groups["validation"]} == {"A172", "BV2"}
    first = datalist["test"][0]
    assert first["cell_line"] == "A172"
    assert [(item["rescale"], item["prior_px"]) for item in datalist["test"]] == [(1, 15), (1, 15), (1.3333, 12)]
    assert {(i["rescale"], i["prior_px"]) for i in datalist["training"] if i["cell_line"] == "BV2"} == {(2, 10)}
    # A square from 2 to 10 covers the pixels 2 to 9, whose centres are 2 to 9 as indices.
    assert points_of(tmp_path / "out", first) == [[5.5, 5.5], [22.5, 6.5], [13, 15], [30, 16]]
    label = read(tmp_path / "out" / first["label"])
    expected = np.zeros((24, 40), int)
    for number, cell in enumerate(CELLS, start=1):
        vertices = np.array(cell).reshape(-1, 2)[:, ::-1]
        expected[polygon2mask((24, 40), vertices - 0.5)] = number
    np.testing.assert_array_equal(label, expected)
    assert (tmp_path / "out" / first["image"]).is_symlink()
    assert prepare("livecell", "--line", "BV2", out="one").keys() == {"name", "labels", "training", "validation"}


def test_livecell_published_lists(tmp_path, prepare):
    livecell_tree(tmp_path / "source", whole())
    datalist = prepare("livecell", "--split", "published")
    assert [len(datalist[section]) for section in SECTIONS] == [31, 1, 3]
    assert datalist["validation"][0]["group"] == "A172_Phase_B7_1_01d00h00m_1"


def test_livecell_contested_pixels_go_to_the_smaller_cell(tmp_path, script, prepare):
    large, small, again = square(2, 2, 16), square(6, 6, 4), square(2, 2, 15)
    lists = whole()
    for n, cells in enumerate(([large, small, again], [small, large])):
        lists["test"][n] = (lists["test"][n][0], cells)
    livecell_tree(tmp_path / "source", lists)
    labels = [read(tmp_path / "out" / item["label"]) for item in prepare("livecell", "--fewest", "0")["test"][:2]]
    assert np.unique(labels[0]).tolist() == [0, 1, 2]  # the third covers the first
    assert (labels[0] == 2).sum() == 16
    assert (labels[0] == 1).sum() == 16 * 16 - 16
    np.testing.assert_array_equal(labels[0] > 0, labels[1] > 0)
    np.testing.assert_array_equal(labels[0] == 2, labels[1] == 1)  # whatever the order
    empty = script("_livecell")
    assert empty.drawn_once([empty._run_lengths([], 24, 40), empty._run_lengths([[1, 1, 2, 2]], 24, 40)]) == []
    assert not empty.label_map([], (24, 40)).any()


def test_livecell_doubles_and_nearly_empty_pictures_are_told(tmp_path, prepare, capsys):
    lists = whole()
    twice, bare, copied, other = (lists["train"][n][0] for n in (0, 2, 4, 20))
    lists["train"] += [(twice, [*CELLS, square(33, 2, 5)])]
    lists["val"] += [(twice, CELLS[:1])]
    lists["train"][2] = (bare, CELLS[:1])
    livecell_tree(tmp_path / "source", lists, pixels={copied: 1000, other: 1000})
    datalist = prepare("livecell", "--split", "published")
    assert Path(twice).stem in names(datalist, "validation") - names(datalist, "training")
    item = next(item for item in datalist["validation"] if Path(item["image"]).name == twice)
    assert len(points_of(tmp_path / "out", item)) == 5
    printed = capsys.readouterr().out
    assert "annotated more than once: 2 of training" in printed
    assert f"same pixels: {copied} (training, 4 cells), {other} (training, 4 cells)" in printed
    assert f"nearly empty: {bare} (training), 1 cells, field 2" in printed
    assert {Path(bare).stem, Path(copied).stem, Path(other).stem} <= names(datalist, "training")
    datalist = prepare("livecell", "--split", "published", "--drop", "same", "empty")
    assert Path(copied).stem in names(datalist, "training")
    assert not {Path(bare).stem, Path(other).stem} & names(datalist, "training")


def test_livecell_a_tenth_of_the_field_is_nearly_empty(tmp_path, script, prepare):
    many = [square(x, y, 2) for x in range(0, 39, 3) for y in range(0, 22, 3)]
    lists = whole()
    lists["test"] = [*field("SKOV3", "C1", 4, cells=many), *field("SKOV3", "C1", 1, cells=many[:9], start=9)]
    livecell_tree(tmp_path / "source", lists)
    datalist = prepare("livecell", "--drop", "empty")
    assert len(many) == 104
    assert len(datalist["test"]) == 4


def test_livecell_training_fields_of_the_test_set_are_left_out(tmp_path, prepare, capsys):
    lists = whole()
    lists["test"] += field("BV2", "B3", 1, start=9)
    livecell_tree(tmp_path / "source", lists)
    datalist = prepare("livecell")
    assert len(datalist["training"]) + len(datalist["validation"]) == 30
    assert "BV2_Phase_B3_1: 2 pictures of this field are left out of training" in capsys.readouterr().out


def test_livecell_faults(tmp_path, prepare):
    with pytest.raises(SystemExit, match=r"livecell_coco_test\.json: found no such file"):
        prepare("livecell")
    livecell_tree(tmp_path / "source", whole())
    gone = next((tmp_path / "source/images/livecell_test_images/SkBr3").iterdir())
    gone.unlink()
    with pytest.raises(SystemExit, match=rf"found no file {gone.name} .*expected it in images"):
        prepare("livecell")
    livecell_tree(tmp_path / "source", whole() | {"test": [("HeLa_Phase_A1_1_00d00h00m_1.tif", CELLS)]})
    with pytest.raises(SystemExit, match=r"found the image HeLa_Phase.* of a line of A172"):
        prepare("livecell")
    (tmp_path / "source/annotations/LIVECell/livecell_coco_test.json").write_text('{"images": [{}]}')
    with pytest.raises(SystemExit, match="found another structure"):
        prepare("livecell")


# A431


def a431_tree(root, *, training=4, test=6, prefix=""):
    rows = []
    for n in range(training):
        save(root / f"train/img_{n:04d}.tif", noise(32, 40, seed=n))
        name = f"{prefix}img_{n:04d}.tif"
        rows.append({"image_file": name, "mask_file": name, "locations": [[3.5, 20], [10, n]]})
    for n in range(1, test + 1):
        numbers = np.zeros((32, 40), np.uint16)
        numbers[2:6, 20:26] = n
        save(root / f"test/img_{n:04d}.tif", noise(32, 40, seed=50 + n))
        save(root / f"test/masks_{n:04d}.tif", numbers)
    (root / "train.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a431(tmp_path, prepare, prefix):
    a431_tree(tmp_path / "source", prefix=prefix)
    datalist = prepare("a431", "--validation", "2")
    assert [len(datalist[section]) for section in SECTIONS] == [4, 2, 4]
    assert "label" not in datalist["training"][2]
    assert points_of(tmp_path / "out", datalist["training"][2]) == [[20, 3.5], [2, 10]]  # [y, x] there
    for section in ("validation", "test"):
        for item in datalist[section]:
            number = int(Path(item["image"]).stem[-4:])
            label = read(tmp_path / "out" / item["label"])
            assert label.dtype == np.uint16
            assert label[2:6, 20:26].min() == label.max() == number
            assert points_of(tmp_path / "out", item) == [[22.5, 3.5]]
    assert "validation" not in prepare("a431", "--validation", "0", out="paper")


def test_a431_faults(tmp_path, prepare):
    with pytest.raises(SystemExit, match=r"train\.json: found no such file"):
        prepare("a431")
    a431_tree(tmp_path / "source", test=2)
    with pytest.raises(SystemExit, match="--validation: found 5, expected 0 to 1 of the test images"):
        prepare("a431")
    (tmp_path / "source/test/masks_0001.tif").unlink()
    with pytest.raises(SystemExit, match=r"masks_0001\.tif: found no such file .one of 1.*a mask for each image"):
        prepare("a431")
    (tmp_path / "source/train.json").write_text(json.dumps([{"image_file": "../x.tif", "locations": []}]))
    with pytest.raises(SystemExit, match=r"goes up by '\.\.'"):
        prepare("a431")
    (tmp_path / "source/train.json").write_text(json.dumps([{"image_file": "x.tif", "locations": [[1, 2, 3]]}]))
    with pytest.raises(SystemExit, match="found another structure"):
        prepare("a431")


# TissueNet


def tissuenet_arrays(count, size, *, seed=0):
    """Stains, and label maps of cells and of the nuclei in them; those of the first picture are exchanged."""
    stains = np.random.default_rng(seed).random((count, size, size, 2)).astype(np.float32) * 900
    maps = np.zeros((count, size, size, 2), np.int32)
    maps[:, 2:10, 4:12, 0], maps[:, 4:8, 6:9, 1] = 5, 9
    maps[0] = maps[0, ..., ::-1]
    return {"X": stains, "y": maps, "tissue_list": np.array(["breast", "skin"] * count)[:count]}


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_tissuenet(tmp_path, prepare, capsys, form):
    arrays = {word: tissuenet_arrays(n, size) for word, n, size in (("train", 3, 24), ("val", 2, 16), ("test", 1, 16))}
    for word, held in arrays.items():
        folder = tmp_path / "source" / word
        folder.mkdir(parents=True)
        if form == "npy":
            for name, array in held.items():
                np.save(folder / f"{name}.npy", array)
        else:
            np.savez(tmp_path / f"source/tissuenet_v1.1_{word}.npz", **held)
    datalist = prepare("tissuenet")
    assert [len(datalist[section]) for section in SECTIONS] == [3, 2, 1]
    assert [item["tissue"] for item in datalist["training"]] == ["breast", "skin", "breast"]
    assert "exchanged in 3 pictures" in capsys.readouterr().out
    for number, item in enumerate(datalist["training"]):
        label, image = read(tmp_path / "out" / item["label"]), read(tmp_path / "out" / item["image"])
        assert (label == 5).sum() == (label > 0).sum() == 64
        assert points_of(tmp_path / "out", item) == [[7.5, 5.5]]
        assert image.shape == (24, 24, 3)
        assert not image[..., 2].any()
        for channel in range(2):
            stain = arrays["train"]["X"][number, ..., channel]
            top = np.percentile(stain, 99.9)
            expected = 255 * (np.minimum(stain, top) - stain.min()) / (top - stain.min())
            np.testing.assert_allclose(image[..., channel], expected, atol=0.51)
    nuclei = prepare("tissuenet", "--of", "nucleus", "--limit", "1", out="nuclei")
    assert [len(nuclei[section]) for section in SECTIONS] == [1, 1, 1]
    assert (read(tmp_path / "nuclei" / nuclei["training"][0]["label"]) == 9).sum() == 12


def test_tissuenet_opens_no_pickle_and_tells_faults(tmp_path, prepare):
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(SystemExit, match=r"found neither train/X\.npy nor a train \.npz"):
        prepare("tissuenet")
    arrays = tissuenet_arrays(2, 16)
    np.savez(source / "train.npz", **arrays | {"tissue_list": np.array(["a", None], dtype=object)})
    assert "tissue" not in prepare("tissuenet")["training"][0]
    np.savez(source / "train.npz", X=np.array([{}], dtype=object), y=arrays["y"])
    with pytest.raises(SystemExit, match=r"train\.npz: found"):
        prepare("tissuenet")
    np.savez(source / "train.npz", X=arrays["X"], y=arrays["y"][:1])
    with pytest.raises(SystemExit, match="found X and y of different shapes"):
        prepare("tissuenet")
    np.savez(source / "train.npz", X=arrays["X"][..., 0], y=arrays["y"])
    with pytest.raises(SystemExit, match=r"found 'X' of shape \(2, 16, 16\), expected \(N, H, W, 2\)"):
        prepare("tissuenet")
    np.savez(source / "train.npz", X=arrays["X"])
    with pytest.raises(SystemExit, match=r"found no whole array 'y'"):
        prepare("tissuenet")
    (source / "train.npz").write_bytes((source / "train.npz").read_bytes()[:900])
    with pytest.raises(SystemExit, match="found no whole array"):
        prepare("tissuenet")


# What they share


def test_cells_writer(script, tmp_path, capsys):
    cells = script("_cells")
    writer = cells.CellSetWriter(tmp_path, name="none")
    with pytest.raises(SystemExit, match="found no picture for it"):
        writer.finish()
    empty, one = np.zeros((8, 9), np.uint8), np.eye(8, 9, dtype=np.uint8)
    writer.add("training", "a", image=empty, label=empty, group="a")
    assert "a: no cell in it, left out of training" in capsys.readouterr().out
    writer.add("test", "b", image=empty, label=empty, group="b")
    save(tmp_path / "source/c.png", one)
    writer.add("training", "c", image=one.astype(np.uint16), label=tmp_path / "source/c.png", group="c")
    with pytest.raises(SystemExit, match="found a cell of number 65536, expected 65535 at most"):
        writer.add("test", "d", image=empty, label=one * np.int64(65536), group="d")
    save(tmp_path / "source/e.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(SystemExit, match="expected one channel of whole numbers"):
        writer.add("test", "e", image=empty, label=tmp_path / "source/e.png", group="e")
    writer.finish()
    datalist = load(tmp_path)
    assert datalist["test"] == [{"image": "images/b.png", "label": "labels/b.png", "group": "b"}]
    assert read(tmp_path / "labels/c.png").dtype == read(tmp_path / "images/c.png").dtype == np.uint16
    assert cells.diameters(empty).shape == (0,)
    assert cells.diameters(one).tolist() == [pytest.approx(2 * np.sqrt(8 / np.pi))]
