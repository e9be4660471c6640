# SPDX-License-Identifier: Apache-2.0
"""Nuclei in stained tissue of several organs (MoNuSeg, and Kumar's set in it) as a set of cells with masks and points.

    python scripts/prepare_monuseg.py <source> --test <folder> --out data/monuseg
    python scripts/prepare_monuseg.py <source> --split kumar --out data/kumar

``<source>`` holds ``Tissue Images/<name>.tif`` (or .png) and ``Annotations/<name>.xml``, Aperio's outlines: Region,
Vertices and Vertex with X and Y. ``<folder>`` of the test images is the same, or has images and outlines side by side.
Credit Kumar et al., IEEE TMI 36 (2017) and 39 (2020). Not verified: the archives themselves and their licence.

Outlines overlap. A contested pixel is the smaller nucleus's, whatever the order in the file: larger ones are drawn
first, of two equal ones that of the file's end is on top. Vertices count from the corner of the first pixel, and a
pixel is a nucleus's where its centre is. An outline of fewer than three different vertices or without a pixel in the
image is skipped; one that lies under others entirely is left out as hidden; both are counted.

By default ``<source>`` trains, ``--validation`` of its patients validate, and ``--test`` tests. ``--split kumar`` is
the division of the CPS paper: of its 12, 4 and 14 images ``scripts/splits/kumar.json`` names the first two, the
validation images as its code has them and the training images as the others of the first publication's 16; all other
images of ``<source>`` test. Those are 14 only where ``<source>`` is Kumar's 30 images. ``--split`` may also be a JSON
of section to names (a file's stem or a patient); where it has a ``test``, images that it does not name are left out.

A group is the patient, the first 12 characters of a name that is a TCGA barcode, else the name. ``--organs`` names a
CSV with the columns ``name`` (file, stem or patient) and ``organ``, which becomes ``organ`` of an entry.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from _cells import CellSetWriter
from _fields import files_by_stem, refuse_source
from _slides import TIFFS, Plain
from _tiles import SECTIONS, split_groups
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon
from skimage.segmentation import relabel_sequential

IMAGES, OUTLINES = "Tissue Images", "Annotations"
KUMAR = Path(__file__).resolve().parent / "splits/kumar.json"
PAPER = {"monuseg": "30/0/14", "kumar": "12/4/14"}
BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Za-z0-9])")


class Drawn(NamedTuple):
    """The nuclei of an image, and what was lost on the way."""

    numbers: NDArray[np.int64]
    """(H, W) 1, 2, ... by their place in the file, 0 is background."""
    skipped: int
    hidden: int
    overlap_px: int
    """Pixels in more than one outline."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    folders = [options.source] if options.test is None else [options.source, options.test]
    refuse_source(options.out, *folders, *(folder / name for folder in folders for name in (IMAGES, OUTLINES)))
    pairs, sections = divide(options)
    organs = {} if options.organs is None else read_organs(options.organs, pairs)
    writer = CellSetWriter(options.out, name="nuclei in stained tissue of several organs", copy=options.copy)
    writer.head["labels"]["1"] = "nucleus"
    print(f"{'image':<26}{'nuclei':>7}{'skipped':>8}{'hidden':>7}{'overlapping px':>15}")
    for name, section in sections.items():
        image, outlines = pairs[name]
        pixels = Plain(image).pixels
        drawn = draw(read_regions(outlines), pixels.shape[:2])
        print(f"{name:<26}{drawn.numbers.max():>7}{drawn.skipped:>8}{drawn.hidden:>7}{drawn.overlap_px:>15}")
        keys = {"organ": organs[name]} if organs else None
        source = image if is_rgb_png(image) else pixels
        writer.add(section, name, image=source, label=drawn.numbers, group=patient_of(name), keys=keys)
    writer.finish()


def divide(options: argparse.Namespace) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Image and outlines, and section, of each name; a patient in two sections is an error."""
    pairs = find_pairs(options.source)
    if options.split == "monuseg":
        tested = {} if options.test is None else find_pairs(options.test)
        if both := sorted(set(pairs) & set(tested)):
            raise SystemExit(f"{tested[both[0]][0]}: found it in {options.source} too, expected it in one of them.")
        shares = (1 - options.validation, options.validation, 0.0)
        drawn = split_groups(Counter(map(patient_of, pairs)), shares, seed=options.seed)
        sections = {name: drawn[patient_of(name)] for name in pairs} | dict.fromkeys(tested, "test")
        pairs |= tested
    elif options.test is not None:
        raise SystemExit(f"--test {options.test}: found --split {options.split} beside it, expected one of the two.")
    else:
        sections = named_sections(KUMAR if options.split == "kumar" else Path(options.split), pairs)
    counts = Counter(sections.values())
    print(f"{'/'.join(str(counts[section]) for section in SECTIONS)} images to train, validate and test", end="")
    print(f", the CPS paper has {PAPER[options.split]}" if options.split in PAPER else "")
    if options.no_validation:
        sections = {name: "training" if section == "validation" else section for name, section in sections.items()}
    owners: dict[str, str] = {}
    for name, section in sections.items():
        if owners.setdefault(patient_of(name), section) != section:
            found = f"images of {patient_of(name)} in {owners[patient_of(name)]} and {section}"
            raise SystemExit(f"{pairs[name][0]}: found {found}, expected a patient in one section.")
    return {name: pairs[name] for name in sections}, sections


def find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Image and outlines by their stem, from the two folders or from one that mixes both."""
    parts = [folder / IMAGES, folder / OUTLINES] if (folder / IMAGES).is_dir() else [folder, folder]
    images, outlines = files_by_stem(parts[0], (".png", *TIFFS)), files_by_stem(parts[1], (".xml",))
    if without := [image for stem, image in images.items() if stem not in outlines]:
        raise SystemExit(f"{without[0]}: found no {without[0].stem}.xml in {parts[1]}, expected one for each image.")
    if stray := len(set(outlines) - set(images)):
        print(f"{parts[1]}: {stray} files of outlines without an image, left out")
    return {stem: (image, outlines[stem]) for stem, image in images.items()}


