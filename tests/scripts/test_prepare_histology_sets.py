# SPDX-License-Identifier: Apache-2.0
"""The scripts for published sets of nuclei in stained tissue, on small trees of the same layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from monai_ext.data import check_datalist
from monai_ext.data.points_io import read_points

SECTIONS = ("training", "validation", "test")
KUMAR = Path(__file__).resolve().parents[2] / "scripts/splits/kumar.json"
SHAPE = (24, 32)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path):
    return np.asarray(Image.open(path))


def colour(shape=SHAPE, *, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (*shape, channels), dtype=np.uint8)


def load(out):
    """Read a data list after the bundle's own check, which refuses groups in two sections."""
    check_datalist(out / "datalist.json", out)
    return json.loads((out / "datalist.json").read_text())


def names(datalist, section):
    return sorted(Path(item["image"]).stem for item in datalist.get(section, []))


def entry(datalist, name):
    return next(i for section in SECTIONS for i in datalist.get(section, []) if Path(i["image"]).stem == name)


@pytest.fixture
def prepare(script, tmp_path):
    def run(name, *options, out="out"):
        script(f"prepare_{name}").main([str(tmp_path / "source"), "--out", str(tmp_path / out), *map(str, options)])
        return load(tmp_path / out)

    return run


# MoNuSeg


def square(left, top, side):
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


NUCLEI = [square(2, 2, 8), square(20, 4, 6)]


def aperio(path, regions):
    """Outlines in Aperio's form, the last one in an annotation layer of its own."""

    def layer(number, rings):
        rows = []
        for n, ring in enumerate(rings):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in ring)
            rows.append(f'<Region Id="{n}" NegativeROA="0"><Attributes/><Vertices>{vertices}</Vertices></Region>')
        head = "<RegionAttributeHeaders><AttributeHeader Id='9999' Name='Region'/></RegionAttributeHeaders>"
        return f'<Annotation Id="{number}"><Regions>{head}{"".join(rows)}</Regions><Plots/></Annotation>'

    path.parent.mkdir(parents=True, exist_ok=True)
    layers = layer(1, regions[:-1]) + layer(2, regions[-1:])
    path.write_text(f'<Annotations MicronsPerPixel="0.252000">{layers}</Annotations>')


def barcode(number, *, section="01"):
    return f"TCGA-A{number // 10}-{number:04d}-{section}Z-00-DX1"


def monuseg_tree(root, images, *, mixed=False, suffix=".tif"):
    """``images``: by name, the outlines."""
    for n, (name, regions) in enumerate(images.items()):
        save(root / ("." if mixed else "Tissue Images") / f"{name}{suffix}", colour(seed=n))
        aperio(root / ("." if mixed else "Annotations") / f"{name}.xml", regions)
    return root


def test_monuseg_sections_groups_organs_and_files(tmp_path, prepare, capsys):
    trained = {barcode(n): NUCLEI for n in range(10)} | {barcode(3, section="11"): NUCLEI}
    monuseg_tree(tmp_path / "source", trained)
    tested = {barcode(20): NUCLEI, "another": [*NUCLEI, square(12, 12, 9)]}
    test = monuseg_tree(tmp_path / "test", tested, mixed=True)
    rows = [f"{name}.tif,liver" for name in trained if "0003" not in name]
    rows += ["TCGA-A0-0003, lung", f"{barcode(20)},colon", "another,colon", "unknown,skin"]
    (tmp_path / "organs.csv").write_text("\n".join(["name,organ", *rows]))
    datalist = prepare("monuseg", "--test", test, "--organs", tmp_path / "organs.csv")
    out = tmp_path / "out"
    assert datalist["labels"] == {"0": "background", "1": "nucleus"}
    assert names(datalist, "test") == sorted(tested)
    assert sorted(names(datalist, "training") + names(datalist, "validation")) == sorted(trained)
    assert len(names(datalist, "validation")) in (1, 2)
    item = entry(datalist, barcode(3))
    assert (item["group"], item["organ"]) == ("TCGA-A0-0003", "lung")
    assert entry(datalist, barcode(3, section="11"))["group"] == "TCGA-A0-0003"
    assert (entry(datalist, "another")["group"], entry(datalist, "another")["organ"]) == ("another", "colon")
    assert {i["organ"] for s in ("training", "validation") for i in datalist[s] if i != item} == {"liver", "lung"}
    np.testing.assert_array_equal(read(out / item["image"]), read(tmp_path / f"source/Tissue Images/{barcode(3)}.tif"))
    label = read(out / item["label"])
    expected = np.zeros(SHAPE, np.uint16)
    expected[2:10, 2:10], expected[4:10, 20:26] = 1, 2
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label, expected)
    assert read_points(out / item["points"]).positions.tolist() == [[5.5, 5.5], [22.5, 6.5]]
    printed = capsys.readouterr().out
    trains = len(names(datalist, "training"))
    assert f"{trains}/{11 - trains}/2 images to train, validate and test, the CPS paper has 30/0/14" in printed
    assert ["another", "3", "0", "0", "0"] in [line.split() for line in printed.splitlines()]


