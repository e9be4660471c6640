# SPDX-License-Identifier: Apache-2.0
"""A431 cells with points from a nuclear stain (Mendeley 10.17632/89s3ymz5wn.1) as a set of cells.

    python scripts/prepare_a431.py <source> --out data/a431

``<source>`` is the unpacked archive: ``train.json``, a list of objects with ``image_file`` (in ``train``) and
``locations`` [[y, x], ..], ``train/img_0000.tif`` and so on, and ``test/img_<number>.tif`` with the label maps
``test/masks_<number>.tif``. The layout is the one that the CKS paper's code reads (github.com/jiyuuchc/lacss); not
verified: the archive itself and its licence. Locations are taken as array indices, as blob detection gives them; here
points are [x, y]. ``mask_file``, which that code asks for even where only points are used, is not read.

The paper trains on 500 images with points and tests on 25 with masks. Training images have no masks to validate with,
so ``--validation`` of the test images are set apart for it; 0 keeps the paper's test set and leaves no validation.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _cells import CellSetWriter, source_file
from _fields import refuse_source
from numpy.typing import NDArray

PAPER_TRAINING, PAPER_TEST = 500, 25


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source, options.source / "train", options.source / "test")
    training, test = read_training(options.source), find_test(options.source / "test")
    if not 0 <= options.validation < len(test):
        raise SystemExit(f"--validation: found {options.validation}, expected 0 to {len(test) - 1} of the test images.")
    chosen = np.random.default_rng(options.seed).permutation(len(test))[: options.validation]
    writer = CellSetWriter(options.out, name="A431 cells", copy=options.copy)
    for image, points in training:
        writer.add("training", f"train_{image.stem}", image=image, points=points, group=f"train_{image.stem}")
    for number, (image, label) in enumerate(test):
        section, name = "validation" if number in chosen else "test", f"test_{image.stem}"
        writer.add(section, name, image=image, label=label, group=name)
    writer.finish()
    print(f"the paper has {PAPER_TRAINING} images for training, without validation, and {PAPER_TEST} for testing")


def read_training(source: Path) -> list[tuple[Path, NDArray[np.float64]]]:
    """Training images and their points (N, 2), [x, y].

    Raises:
        SystemExit: a missing file or another structure.
    """
    listing = source / "train.json"
    if not listing.is_file():
        raise SystemExit(f"{listing}: found no such file, expected the list of training images.")
    try:
        rows = [
            (row["image_file"], np.array(row["locations"], float).reshape(-1, 2)[:, ::-1])
            for row in json.loads(listing.read_text(encoding="utf8"))
        ]
    except (ValueError, KeyError, TypeError) as error:
        expected = "a list of image_file and locations [[y, x], ..]"
        raise SystemExit(f"{listing}: found another structure ({error!r}), expected {expected}.") from None
    root = source if any(str(name).startswith("train/") for name, _ in rows) else source / "train"
    return [(source_file(listing, root, name), points) for name, points in rows]


def find_test(folder: Path) -> list[tuple[Path, Path]]:
    """Test images and their label maps, by number."""
    images = sorted(path for path in folder.glob("img_*.tif") if re.fullmatch(r"img_\d+", path.stem))
    if not images:
        raise SystemExit(f"{folder}: found no images, expected img_0001.tif and so on.")
    pairs = [(image, folder / image.name.replace("img_", "masks_", 1)) for image in images]
    if missing := [mask for _, mask in pairs if not mask.is_file()]:
        raise SystemExit(f"{missing[0]}: found no such file (one of {len(missing)}), expected a mask for each image.")
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the unpacked archive")
    parser.add_argument("--out", type=Path, default=Path("data/a431"), help="folder to write")
    parser.add_argument("--validation", type=int, default=5, help="number of test images kept to validate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of validation images")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    return parser


if __name__ == "__main__":
    main()
