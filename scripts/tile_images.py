# SPDX-License-Identifier: Apache-2.0
"""Large fields or whole slides as a set of tiles for segmentation with few masks (bundle ``eugmt``).

    python scripts/tile_images.py <images> --masks <masks> --out data/mine --groups groups.csv

``<images>`` holds PNG, JPEG or TIFF pictures of 8 bit, or slides (SVS, NDPI, MRXS, pyramidal TIFF, ..). ``<masks>``
holds a PNG or TIFF of the same stem and size (a slide's: of ``--level``; masks are read whole) for as many as have one:
0 and anything else, or class numbers where ``--label`` gives several names. Tiles of pictures without mask go into the
section ``unlabeled``; the others are split by group into training, validation and test. The group is the picture, or
what a CSV with the columns ``file`` (name or stem) and ``group`` says, which puts the pictures of a patient together.
Pictures without mask of a group that has masks are left out, since a group must not be in two sections.

Tiles lie ``--step`` apart from the upper left corner on; the last of each row and column ends at the border, and so
overlaps more where the step does not divide. A tile is kept where at least ``--min_tissue`` of it is tissue, by
``_fields.tissue_mask``. Pale stroma and clear spaces count as glass there: lower it for weak stains, so that negative
tissue stays in the set; ``--min_tissue 0`` keeps all, as fluorescence needs.

Slides go through MONAI's ``WSIReader`` with openslide, cucim or tifffile, the first that is installed and opens the
file. With openslide and cucim they are read tile by tile. tifffile READS A WHOLE LEVEL at once, kept here for all tiles
of the slide, and needs the memory for it; MONAI lets it see only the first level of pyramids in sub-directories.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from _fields import (
    PICTURES,
    Cutting,
    add_cutting,
    draw_sections,
    files_by_stem,
    match_masks,
    plan_field,
    read_groups,
    read_mask,
    refuse_source,
    report,
    write_tiles,
)
from _slides import SLIDES
from _tiles import SECTIONS, TileSetWriter
from tqdm import tqdm


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    cutting = Cutting(options.size, options.step, options.level, options.min_tissue)
    refuse_source(options.out, options.images, *([options.masks] if options.masks else []))
    images = files_by_stem(options.images, (*PICTURES, *SLIDES))
    masks = match_masks(images, options.masks) if options.masks else {}
    groups = read_groups(options.groups, images)
    fields = {stem: plan_field(path, cutting) for stem, path in tqdm(images.items(), "fields", disable=None)}
    report(fields.values())
    counts: Counter[str] = Counter()
    for stem in masks:
        counts[groups[stem]] += len(fields[stem].corners)
    sections = draw_sections(counts, options.shares, seed=options.seed) if masks else {}
    writer = TileSetWriter(options.out, name=options.name, labels=options.label)
    left_out = [stem for stem in fields if stem not in masks and counts[groups[stem]]]
    if left_out:
        print(f"{len(left_out)} fields have no mask but others of their group do, and are left out", file=sys.stderr)
    for stem, field in tqdm(fields.items(), "tiles", disable=None):
        if stem in left_out or not field.corners:
            continue
        mask = read_mask(masks[stem], field.shape, classes=len(options.label)) if stem in masks else None
        section = "unlabeled" if mask is None else sections[groups[stem]]
        write_tiles(writer, section, field, cutting=cutting, mask=mask, group=groups[stem])
    writer.finish()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of pictures or slides")
    parser.add_argument("--masks", type=Path, help="folder of masks with the images' stems")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_cutting(parser)
    parser.add_argument("--level", type=int, default=0, help="level of slides, 0 is the finest")
    parser.add_argument("--shares", type=float, nargs=3, default=(0.8, 0.1, 0.1), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group, for example the patient")
    parser.add_argument("--name", default="tiles", help="name of the data set")
    parser.add_argument("--label", nargs="+", default=["positive"], help="name of each class but the background")
    return parser


if __name__ == "__main__":
    main()
