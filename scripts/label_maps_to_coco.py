# SPDX-License-Identifier: Apache-2.0
"""Instance label maps to one COCO JSON, the "annotations" of a data list.

    python scripts/label_maps_to_coco.py <images> --category 1:cytoplasm=<maps> --category 2:nucleus=<maps> --out <json>

``<images>`` and each ``<maps>`` are folders; a label map, PNG or TIFF with 8 or 16 bits, has the stem and the size of
its picture, 0 is background and each other number one instance. ``--category number:name=folder`` is given once for
each folder. Where instances of one class overlap, spread them over several folders and give the category again for
each. A picture without a map in a folder has no instance there; one without a map in any is not in the file.

Pictures are named in it relative to the folder of ``<json>``, as a data list beside it names them, or by their bare
name where they lie elsewhere. Instances are written as run lengths, or as outlines with ``--polygons``; one with a hole
stays run lengths, for COCO's polygons have none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from _cells import read_label_map
from _fields import PICTURES, files_by_stem, match_masks
from PIL import Image

from monai_ext.data.coco import CocoWriter
from monai_ext.functional.outlines import cutouts_of_labels


class Category(NamedTuple):
    """A class and one folder of its label maps."""

    number: int
    name: str
    folder: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file."""
    options = _parser().parse_args(arguments)
    names = _names(options.category)
    images = files_by_stem(options.images, PICTURES)
    maps = [(category, match_masks(images, category.folder)) for category in options.category]
    writer = CocoWriter(names, as_polygons=options.polygons)
    counts: Counter[int] = Counter()
    for stem, image in images.items():
        shape = _shape(image)
        for category, paths in maps:
            if stem not in paths:
                continue
            numbers = read_label_map(paths[stem])
            if numbers.shape != shape:
                found, expected = (f"{height} x {width}" for height, width in (numbers.shape, shape))
                raise SystemExit(f"{paths[stem]}: found {found} pixels, expected {expected} as {image} has.")
            cutouts = cutouts_of_labels(numbers)
            writer.add(_name(image, options.out), cutouts, shape=shape, category_id=category.number)
            counts[category.number] += len(cutouts)
    writer.write(options.out)
    for number, name in names.items():
        print(f"{number} {name}: {counts[number]} instances")
    print(f"{len(writer.images)} of {len(images)} pictures have label maps; written: {options.out}")


def _names(categories: Sequence[Category]) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, name, _ in categories:
        if names.setdefault(number, name) != name:
            raise SystemExit(f"--category: found the names {names[number]} and {name} for {number}, expected one.")
    return dict(sorted(names.items()))


def _name(image: Path, out: Path) -> str:
    image, folder = image.absolute(), out.absolute().parent
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.name


def _shape(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a picture.") from None


def _category(text: str) -> Category:
    head, _, folder = text.partition("=")
    number, _, name = head.partition(":")
    if not (number.isdecimal() and int(number) > 0 and name and folder):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected number:name=folder with a number from 1")
    return Category(int(number), name, Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of the pictures")
    parser.add_argument("--category", type=_category, action="append", required=True, help="number:name=folder of maps")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write, beside the data list")
    parser.add_argument("--polygons", action="store_true", help="write outlines in place of run lengths")
    return parser


if __name__ == "__main__":
    main()
