# SPDX-License-Identifier: Apache-2.0
"""Nuclei in triple-negative breast cancer (TNBC) as a set of cells with masks and points.

    python scripts/prepare_tnbc.py <source> --out data/tnbc

``<source>`` holds ``Slide_<n>/<n>_<i>.png``, in colour, and ``GT_<n>/<n>_<i>.png``, a mask or a label map of each; a
channel of transparency is dropped. All files are written anew, nothing is linked.

A mask that has one value beside 0 becomes its connected components (8 neighbours), so that nuclei which touch are one;
how many masks that holds for is printed. A mask of more values is a label map, and is numbered anew from 1 on.

A group is the slide. Slides 1 to 6 train, 7 and 8 validate, 9 to 11 test; others are left out. The CPS paper has 30, 7
and 13 images but does not name them; that division of slides fits, and the counts are told where they differ. Its
author wrote later that the first 30 trained and the last 20 tested.

Credit Naylor et al., IEEE TMI 38 (2019). Not verified: the archive itself and its licence.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _cells import CellSetWriter
from _fields import files_by_stem, match_masks, read_mask, refuse_source
from _slides import Plain
from _tiles import SECTIONS
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label
from skimage.segmentation import relabel_sequential

SLIDES = {"training": range(1, 7), "validation": range(7, 9), "test": range(9, 12)}
PAPER = {"training": 30, "validation": 7, "test": 13}


class Picture(NamedTuple):
    """An image, its mask, its slide's folder and its section."""

    image: Path
    mask: Path
    slide: str
    section: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source)
    pictures = {picture.image.stem: picture for picture in find_pictures(options.source)}
    writer = CellSetWriter(options.out, name="nuclei in triple-negative breast cancer")
    writer.head["labels"]["1"] = "nucleus"
    kinds = Counter[str]()
    for stem, picture in pictures.items():
        pixels = Plain(picture.image).pixels
        numbers, kind = read_nuclei(picture.mask, pixels.shape[:2])
        kinds[kind] += 1
        section = "training" if options.no_validation and picture.section == "validation" else picture.section
        writer.add(section, stem, image=pixels, label=numbers, group=picture.slide)
    writer.finish()
    print(f"label maps: {kinds['map']}; masks, of which connected components (8 neighbours) were made: {kinds['mask']}")
    found = Counter(picture.section for picture in pictures.values())
    if found != Counter(PAPER):
        counts = ["/".join(str(each[section]) for section in SECTIONS) for each in (found, PAPER)]
        print(f"found {counts[0]} images to train, validate and test, the CPS paper has {counts[1]}")


def find_pictures(source: Path) -> Iterator[Picture]:
    """Yield the pictures of all slides by number; each has a mask, and no two have one name.

    Raises:
        SystemExit: no slide, a missing mask, a mask without image, or a name in two slides.
    """
    names = [path.name for path in source.iterdir() if path.is_dir()] if source.is_dir() else []
    found = [match[1] for name in names if (match := re.fullmatch(r"Slide_(\d+)", name))]
    if not found:
        raise SystemExit(f"{source}: found no slides, expected the folders Slide_01, GT_01 and so on.")
    seen: dict[str, Path] = {}
    for digits in sorted(found):
        slide = f"Slide_{digits}"
        section = next((section for section, slides in SLIDES.items() if int(digits) in slides), None)
        if section is None:
            print(f"{slide}: left out, the split has slides 1 to 11")
            continue
        images = files_by_stem(source / slide, (".png",))
        masks = match_masks(images, source / f"GT_{digits}")
        for stem, image in images.items():
            if stem not in masks:
                raise SystemExit(f"{image}: found no mask of it in GT_{digits}, expected one for each image.")
            if seen.setdefault(stem, image) != image:
                raise SystemExit(f"{image}: found {seen[stem]} of the same name, expected each name once.")
            yield Picture(image, masks[stem], slide, section)


def read_nuclei(path: Path, shape: tuple[int, int]) -> tuple[NDArray[np.int64], str]:
    """Number of the nucleus of each pixel (H, W), 1, 2, ..., and whether the file is a ``mask`` or a label ``map``."""
    foreground = read_mask(path, shape)  # refuses what is no mask of this image
    with Image.open(path) as image:
        values = np.asarray(image)
    values = values if values.ndim == 2 else values[..., 0]
    if len(np.unique(values[foreground > 0])) > 1:
        return relabel_sequential(values.astype(np.int64))[0], "map"
    return label(foreground, connectivity=2).astype(np.int64), "mask"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the slides and their masks")
    parser.add_argument("--out", type=Path, default=Path("data/tnbc"), help="folder to write")
    parser.add_argument("--no_validation", action="store_true", help="train on the validation images too")
    return parser


if __name__ == "__main__":
    main()
