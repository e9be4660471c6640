# SPDX-License-Identifier: Apache-2.0
"""Cutting fields and slides into tiles, and what all sets of tiles share."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_ext.data import check_datalist

PINK = (200, 120, 160)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def tissue(height, width, *, seed=0):
    """Stained pixels, all different, so that a shifted tile is seen."""
    noise = np.random.default_rng(seed).integers(-40, 40, (height, width, 3))
    return (np.array(PINK) + noise).astype(np.uint8)


def make_fields(root, *, count=10, height=64, width=80, masked=None):
    """Fields and masks with some foreground in every tile of 32 pixels; the last ones without mask."""
    for n in range(count):
        save(root / f"images/f{n}.png", tissue(height, width, seed=n))
        if n < (count if masked is None else masked):
            mask = (np.random.default_rng(100 + n).random((height, width)) < 0.2).astype(np.uint8) * 255
            save(root / f"masks/f{n}.png", mask)
    return root / "images", root / "masks"


@pytest.fixture
def tiles(script):
    return script("tile_images")


@pytest.fixture
def fields(script):
    return script("_fields")


@pytest.fixture
def slides(script):
    return script("_slides")


@pytest.fixture
def cut(tiles, tmp_path):
    """Run the script on ``<tmp_path>/images`` and return the data list."""

    def run(*options, masks=True, out="out", check=True):
        arguments = [str(tmp_path / "images"), "--out", str(tmp_path / out), "--size", "32", "--step", "32"]
        tiles.main([*arguments, *(["--masks", str(tmp_path / "masks")] if masks else []), *options])
        if check:
            check_datalist(tmp_path / out / "datalist.json", tmp_path / out)
        return json.loads((tmp_path / out / "datalist.json").read_text())

    return run


def entries(datalist):
    return [(s, item) for s in ("training", "validation", "test", "unlabeled") for item in datalist.get(s, [])]


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("length", "step", "starts"), [(64, 32, [0, 32]), (80, 32, [0, 32, 48]), (32, 8, [0])])
def test_corners_cover_the_field_and_end_at_its_border(length, step, starts, fields):
    assert fields.tile_corners((length, 32), 32, step) == [(row, 0) for row in starts]
    assert fields.tile_corners((32, length), 32, step) == [(0, column) for column in starts]
    covered = np.zeros((length, 50), int)
    for row, column in fields.tile_corners(covered.shape, 32, step):
        assert covered[row : row + 32, column : column + 32].shape == (32, 32)
        covered[row : row + 32, column : column + 32] += 1
    assert covered.min() == 1


def test_corners_of_a_field_smaller_than_a_tile(fields):
    with pytest.raises(ValueError, match="found 40 x 31 pixels, expected at least 32 x 32"):
        fields.tile_corners((40, 31), 32, 32)


def test_tissue_is_what_stands_out_from_glass(fields):
    glass = np.random.default_rng(0).normal(240, 1.5, (64, 64, 3)).astype(np.uint8)
    assert fields.tissue_mask(glass).mean() < 0.01  # glass alone is not split at its noise
    assert fields.tissue_mask(np.full((64, 64, 3), 255, np.uint8)).sum() == 0
    assert fields.tissue_mask(tissue(64, 64)).mean() > 0.99  # nor is tissue alone at its stain
    assert fields.tissue_mask(np.zeros((64, 64, 3), np.uint8)).sum() == 0  # never scanned
    two_stains = tissue(64, 64)
    two_stains[:, :32] = (120, 70, 30)
    assert fields.tissue_mask(two_stains).mean() > 0.99
    grey = glass.copy()
    grey[16:48, 8:24] = 90  # dark without colour
    stained = glass.copy()
    stained[16:48, 8:24] = (250, 215, 250)  # coloured but bright
    expected = np.zeros((64, 64), bool)
    expected[16:48, 8:24] = True
    assert (fields.tissue_mask(grey) == expected).mean() > 0.99
    assert (fields.tissue_mask(stained) == expected).mean() > 0.99


def test_tiles_hold_the_pixels_of_their_place(tmp_path, cut, capsys):
    images, masks = make_fields(tmp_path)
    datalist = cut()
    assert datalist["labels"] == {"0": "background", "1": "positive"}
    seen = {f"f{n}": np.zeros((64, 80), int) for n in range(10)}
    for _, item in entries(datalist):
        stem, row, column = item["image"].removeprefix("images/").removesuffix(".png").split("_")
        assert item["group"] == stem
        window = (slice(int(row), int(row) + 32), slice(int(column), int(column) + 32))
        assert np.array_equal(read(tmp_path / "out" / item["image"]), read(images / f"{stem}.png")[window])
        label = read(tmp_path / "out" / item["label"])
        assert np.array_equal(label, (read(masks / f"{stem}.png") > 0)[window])
        assert label.dtype == np.uint8
        seen[stem][window] += 1
    assert all(count.min() == 1 for count in seen.values())
    assert [len(datalist[s]) for s in ("training", "validation", "test")] == [48, 6, 6]
    assert "10 fields, 60 tiles cut, 0 dropped by the tissue filter, 60 kept" in capsys.readouterr().out


def test_groups_never_straddle_sections_and_follow_the_table(tmp_path, cut):
    make_fields(tmp_path, count=12)
    rows = [f"f{n}.png,p{n // 2}" if n % 2 else f"f{n},p{n // 2}" for n in range(12)]  # by name and by stem
    (tmp_path / "g.csv").write_text("file,group\n" + "\n".join(rows) + "\n", encoding="utf-8-sig")
    sections = {}
    for section, item in entries(cut("--groups", str(tmp_path / "g.csv"), "--shares", "0.5", "0.25", "0.25")):
        assert item["group"] == f"p{int(item['image'].split('/f')[1].split('_')[0]) // 2}"
        sections.setdefault(item["group"], set()).add(section)
    assert len(sections) == 6
    assert all(len(used) == 1 for used in sections.values())
    assert set.union(*sections.values()) == {"training", "validation", "test"}


def test_fields_without_mask_are_unlabeled(tmp_path, cut, capsys):
    make_fields(tmp_path, masked=8)
    datalist = cut()
    assert {item["group"] for item in datalist["unlabeled"]} == {"f8", "f9"}
    assert not any("label" in item for item in datalist["unlabeled"])
    assert len(entries(datalist)) == 60
    assert set(cut(masks=False, out="none")) == {"name", "labels", "unlabeled"}
    rows = [f"f{n},{'p' if n in (0, 9) else n}" for n in range(10)]  # f9 has no mask but is of the patient of f0
    (tmp_path / "g.csv").write_text("file,group\n" + "\n".join(rows) + "\n")
    capsys.readouterr()
    datalist = cut("--groups", str(tmp_path / "g.csv"), out="mixed")
    assert {item["group"] for item in datalist["unlabeled"]} == {"8"}
    assert "1 fields have no mask but others of their group do, and are left out" in capsys.readouterr().err


def test_glass_is_dropped(tmp_path, cut, capsys):
    for n in range(10):
        field = np.full((64, 96, 3), 245, np.uint8)
        field[:, :48] = tissue(64, 48, seed=n)  # the middle column of tiles is half tissue
        save(tmp_path / f"images/f{n}.png", field)
        save(tmp_path / f"masks/f{n}.png", np.full((64, 96), 1, np.uint8))

    def columns(datalist):
        return {item["image"].rsplit("_", 1)[1] for _, item in entries(datalist)}

    assert columns(cut("--min_tissue", "0.6")) == {"00000.png"}
    assert "60 tiles cut, 40 dropped by the tissue filter, 20 kept" in capsys.readouterr().out
    assert columns(cut("--min_tissue", "0.4")) == {"00000.png", "00032.png"}
    assert columns(cut("--min_tissue", "0")) == {"00000.png", "00032.png", "00064.png"}
    save(tmp_path / "images/f0.png", np.full((64, 96, 3), 245, np.uint8))  # a field without any
    assert "f0" not in {item["group"] for _, item in entries(cut())}


def test_class_numbers_and_ways_to_store_masks(tmp_path, cut, fields):
    images, masks = make_fields(tmp_path)
    classes = np.random.default_rng(0).integers(0, 3, (64, 80)).astype(np.uint8)
    for n in range(10):
        save(masks / f"f{n}.png", classes)
    datalist = cut("--label", "rim", "inside")
    assert datalist["labels"] == {"0": "background", "1": "rim", "2": "inside"}
    first = datalist["training"][0]
    row, column = (int(part.removesuffix(".png")) for part in first["label"].split("_")[1:])
    assert np.array_equal(read(tmp_path / "out" / first["label"]), classes[row : row + 32, column : column + 32])
    save(masks / "f0.png", classes + 1)
    with pytest.raises(SystemExit, match=r"f0\.png: found the value 3, expected 0 to 2: give each class a --label"):
        cut("--label", "rim", "inside")
    expected = classes > 0
    for name, stored in {
        "a.tif": classes.astype(np.uint16) * 300,
        "b.png": np.dstack([expected.astype(np.uint8) * 255] * 3),
        "c.png": expected,
    }.items():
        save(tmp_path / "odd" / name, stored)
        assert np.array_equal(fields.read_mask(tmp_path / "odd" / name, (64, 80)), expected)
    with pytest.raises(SystemExit, match=r"f0\.png: found a coloured picture, expected a mask of one channel"):
        fields.read_mask(images / "f0.png", (64, 80))


def test_rerun_gives_the_same_and_the_seed_another_split(tmp_path, cut):
    make_fields(tmp_path)

    def state():
        files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files if path.parent.name != "labels"}

    first = cut()
    before = state()
    assert cut() == first
    assert state() == before
    assert cut("--seed", "1", out="other") != first


def test_errors_are_one_sentence(tmp_path, cut, tiles, slides):
    images, masks = make_fields(tmp_path)
    for options, match in (
        (("--step", "0"), "--step: found 0, expected at least 1"),
        (("--min_tissue", "1.5"), "--min_tissue: found 1.5, expected a share"),
        (("--size", "65"), r"f0\.png: found 64 x 80 pixels, expected at least 65 x 65"),
        (("--level", "1"), r"f0\.png: found a plain picture, expected a slide with level 1"),
        (("--groups", str(tmp_path / "none.csv")), r"none\.csv: found no such file"),
        (("--shares", "0.8", "0.1", "0.3"), "expected 3 numbers that add up to 1"),
        (("--out", str(tmp_path)), "found that it writes into .*images, expected another folder"),
    ):
        with pytest.raises(SystemExit, match=match):
            cut(*options)
    for text, match in (
        ("name,group\nf0,1\n", "found the columns .*'name'.*, expected file and group"),
        ("file,group\nf0,1\nf0,2\n", "found two groups for f0, expected one"),
        ("file,group\nf0,1\nf1,\n", r"found no group for f1\.png \(one of 9\)"),
    ):
        (tmp_path / "g.csv").write_text(text)
        with pytest.raises(SystemExit, match=rf"g\.csv: {match}"):
            cut("--groups", str(tmp_path / "g.csv"))
    save(masks / "f0.png", np.ones((64, 64), np.uint8))
    with pytest.raises(SystemExit, match=r"masks/f0\.png: found 64 x 64 pixels, expected 64 x 80 as its image has"):
        cut()
    save(masks / "typo.png", np.ones((64, 80), np.uint8))
    with pytest.raises(SystemExit, match=r"typo\.png: found no image of the stem 'typo'"):
        cut()
    save(images / "f0.tif", tissue(64, 80))
    with pytest.raises(SystemExit, match=r"f0\.tif: found f0\.png beside it, expected one file of each stem"):
        cut()
    with pytest.raises(SystemExit, match=r"found no such files, expected \.png"):
        tiles.main([str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    for name, match in (("x.png", "PIL cannot read"), ("x.svs", "found no reader for it .*pip install openslide")):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes(b"no picture")
        with pytest.raises(SystemExit, match=match):
            slides.open_picture(tmp_path / "broken" / name)
    save(tmp_path / "broken/deep.png", np.zeros((40, 40), np.uint16))
    with pytest.raises(SystemExit, match="found a picture of mode I;16, expected 8 bits"):
        slides.open_picture(tmp_path / "broken/deep.png")
    assert not (tmp_path / "out/datalist.json").exists()


def test_no_tissue_at_all_is_said(tmp_path, cut):
    save(tmp_path / "images/a.png", np.full((64, 64, 3), 240, np.uint8))
    with pytest.raises(SystemExit, match="found none with enough tissue, expected some: lower --min_tissue"):
        cut(masks=False)


def write_slide(path, levels):
    """Write a pyramid as scanners do: each level in tiles, one page after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        for n, level in enumerate(levels):
            writer.write(level, tile=(64, 64), photometric="rgb", subfiletype=int(n > 0), metadata=None)


