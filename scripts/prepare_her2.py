# SPDX-License-Identifier: Apache-2.0
"""HER2 membranes in immunohistochemistry (the private set of the EUGMT paper) as a set of tiles with masks.

    python scripts/prepare_her2.py <source> --out data/her2

``<source>`` holds ``images/*.png``, ``masks/*.png`` (0 and anything else, of the same stems) and, if known,
``patients.csv`` with the columns ``file`` (name or stem) and ``group``. The images are the fields, which are cut into
tiles, or tiles of ``--size`` pixels already, which are taken as they are and need ``patients.csv``.

Known of the set (Yao et al., Computer Science and Application 16(2), 2026, doi 10.12677/csa.2026.162078): 126 fields of
1536x1536, "sliding window" to 256x256, 2905 tiles, 2350 for training and 555 for testing, split by patient. Not known:
the images themselves, which are private; the number of patients and who is where; the step; and the rule by which
tiles were discarded, since 126 fields hold 4536 without overlap. Here tiles lie ``--step`` apart and glass is dropped
by ``--min_tissue`` (see ``tile_images.py``), the test share is 555/2905, drawn by patient (by field without
``patients.csv``), and validation, which the paper does not have, is taken from the training patients.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import _fields as tiles
from _tiles import TileSetWriter
from PIL import Image

PAPER_FIELDS, PAPER_TRAINING, PAPER_TEST = 126, 2350, 555
TEST_SHARE = PAPER_TEST / (PAPER_TRAINING + PAPER_TEST)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    tiles.refuse_source(options.out, options.source / "images", options.source / "masks")
    images = tiles.files_by_stem(options.source / "images", (".png",))
    masks = tiles.match_masks(images, options.source / "masks")
    if without := sorted(set(images) - set(masks)):
        raise SystemExit(f"{images[without[0]]}: found no mask (one of {len(without)}), expected one for each image.")
    cut = not all(_size(path) == (options.size, options.size) for path in images.values())
    groups = read_patients(options.source / "patients.csv", images, cut=cut)
    cutting = tiles.Cutting(options.size, options.step, min_tissue=options.min_tissue if cut else 0.0)
    fields = {stem: tiles.plan_field(path, cutting) for stem, path in images.items()}
    kept = tiles.report(fields.values())
    print(f"the paper has {PAPER_FIELDS} fields and {PAPER_TRAINING + PAPER_TEST} tiles, here are {kept}")
    counts: Counter[str] = Counter()
    for stem, field in fields.items():
        counts[groups[stem]] += len(field.corners)
    sections = split_patients(counts, validation=options.validation, seed=options.seed)
    writer = TileSetWriter(options.out, name="HER2 membranes", labels=["membrane"])
    for stem, field in fields.items():
        if field.corners:
            mask = tiles.read_mask(masks[stem], field.shape)
            tiles.write_tiles(writer, sections[groups[stem]], field, cutting=cutting, mask=mask, group=groups[stem])
    writer.finish()
    print(f"the paper has {PAPER_TRAINING} for training, without validation, and {PAPER_TEST} for testing")


def read_patients(path: Path, images: Mapping[str, Path], *, cut: bool) -> dict[str, str]:
    """Patient of each image by its stem; without the file the field, which tiles that are cut already do not tell."""
    if path.is_file():
        return tiles.read_groups(path, images)
    if not cut:
        raise SystemExit(f"{path}: found no such file, expected one: nothing else tells whose patient's a tile is.")
    print(f"warning: there is no {path}, the split is by field, and a patient may be in two sections", file=sys.stderr)
    return tiles.read_groups(None, images)


def split_patients(counts: Mapping[str, int], *, validation: float, seed: int) -> dict[str, str]:
    """Section of each patient: the test share is the paper's, whatever the validation share of the rest."""
    sections = tiles.draw_sections(counts, (1 - TEST_SHARE, 0.0, TEST_SHARE), seed=seed)
    rest = {group: counts[group] for group, section in sections.items() if section == "training"}
    return sections | tiles.draw_sections(rest, (1 - validation, validation, 0.0), seed=seed)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a picture.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images, masks and patients.csv")
    parser.add_argument("--out", type=Path, default=Path("data/her2"), help="folder to write")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the training tiles kept to validate")
    tiles.add_cutting(parser)
    return parser


if __name__ == "__main__":
    main()