def test_monuseg_no_validation_links_and_copies(tmp_path, prepare):
    monuseg_tree(tmp_path / "source", {barcode(n): NUCLEI for n in range(4)}, suffix=".png")
    save(tmp_path / f"source/Tissue Images/{barcode(0)}.png", colour(channels=4))
    datalist = prepare("monuseg", "--no_validation")
    assert [len(names(datalist, section)) for section in SECTIONS] == [4, 0, 0]
    assert "organ" not in datalist["training"][0]
    out = tmp_path / "out"
    assert (out / f"images/{barcode(1)}.png").is_symlink()
    opaque = read(out / f"images/{barcode(0)}.png")
    assert not (out / f"images/{barcode(0)}.png").is_symlink()
    np.testing.assert_array_equal(opaque, colour(channels=4)[..., :3])
    prepare("monuseg", "--copy", out="copies")
    assert not (tmp_path / f"copies/images/{barcode(1)}.png").is_symlink()
    assert read(tmp_path / f"source/Tissue Images/{barcode(0)}.png").shape[-1] == 4  # the source stays as it was


def test_the_larger_nucleus_is_drawn_first(script):
    draw = script("prepare_monuseg").draw
    large, small, beside = (np.array(square(*box), float) for box in ((2, 2, 12), (6, 6, 4), (12, 12, 6)))
    for order in ((large, small, beside), (beside, small, large), (small, large, beside)):
        drawn = draw(order, SHAPE)
        number = {tuple(ring[0]): n for n, ring in enumerate(order, start=1)}
        areas = np.bincount(drawn.numbers.ravel()).tolist()[1:]
        assert areas[number[(6, 6)] - 1] == 16
        assert areas[number[(12, 12)] - 1] == 36
        assert areas[number[(2, 2)] - 1] == 144 - 16 - 4
        assert (drawn.skipped, drawn.hidden, drawn.overlap_px) == (0, 0, 16 + 4)
    first, second = np.array(square(2, 2, 6), float), np.array(square(5, 2, 6), float)
    for pair in ((first, second), (second, first)):  # equal ones: that of the file's end is on top
        numbers = draw(pair, SHAPE).numbers
        assert np.bincount(numbers.ravel()).tolist()[1:] == [18, 36]


def test_hidden_nuclei_leave_no_gap_in_the_numbers(script):
    draw = script("prepare_monuseg").draw
    whole, left, right = [(2, 2), (12, 2), (12, 8), (2, 8)], square(2, 2, 6), [(8, 2), (12, 2), (12, 8), (8, 8)]
    drawn = draw([np.array(ring, float) for ring in (whole, left, right, square(20, 4, 6), square(20, 4, 6))], SHAPE)
    assert np.unique(drawn.numbers).tolist() == [0, 1, 2, 3]
    assert (drawn.skipped, drawn.hidden, drawn.overlap_px) == (0, 2, 60 + 36)
    assert drawn.numbers[3, 3] == 1
    assert drawn.numbers[3, 9] == 2
    assert drawn.numbers[5, 22] == 3