@pytest.fixture
def pyramid(tmp_path, monkeypatch, slides):
    """A slide of 512 x 768 pixels, tissue in its left half, with two coarser levels."""
    monkeypatch.setattr(slides, "BACKENDS", ("tifffile",))
    full = np.full((512, 768, 3), 244, np.uint8)
    full[:, :384] = tissue(512, 384)
    levels = [full, full[::2, ::2], full[::4, ::4]]
    write_slide(tmp_path / "images/slide.tif", levels)
    return levels


def test_slides_are_cut_at_any_level(tmp_path, cut, pyramid):
    for level, left_half in ((0, 16 * 12), (1, 8 * 6), (2, 4 * 3)):
        datalist = cut("--level", str(level), masks=False, out=f"level{level}")
        assert len(datalist["unlabeled"]) == left_half
        for item in datalist["unlabeled"]:
            row, column = (int(part) for part in item["image"].removesuffix(".png").split("_")[1:])
            assert column < pyramid[level].shape[1] / 2
            tile = read(tmp_path / f"level{level}" / item["image"])
            assert np.array_equal(tile, pyramid[level][row : row + 32, column : column + 32])
    with pytest.raises(SystemExit, match=r"slide\.tif: found 3 level\(s\), expected one of number 3"):
        cut("--level", "3", masks=False)