def named_sections(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Section of each name by a JSON of section to stems or patients; without ``test`` in it all others test."""
    sections: dict[str, str] = {}
    try:
        split = json.loads(path.read_text(encoding="utf8"))
        rows = [(section, wanted) for section in SECTIONS for wanted in split.get(section, [])]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SystemExit(f"--split {path}: found no split ({error}), expected a JSON of section to names.") from None
    for section, wanted in rows:
        found = [name for name in names if wanted in (name, patient_of(name))]
        if not found:
            raise SystemExit(f"{path}: found no image of {wanted!r}, expected one since the {section} set has it.")
        for name in found:
            if sections.setdefault(name, section) != section:
                raise SystemExit(f"{path}: found {name} in {sections[name]} and {section}, expected it in one.")
    others = [name for name in names if name not in sections]
    if others and "test" in split:
        print(f"{path}: names {len(others)} of the images in no section, left out")
    return sections | ({} if "test" in split else dict.fromkeys(others, "test"))


def patient_of(name: str) -> str:
    """First 12 characters of a TCGA barcode, else the name itself."""
    return name[:12] if BARCODE.match(name) else name


def read_organs(path: Path, pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, str]:
    """Organ of each image by its stem, from a CSV of ``name`` (file, stem or patient) and ``organ``."""
    if not path.is_file():
        raise SystemExit(f"{path}: found no such file, expected a CSV with the columns name and organ.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"name", "organ"} <= set(table.fieldnames or ()):
            raise SystemExit(f"{path}: found the columns {table.fieldnames}, expected name and organ.")
        rows = [((row["name"] or "").strip(), (row["organ"] or "").strip()) for row in table]
    organs = dict(rows)
    if twice := [name for name, organ in rows if organs[name] != organ]:
        raise SystemExit(f"{path}: found two organs for {twice[0]}, expected one.")
    chosen = {}
    for stem, (image, _) in pairs.items():
        chosen[stem] = next((organs[key] for key in (image.name, stem, patient_of(stem)) if organs.get(key)), "")
    if without := [stem for stem, organ in chosen.items() if not organ]:
        raise SystemExit(f"{path}: found no organ for {without[0]} (one of {len(without)}), expected a row for each.")
    return chosen


def is_rgb_png(path: Path) -> bool:
    """Whether an image can be linked as it is; others, TIFFs above all, are written anew as PNG of three channels."""
    with Image.open(path) as image:
        return image.format == "PNG" and image.mode == "RGB" and path.suffix == ".png"


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what could declare entities, which grow without bound or name other files."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("a document type, which may declare entities")


def read_regions(path: Path) -> list[NDArray[np.float64]]:
    """Vertices (N, 2) as [x, y] of each outline of an Aperio file.

    Raises:
        SystemExit: no XML, another structure, a document type declaration, or numbers that are none.
    """
    try:
        root = ElementTree.parse(path, parser=ElementTree.XMLParser(target=_NoDoctype())).getroot()
        if root.tag != "Annotations":
            raise ValueError(f"the element {root.tag}")
        rows = [[(float(v.attrib["X"]), float(v.attrib["Y"])) for v in r.iter("Vertex")] for r in root.iter("Region")]
        if not all(np.isfinite(row).all() for row in rows):
            raise ValueError("a vertex that is not finite")
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        expected = "Annotations with Region, Vertices and Vertex with X and Y"
        raise SystemExit(f"{path}: found no outlines of Aperio's ({error}), expected {expected}.") from None
    return [np.array(row).reshape(-1, 2) for row in rows]


def draw(regions: Iterable[NDArray[np.float64]], shape: tuple[int, int]) -> Drawn:
    """Fill outlines, each (N, 2) of [x, y], in an image of ``shape``; the larger, in pixels of the image, first."""
    regions = list(regions)
    solid = [ring - 0.5 for ring in regions if len(np.unique(ring, axis=0)) >= 3]  # pixel centres are at .5
    filled = [pixels for x, y in (ring.T for ring in solid) if len((pixels := polygon(y, x, shape))[0])]
    numbers, outlines = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for n in sorted(range(len(filled)), key=lambda n: -len(filled[n][0])):
        numbers[filled[n]] = n + 1
        outlines[filled[n]] += 1
    numbers = relabel_sequential(numbers)[0]
    hidden = len(filled) - int(numbers.max(initial=0))
    return Drawn(numbers, len(regions) - len(filled), hidden, int(np.count_nonzero(outlines > 1)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of tissue images and annotations")
    parser.add_argument("--out", type=Path, default=Path("data/monuseg"), help="folder to write")
    parser.add_argument("--test", type=Path, help="folder of the test images and their outlines")
    parser.add_argument("--split", default="monuseg", help="monuseg, kumar, or a JSON of section to names")
    parser.add_argument("--validation", type=float, default=0.1, help="share to validate with --split monuseg")
    parser.add_argument("--organs", type=Path, help="CSV with the columns name and organ")
    parser.add_argument("--seed", type=int, default=0, help="seed of the validation split")
    parser.add_argument("--copy", action="store_true", help="copy images that need no change instead of linking them")
    parser.add_argument("--no_validation", action="store_true", help="train on the validation images too")
    return parser


if __name__ == "__main__":
    main()