def test_outlines_beyond_the_border_and_degenerate_ones(script):
    draw = script("prepare_monuseg").draw
    corner, edge, around = square(-3, -4, 8), square(28, 20, 50), [(-9, -9), (90, -9), (90, 90), (-9, 90)]
    bad = [
        [],
        [(3, 3)],
        [(3, 3), (9, 9)],
        [(3.5, 3.5)] * 5,
        [(3.5, 3.5), (9.5, 3.5), (3.5, 3.5)],
        square(40, 2, 5),
        square(-9, -9, 5),
    ]
    tiny = [(10.1, 10.1), (10.3, 10.1), (10.3, 10.3)]  # the centre of no pixel is in it
    rings = [np.array(ring, float).reshape(-1, 2) for ring in (*bad, corner, tiny, edge)]
    drawn = draw(rings, SHAPE)
    expected = np.zeros(SHAPE, int)
    expected[:4, :5], expected[20:, 28:] = 1, 2
    np.testing.assert_array_equal(drawn.numbers, expected)
    assert (drawn.skipped, drawn.hidden, drawn.overlap_px) == (8, 0, 0)
    assert (draw([np.array(around, float)], SHAPE).numbers == 1).all()
    nothing = draw([], SHAPE)
    assert not nothing.numbers.any()
    assert nothing.numbers.shape == SHAPE


def test_filled_outlines_are_the_pixels_with_their_centre_inside(script):
    """An oracle: matplotlib's test of a point in a polygon, on polygons with many corners, border or not."""
    draw, rng = script("prepare_monuseg").draw, np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])), axis=-1).reshape(-1, 2) + 0.5
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 15))
        radius, middle = rng.uniform(4, 11, 15), rng.uniform(0, SHAPE[::-1])
        ring = middle + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        inside = Outline(np.concatenate([ring, ring[:1]]), closed=True).contains_points(centres).reshape(SHAPE)
        np.testing.assert_array_equal(draw([ring], SHAPE).numbers > 0, inside)


def kumar_images():
    split = json.loads(KUMAR.read_text())
    named = [f"{patient}-01Z-00-DX1" for section in ("training", "validation") for patient in split[section]]
    return {name: NUCLEI for name in named} | {barcode(n): NUCLEI for n in range(14)}


def test_kumar_split(tmp_path, prepare, capsys):
    split = json.loads(KUMAR.read_text())
    assert [len(split[section]) for section in ("training", "validation")] == [12, 4]
    assert len(set(split["training"]) | set(split["validation"])) == 16
    monuseg_tree(tmp_path / "source", kumar_images())
    datalist = prepare("monuseg", "--split", "kumar")
    for section in ("training", "validation"):
        assert [name[:12] for name in names(datalist, section)] == sorted(split[section])
    assert names(datalist, "test") == sorted(barcode(n) for n in range(14))
    assert "12/4/14 images to train, validate and test, the CPS paper has 12/4/14" in capsys.readouterr().out
    datalist = prepare("monuseg", "--split", "kumar", "--no_validation", out="all")
    assert [len(names(datalist, section)) for section in SECTIONS] == [16, 0, 14]