def test_slides_have_masks_of_their_level(tmp_path, cut, pyramid):
    for n in range(3):
        write_slide(tmp_path / f"images/slide{n}.tiff", pyramid)
        save(tmp_path / f"masks/slide{n}.png", np.tile(np.eye(4, dtype=np.uint8), (64, 96)))
    datalist = cut("--level", "1", "--shares", "0.4", "0.3", "0.3")
    assert [len(datalist[s]) for s in ("training", "validation", "test", "unlabeled")] == [48, 48, 48, 48]
    assert {item["group"] for item in datalist["unlabeled"]} == {"slide"}
    with pytest.raises(SystemExit, match=r"slide0\.png: found 256 x 384 pixels, expected 512 x 768"):
        cut("--shares", "0.4", "0.3", "0.3")


def test_each_level_of_a_slide_is_read_once_with_tifffile(tmp_path, pyramid, monkeypatch, fields, slides):
    slide = slides.open_picture(tmp_path / "images/slide.tif", level=0)
    calls = []
    read_level = slide.slide.asarray
    monkeypatch.setattr(slide.slide, "asarray", lambda **options: calls.append(options) or read_level(**options))
    for row, column in fields.tile_corners(slide.shape, 64, 64):
        assert np.array_equal(slide.region((row, column), (64, 64)), pyramid[0][row : row + 64, column : column + 64])
    assert calls == [{"level": 0}]


