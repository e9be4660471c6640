# SPDX-License-Identifier: Apache-2.0
"""Hippocampus MR (Medical Segmentation Decathlon, Task04) as a seven-point data set.

    python scripts/prepare_msd_hippocampus.py <source> --out data/msd_hippocampus

``<source>`` is the unpacked ``Task04_Hippocampus`` (``imagesTr``, ``labelsTr``) from medicaldecathlon.com, or a folder
with ``images`` and ``labels``. The target is the whole hippocampus (label > 0). The 64 files used, and their sections
(40/8/16, drawn once at random), stand in ``scripts/splits/msd_hippocampus.json``; other files are ignored. With
``--no_validation`` they are 48/16, as in the table of the bundle's documentation. The source names no subjects, and
about two volumes come from each, so volumes of one person may be in two sections.

The data's licence is CC BY-SA 4.0; credit Antonelli et al., Nature Communications 13 (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import _prepare


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    parser = _prepare.parser((__doc__ or "").splitlines()[0], default_out="data/msd_hippocampus")
    parser.add_argument("--split", type=Path, default=_prepare.SPLITS / "msd_hippocampus.json")
    options = parser.parse_args(arguments)
    images, labels = _find_folders(options.source)
    split = _prepare.read_split(options.split)
    missing = [n for names in split.values() for n in names if not (images / n).exists() or not (labels / n).exists()]
    if missing:
        raise SystemExit(f"{missing[0]} (one of {len(missing)}) is not in both {images} and {labels}.")
    writer = _prepare.DataSetWriter(options, name="hippocampus from seven points", target="hippocampus")
    for section, names in split.items():
        for name in names:
            writer.add(section, name.removesuffix(".nii.gz"), image=images / name, label=labels / name)
    writer.finish()


def _find_folders(source: Path) -> tuple[Path, Path]:
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        if (source / images).is_dir() and (source / labels).is_dir():
            return source / images, source / labels
    raise SystemExit(f"{source} holds neither images and labels nor imagesTr and labelsTr.")


if __name__ == "__main__":
    main()
