# SPDX-License-Identifier: Apache-2.0
"""Yeast cells in microfluidic traps (5 bright-field pictures) as a set of cells with points, to look at only.

    python scripts/prepare_yeast_trap.py <source> --out data/yeast_trap

``<source>`` holds ``images/trap_<number>.png`` and ``annotations.json``: for each image a list of boxes with the
``category`` ``trap`` or a kind of cell and ``box_xyxy``. They come from the folder ``trapped_yeast_cell_dataset/test``
of the GitHub repository ChristophReich1996/Cell-DETR (MIT licence; credit Prangemeier et al., IEEE BIBM 2020).

A point is the centre of a cell's box; traps get none. There are no masks of cells, so that nothing can be measured.
Pictures without a cell, of which the set has one, cannot train a method that needs points and are test pictures beside
``--test``. ``diameter_px`` of each entry is the median width of the cells' boxes, rounded to tens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _cells import CellSetWriter, source_file
from _fields import refuse_source
from numpy.typing import NDArray

TRAP = "trap"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source, options.source / "images")
    listing = options.source / "annotations.json"
    boxes = read_boxes(listing)
    if unknown := sorted(set(options.test) - set(map(_stem, boxes))):
        raise SystemExit(f"--test {unknown[0]}: found no such picture in {listing}, expected one of its names.")
    every = np.concatenate(list(boxes.values()))
    glance = {"diameter_px": int(10 * np.rint(np.median(every[:, 2:] - every[:, :2]) / 10))} if len(every) else {}
    writer = CellSetWriter(options.out, name="yeast cells in traps", copy=options.copy)
    for name, found in boxes.items():
        stem = _stem(name)
        section = "test" if stem in options.test or not len(found) else "training"
        image = source_file(listing, options.source / "images", name)
        points = (found[:, :2] + found[:, 2:]) / 2
        writer.add(section, stem, image=image, points=points, group=stem, keys=glance)
    writer.finish()


def read_boxes(listing: Path) -> dict[str, NDArray[np.float64]]:
    """Boxes of cells (N, 4) as x0, y0, x1, y1 by the image's file name.

    Raises:
        SystemExit: no such file, or another structure.
    """
    if not listing.is_file():
        raise SystemExit(f"{listing}: found no such file, expected boxes for each image.")
    try:
        content = json.loads(listing.read_text(encoding="utf8"))
        return {
            name: np.array([row["box_xyxy"] for row in rows if row["category"] != TRAP], float).reshape(-1, 4)
            for name, rows in sorted(content.items())
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{listing}: found another structure ({error!r}), expected boxes by image.") from None


def _stem(name: str) -> str:
    return Path(name).stem


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images and annotations.json")
    parser.add_argument("--out", type=Path, default=Path("data/yeast_trap"), help="folder to write")
    parser.add_argument("--test", nargs="*", default=["trap_037"], help="test pictures, beside those without a cell")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    return parser


if __name__ == "__main__":
    main()