class Region:
    """Stands for a backend that reads regions: openslide's two calls and the level sizes."""

    backend = "regions"

    def __init__(self, levels):
        self.levels, self.sizes, self.used = levels, [], set()

    def get_level_count(self, slide):
        return len(self.levels)

    def get_size(self, slide, level):
        return self.levels[level].shape[:2]

    def get_downsample_ratio(self, slide, level):
        return self.levels[0].shape[0] / self.levels[level].shape[0]

    def get_data(self, slide, location, size, level):
        self.sizes.append(size)
        self.used.add(level)
        row, column = (round(place / self.get_downsample_ratio(slide, level)) for place in location)
        part = self.levels[level][row : row + size[0], column : column + size[1]]
        assert part.shape[:2] == tuple(size)
        return np.moveaxis(part, -1, 0), {}


@pytest.mark.parametrize("count", [1, 3])
def test_slides_are_read_by_region(pyramid, monkeypatch, tmp_path, count, fields, slides):
    reader = Region(pyramid[:count])
    monkeypatch.setattr(slides, "_open_slide", lambda path: (reader, None))
    monkeypatch.setattr(slides, "BLOCK_PX", 100)
    slide = slides.Slide(tmp_path / "a.svs", level=0)
    # A tile of 128 pixels may shrink eightfold: the coarsest level, a quarter, is thinned out twofold.
    assert np.array_equal(slide.overview(128), pyramid[0][::8, ::8])
    assert max(max(size) for size in reader.sizes) <= 100
    assert reader.used == {count - 1}
    level = count - 1
    slide = slides.Slide(tmp_path / "a.svs", level=level)
    assert np.array_equal(slide.region((32, 64), (32, 32)), pyramid[level][32:64, 64:96])
    field = fields.plan_field(tmp_path / "a.svs", fields.Cutting(32, 32, level, 0.5))
    assert len(field.corners) == pyramid[level].shape[0] * pyramid[level].shape[1] // 2 // 32**2