def test_a_split_of_ones_own(tmp_path, prepare, capsys):
    monuseg_tree(tmp_path / "source", {barcode(n): NUCLEI for n in range(5)})
    path = tmp_path / "split.json"
    rows = {"training": [barcode(0)[:12]], "validation": [barcode(1)], "test": [barcode(2)]}
    path.write_text(json.dumps(rows))
    datalist = prepare("monuseg", "--split", path)
    assert [names(datalist, section) for section in SECTIONS] == [[barcode(n)] for n in range(3)]
    assert "names 2 of the images in no section, left out" in capsys.readouterr().out

    def fault(match, **change):
        path.write_text(json.dumps(rows | change))
        with pytest.raises(SystemExit, match=match):
            prepare("monuseg", "--split", path)

    fault("found no image of 'TCGA-XX-0000', expected one since the test set has it", test=["TCGA-XX-0000"])
    fault("in training and test, expected it in one", test=[barcode(0)])
    aperio(tmp_path / "source/Annotations" / f"{barcode(0, section='11')}.xml", NUCLEI)
    save(tmp_path / "source/Tissue Images" / f"{barcode(0, section='11')}.tif", colour())
    shared = {"training": [barcode(0)], "test": [barcode(0, section="11")]}
    fault("images of TCGA-A0-0000 in training and test, expected a patient in one section", **shared)
    path.write_text("[1]")
    with pytest.raises(SystemExit, match=r"found no split .*, expected a JSON of section to names"):
        prepare("monuseg", "--split", path)
    with pytest.raises(SystemExit, match="--split kumer: found no split"):
        prepare("monuseg", "--split", "kumer")
    with pytest.raises(SystemExit, match="found --split kumar beside it, expected one of the two"):
        prepare("monuseg", "--split", "kumar", "--test", tmp_path)


def test_monuseg_faults(tmp_path, prepare):
    source = tmp_path / "source"
    with pytest.raises(SystemExit, match=r"source: found no such files, expected \.png"):
        prepare("monuseg")
    monuseg_tree(source, {barcode(n): NUCLEI for n in range(4)})
    for out in ("source", "source/Annotations"):
        with pytest.raises(SystemExit, match="expected another folder"):
            prepare("monuseg", out=out)
    test = monuseg_tree(tmp_path / "test", {barcode(2): NUCLEI}, mixed=True)
    with pytest.raises(SystemExit, match=r"0002.*\.tif: found it in .*source too"):
        prepare("monuseg", "--test", test)
    test = monuseg_tree(tmp_path / "sibling", {barcode(2, section="06"): NUCLEI}, mixed=True)
    with pytest.raises(SystemExit, match=r"images of TCGA-A0-0002 in (training|validation) and test"):
        prepare("monuseg", "--test", test)
    (source / f"Annotations/{barcode(1)}.xml").unlink()
    with pytest.raises(SystemExit, match=rf"tif: found no {barcode(1)}\.xml in .*Annotations, expected one for each"):
        prepare("monuseg")
    for path in (source / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(SystemExit, match=r"Annotations: found no such files, expected \.xml"):
        prepare("monuseg")


def test_outlines_without_an_image_are_told(tmp_path, prepare, capsys):
    monuseg_tree(tmp_path / "source", {barcode(n): NUCLEI for n in range(2)})
    aperio(tmp_path / "source/Annotations/stray.xml", NUCLEI)
    datalist = prepare("monuseg", "--validation", "0")
    assert [len(names(datalist, section)) for section in SECTIONS] == [2, 0, 0]
    assert "Annotations: 1 files of outlines without an image, left out" in capsys.readouterr().out


def test_an_image_without_nuclei_tests_but_does_not_train(tmp_path, prepare, capsys):
    monuseg_tree(tmp_path / "source", {barcode(0): NUCLEI, barcode(1): []})
    test = monuseg_tree(tmp_path / "test", {barcode(2): [], barcode(3): NUCLEI}, mixed=True)
    datalist = prepare("monuseg", "--validation", "0", "--test", test)
    assert [len(names(datalist, section)) for section in SECTIONS] == [1, 0, 2]
    assert not read(tmp_path / "out" / entry(datalist, barcode(2))["label"]).any()
    assert f"{barcode(1)}: no cell in it, left out of training" in capsys.readouterr().out


ENTITY = '<!DOCTYPE Annotations [<!ENTITY a "{}">]><Annotations><Region Id="&a;"/></Annotations>'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ENTITY.format("b").encode(), "a document type, which may declare entities"),
        (('<?xml version="1.0" encoding="UTF-16"?>' + ENTITY.format("b")).encode("utf-16"), "a document type"),
        (b'<!DOCTYPE Annotations SYSTEM "file:///etc/passwd"><Annotations/>', "a document type"),
        (b"<Annotations><Region>", "no element found"),
        (b"", "no element found"),
        (b"<annotation/>", "the element annotation"),
        (b'<Annotations><Region><Vertex X="1"/></Region></Annotations>', "'Y'"),
        (b'<Annotations><Region><Vertex X="1" Y="b"/></Region></Annotations>', "'b'"),
        (b'<Annotations><Region><Vertex X="1" Y="nan"/></Region></Annotations>', "a vertex that is not finite"),
        (b'<?xml version="1.0" encoding="no-such"?><Annotations/>', "encoding"),
    ],
)
def test_what_is_no_outline_file_gets_a_sentence(tmp_path, script, content, found):
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(
        SystemExit, match=rf"a\.xml: found no outlines of Aperio's \(.*{found}.*\), expected Annotations"
    ):
        script("prepare_monuseg").read_regions(tmp_path / "a.xml")


