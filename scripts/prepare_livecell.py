# SPDX-License-Identifier: Apache-2.0
"""LIVECell (phase contrast, eight cell lines) as a set of cells with points and masks.

    python scripts/prepare_livecell.py <source> --out data/livecell

``<source>`` is the published folder: ``images/**/<line>_Phase_<well>_<place>_<time>_<crop>.tif`` and
``annotations/LIVECell/livecell_coco_{train,val,test}.json`` (or the three files in ``annotations`` or in ``<source>``).
CC BY-NC 4.0; credit Edlund et al., Nature Methods 18 (2021).

Polygons become label maps. A contested pixel goes to the smaller cell, whatever the order in the file, so that no cell
vanishes under a larger one; points are the centres of mass of what is left. A polygon that covers an earlier one
(IoU > 0.75) is the same cell drawn twice, and is left out, in the test set as well. A file that stands in the lists
under several identifiers was annotated several times: the annotation with most cells is taken, and the file's section
is test before validation before training.

A field is what a well and place show at all times, in all crops. The published training and validation lists share
fields. So by default, ``--split field``, their pictures are divided anew, within each line, ``--validation`` of them
to validate, and training fields that the test set shows are left out. ``--split published`` keeps the lists, in which
a group is the picture: validation is then optimistic.

``rescale`` is the factor by which the CKS paper's code (version of April 2023) enlarges a line's pictures, ``prior_px``
the size of its prior in pixels of the enlarged picture.

Printed are pictures with the same pixels, and those with nearly no annotation: fewer cells than ``--fewest``, or than a
tenth of the median of their field. ``--drop same`` leaves out the copies, ``--drop empty`` the nearly empty ones.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from _cells import CellSetWriter
from _fields import refuse_source
from _livecell import LISTS, REDUCTION, Picture, label_map, read_lists
from _tiles import split_groups
from PIL import Image

PRIOR_PX = {"A172": 15, "BT474": 15, "BV2": 10, "Huh7": 15, "MCF7": 15, "SHSY5Y": 12, "SKOV3": 15, "SkBr3": 12}
SPARSE = 0.1
"""Share of its field's median number of cells below which a picture is nearly empty."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source, options.source / "images")
    found = read_lists(options.source, lines=options.line)
    dropped = {name for group in same_pixels(found.values()) for name in group[1:] if "same" in options.drop}
    empty = nearly_empty(found.values(), fewest=options.fewest)
    dropped |= set(empty) if "empty" in options.drop else set()
    kept = [picture for name, picture in found.items() if name not in dropped]
    sections = divide(kept, validation=options.validation, seed=options.seed) if options.split == "field" else None
    writer = CellSetWriter(options.out, name="LIVECell", copy=options.copy)
    for picture in kept:
        stem, line = picture.path.stem, picture.line
        section = picture.section if sections is None or picture.section == "test" else sections.get(picture.field)
        if section is not None:
            group = stem if sections is None else picture.field
            keys = {"cell_line": line, "rescale": round(1 / REDUCTION[line], 4), "prior_px": PRIOR_PX[line]}
            label = label_map(picture.cells, picture.shape)
            writer.add(section, stem, image=picture.path, label=label, group=group, keys=keys)
    writer.finish()


def same_pixels(pictures: Iterable[Picture]) -> list[list[str]]:
    """Names of pictures with the same pixels, the one to keep first: of the first section, then of most cells."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        with Image.open(picture.path) as image:
            groups[hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()].append(picture)
    order = list(LISTS)
    found = [sorted(g, key=lambda p: (order.index(p.section), -len(p.cells))) for g in groups.values() if len(g) > 1]
    for group in found:
        print(f"same pixels: {', '.join(f'{p.path.name} ({p.section}, {len(p.cells)} cells)' for p in group)}")
    return [[picture.path.name for picture in group] for group in found]


def nearly_empty(pictures: Iterable[Picture], *, fewest: int) -> list[str]:
    """Names of pictures with fewer cells than ``fewest`` or than a tenth of the median of their field."""
    fields: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        fields[picture.field].append(picture)
    names = []
    for field in fields.values():
        median = float(np.median([len(picture.cells) for picture in field]))
        for picture in field:
            if len(picture.cells) < max(fewest, SPARSE * median):
                names.append(picture.path.name)
                print(f"nearly empty: {names[-1]} ({picture.section}), {len(picture.cells)} cells, field {median:.0f}")
    return names


def divide(pictures: Sequence[Picture], *, validation: float, seed: int) -> dict[str, str]:
    """Training or validation for each field, drawn within each cell line; a field of the test set has none."""
    tested = {picture.field for picture in pictures if picture.section == "test"}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    shared: Counter[str] = Counter()
    for picture in pictures:
        if picture.section != "test":
            (shared if picture.field in tested else counts[picture.line])[picture.field] += 1
    for field, count in sorted(shared.items()):
        print(f"{field}: {count} pictures of this field are left out of training, the test set shows it")
    sections: dict[str, str] = {}
    for line in sorted(counts):
        shares = (1 - validation, validation, 0.0) if len(counts[line]) > 1 else (1.0, 0.0, 0.0)
        sections |= split_groups(counts[line], shares, seed=seed)
    return sections


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of images and annotations")
    parser.add_argument("--out", type=Path, default=Path("data/livecell"), help="folder to write")
    parser.add_argument("--line", nargs="+", choices=sorted(REDUCTION), help="cell lines to take; all if absent")
    parser.add_argument("--split", choices=("field", "published"), default="field", help="how training is divided")
    parser.add_argument("--validation", type=float, default=0.15, help="share to validate with --split field")
    parser.add_argument("--fewest", type=int, default=3, help="pictures with fewer cells are nearly empty")
    parser.add_argument("--drop", nargs="*", choices=("same", "empty"), default=[], help="what to leave out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the division")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    return parser


if __name__ == "__main__":
    main()