def test_slides_of_another_kind_are_refused(tmp_path, monkeypatch, slides):
    monkeypatch.setattr(slides, "BACKENDS", ("tifffile",))
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.uint16), photometric="rgb")
    with pytest.raises(SystemExit, match=r"deep\.tif: found uint16 values .*, expected an RGB slide of 8 bits"):
        slides.Slide(tmp_path / "deep.tif", level=0)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 64, 64, 3), np.uint8), photometric="rgb")
    with pytest.raises(SystemExit, match=r"stack\.tif: found uint8 values with the axes \wYXS, expected an RGB slide"):
        slides.open_picture(tmp_path / "stack.tif")
    monkeypatch.setattr(slides, "BACKENDS", ())
    with pytest.raises(SystemExit, match=r"nothing installed that reads slides.*pip install openslide"):
        slides.open_picture(tmp_path / "stack.tif")


def test_a_flat_tiff_is_a_picture_until_it_is_large(tmp_path, monkeypatch, slides):
    pixels = tissue(64, 96)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(32, 32))
    assert isinstance(slides.open_picture(tmp_path / "a.tif"), slides.Plain)
    monkeypatch.setattr(slides, "PLAIN_PX", 1000)
    slide = slides.open_picture(tmp_path / "a.tif")
    assert isinstance(slide, slides.Slide)
    assert np.array_equal(slide.region((8, 16), (32, 32)), pixels[8:40, 16:48])


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.9, 0.1, 0.0), (0.0, 0.0, 1.0)])
def test_split_gives_each_group_one_section_and_the_shares(script, shares):
    counts = {f"g{n}": size for n, size in enumerate(np.random.default_rng(0).integers(1, 30, 60).tolist())}
    chosen = script("_tiles").split_groups(counts, shares, seed=0)
    assert set(chosen) == set(counts)
    total = sum(counts.values())
    for section, share in zip(("training", "validation", "test"), shares, strict=True):
        drawn = sum(count for group, count in counts.items() if chosen[group] == section)
        assert abs(drawn / total - share) <= 29 / total  # a group at most
        assert (share > 0) == (drawn > 0)