def test_organ_faults(tmp_path, prepare):
    monuseg_tree(tmp_path / "source", {barcode(n): NUCLEI for n in range(2)})
    path = tmp_path / "organs.csv"
    for content, match in (
        (None, "found no such file, expected a CSV with the columns name and organ"),
        ("file,organ\n", r"found the columns \['file', 'organ'\], expected name and organ"),
        (f"name,organ\n{barcode(0)},liver\n", rf"found no organ for {barcode(1)} \(one of 1\)"),
        ("name,organ\na,liver\na,lung\n", "found two organs for a, expected one"),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(SystemExit, match=match):
            prepare("monuseg", "--organs", path)


# TNBC


COUNTS = {1: 7, 2: 3, 3: 5, 4: 8, 5: 4, 6: 3, 7: 3, 8: 4, 9: 6, 10: 4, 11: 3}
"""Images of each slide; made up but for the sums, 30, 7 and 13."""


def mask():
    """A block, and two that meet at a corner: two components of 8 neighbours, three of 4."""
    values = np.zeros(SHAPE, np.uint8)
    values[2:8, 2:8] = values[12:16, 10:14] = values[16:20, 14:18] = 255
    return values


def tnbc_tree(root, counts):
    for slide, count in counts.items():
        for n in range(1, count + 1):
            name = f"{slide:02d}_{n}.png"
            save(root / f"Slide_{slide:02d}/{name}", colour(channels=4, seed=100 * slide + n))
            save(root / f"GT_{slide:02d}/{name}", mask())
    return root


def test_tnbc_sections_components_and_colours(tmp_path, prepare, capsys):
    tnbc_tree(tmp_path / "source", COUNTS)
    datalist = prepare("tnbc")
    out = tmp_path / "out"
    assert datalist["labels"] == {"0": "background", "1": "nucleus"}
    assert [len(datalist[section]) for section in SECTIONS] == [30, 7, 13]
    groups = [{item["group"] for item in datalist[section]} for section in SECTIONS]
    assert groups == [{f"Slide_{n:02d}" for n in numbers} for numbers in (range(1, 7), (7, 8), range(9, 12))]
    for section, name in (("training", "02_3"), ("validation", "08_1"), ("test", "11_2")):
        assert name in names(datalist, section)
        item = entry(datalist, name)
        slide, number = map(int, name.split("_"))
        assert item["image"] == f"images/{name}.png"
        pixels = read(out / item["image"])
        np.testing.assert_array_equal(pixels, colour(channels=4, seed=100 * slide + number)[..., :3])
        numbers = read(out / item["label"])
        assert numbers.dtype == np.uint16
        assert np.bincount(numbers.ravel()).tolist()[1:] == [36, 32]
        np.testing.assert_array_equal(numbers > 0, mask() > 0)
    printed = capsys.readouterr().out
    assert "label maps: 0; masks, of which connected components (8 neighbours) were made: 50" in printed
    assert "the CPS paper has" not in printed


def test_tnbc_no_validation_and_other_counts_are_told(tmp_path, prepare, capsys):
    tnbc_tree(tmp_path / "source", {2: 2, 8: 1, 10: 1, 12: 1})
    datalist = prepare("tnbc", "--no_validation")
    assert [names(datalist, section) for section in SECTIONS] == [["02_1", "02_2", "08_1"], [], ["10_1"]]
    printed = capsys.readouterr().out
    assert "Slide_12: left out, the split has slides 1 to 11" in printed
    assert "found 2/1/1 images to train, validate and test, the CPS paper has 30/7/13" in printed


def test_tnbc_label_maps_keep_nuclei_that_touch_apart(tmp_path, script, prepare, capsys):
    source = tnbc_tree(tmp_path / "source", {1: 3, 7: 1, 9: 1})
    numbers = np.zeros(SHAPE, np.uint16)
    numbers[2:8, 2:8], numbers[2:8, 8:12], numbers[12:16, 20:24] = 500, 7, 7  # one of them in two pieces
    save(source / "GT_01/01_1.png", numbers)
    save(source / "GT_01/01_2.png", np.dstack([mask()] * 3 + [np.full(SHAPE, 255, np.uint8)]))
    save(source / "GT_09/09_1.png", np.zeros(SHAPE, np.uint8))
    datalist = prepare("tnbc")
    label = read(tmp_path / "out" / entry(datalist, "01_1")["label"])
    np.testing.assert_array_equal(label, np.select([numbers == 7, numbers == 500], [1, 2]))
    assert read(tmp_path / "out" / entry(datalist, "01_2")["label"]).max() == 2
    assert not read(tmp_path / "out" / entry(datalist, "09_1")["label"]).any()
    assert "label maps: 1; masks, of which connected components (8 neighbours) were made: 4" in capsys.readouterr().out
    full = np.full(SHAPE, 255, np.uint8)
    save(tmp_path / "full.png", full)
    assert (script("prepare_tnbc").read_nuclei(tmp_path / "full.png", SHAPE)[0] == 1).all()
    save(tmp_path / "full.png", full - np.arange(SHAPE[1], dtype=np.uint8) % 2)  # a label map without background
    filled, kind = script("prepare_tnbc").read_nuclei(tmp_path / "full.png", SHAPE)
    assert (np.unique(filled).tolist(), kind) == ([1, 2], "map")


def test_tnbc_faults(tmp_path, prepare):
    with pytest.raises(SystemExit, match="source: found no slides, expected the folders Slide_01, GT_01"):
        prepare("tnbc")
    source = tnbc_tree(tmp_path / "source", {1: 2, 9: 1})
    with pytest.raises(SystemExit, match="expected another folder"):
        prepare("tnbc", out="source")
    save(source / "GT_01/01_9.png", mask())
    with pytest.raises(SystemExit, match=r"01_9\.png: found no image of the stem '01_9'"):
        prepare("tnbc")
    (source / "GT_01/01_9.png").unlink()
    save(source / "GT_01/01_2.png", mask()[:, 1:])
    with pytest.raises(SystemExit, match=r"01_2\.png: found 24 x 31 pixels, expected 24 x 32 as its image has"):
        prepare("tnbc")
    (source / "GT_01/01_2.png").unlink()
    with pytest.raises(SystemExit, match=r"Slide_01/01_2\.png: found no mask of it in GT_01"):
        prepare("tnbc")
    save(source / "GT_01/01_2.png", mask())
    paths = [source / folder / "01_2.png" for folder in ("Slide_09", "GT_09")]
    for path, picture in zip(paths, (colour(), mask()), strict=True):
        save(path, picture)
    with pytest.raises(SystemExit, match=r"Slide_09/01_2\.png: found .*Slide_01/01_2\.png of the same name"):
        prepare("tnbc")
    for path in paths:
        path.unlink()
    (source / "Slide_01/01_1.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"01_1\.png: found a file that PIL cannot read"):
        prepare("tnbc")