def test_split_follows_the_seed_only(script):
    split = script("_tiles").split_groups
    counts = {f"g{n}": 1 + n % 3 for n in range(20)}
    first = split(counts, (0.6, 0.2, 0.2), seed=0)
    assert split(dict(reversed(counts.items())), (0.6, 0.2, 0.2), seed=0) == first
    assert any(split(counts, (0.6, 0.2, 0.2), seed=seed) != first for seed in (1, 2))


def test_split_says_what_is_wrong(script):
    split = script("_tiles").split_groups
    for shares in ((0.8, 0.1), (0.8, 0.3, -0.1), (0.5, 0.2, 0.2)):
        with pytest.raises(SystemExit, match=r"shares: found \[.*\], expected 3 numbers that add up to 1"):
            split({"a": 1, "b": 1, "c": 1}, shares, seed=0)
    with pytest.raises(SystemExit, match="found 2 groups, expected at least one for each section"):
        split({"a": 1, "b": 1}, (0.8, 0.1, 0.1), seed=0)
    assert set(split({"a": 1, "b": 1}, (0.5, 0.5, 0.0), seed=0).values()) == {"training", "validation"}


@pytest.mark.parametrize("seed", range(5))
def test_no_section_comes_out_empty(fields, seed):
    counts = {"a": 90, "b": 90, "c": 90, "none": 0}
    sections = fields.draw_sections(counts, (0.8, 0.1, 0.1), seed=seed)
    assert sorted(sections) == ["a", "b", "c"]
    assert set(sections.values()) == {"training", "validation", "test"}
    five = fields.draw_sections(dict.fromkeys("abcde", 90), (0.8, 0.1, 0.1), seed=seed)
    assert sorted(five.values()) == ["test", "training", "training", "training", "validation"]


def test_writer_writes_tiles_links_files_and_lists_both(tmp_path, script, capsys):
    writer = script("_tiles").TileSetWriter(tmp_path / "out", name="some", labels=["rim", "inside"])
    source, pixels = tmp_path / "source/a.png", tissue(8, 8)
    save(source, pixels)
    label = np.arange(64).reshape(8, 8) % 3
    writer.add("training", "a", image=source, label=label, group="g")
    writer.add("unlabeled", "b", image=pixels, label=None, group="h")
    writer.add("unlabeled", "c", image=pixels, label=None, group="h")
    assert not (tmp_path / "out/datalist.json").exists()
    writer.finish()
    assert json.loads((tmp_path / "out/datalist.json").read_text()) == {
        "name": "some",
        "labels": {"0": "background", "1": "rim", "2": "inside"},
        "training": [{"image": "images/a.png", "group": "g", "label": "labels/a.png"}],
        "unlabeled": [{"image": "images/b.png", "group": "h"}, {"image": "images/c.png", "group": "h"}],
    }
    assert (tmp_path / "out/images/a.png").is_symlink()
    assert np.array_equal(read(tmp_path / "out/images/b.png"), pixels)
    assert np.array_equal(read(tmp_path / "out/labels/a.png"), label)
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["training", "1", "1", "1"]
    assert table[4].split() == ["unlabeled", "2", "1", "0"]
    check_datalist(tmp_path / "out/datalist.json", tmp_path / "out")
    # Pixels never go through a link into the source.
    writer.add("training", "a", image=np.zeros((8, 8, 3), np.uint8), label=None, group="g")
    assert np.array_equal(read(source), pixels)
    writer.add("training", "a", image=source, label=None, group="g")
    assert np.array_equal(read(tmp_path / "out/images/a.png"), pixels)


def test_writer_copies_where_asked(tmp_path, script):
    writer = script("_tiles").TileSetWriter(tmp_path / "out", name="some", labels=["x"], copy=True)
    save(tmp_path / "a.png", tissue(8, 8))
    writer.add("test", "a", image=tmp_path / "a.png", label=None, group="g")
    assert not (tmp_path / "out/images/a.png").is_symlink()
    assert np.array_equal(read(tmp_path / "out/images/a.png"), tissue(8, 8))
