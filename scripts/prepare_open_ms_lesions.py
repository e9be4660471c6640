# SPDX-License-Identifier: Apache-2.0
"""Multiple-sclerosis lesions in brain MR (three patients) as a seven-point data set.

    python scripts/prepare_open_ms_lesions.py <source> --out data/open_ms_lesions

``<source>`` is a copy of the GitHub repository muschellij2/open_ms_data (its ``cross_sectional/MNI`` is read), or a
folder with ``images/patientNN_FLAIR.nii.gz`` and ``labels/patientNN_lesion.nii.gz``. The patients used and their
sections stand in ``scripts/splits/open_ms_lesions.json``: the training patient is the one with most lesions.

Each connected lesion of at least ``--min_voxels`` voxels gets seven clicks. Smaller ones get none, as if the annotator
had passed over them, and where they lie outside every lesion's box they are taught as background. In the training
patient, lesions of 30 voxels or more are 27 of 98 and hold 98.7 % of the lesion voxels.

The data's licence is CC-BY; credit Lesjak et al., Neuroinformatics (2017), doi 10.1007/s12021-017-9348-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import _prepare


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    parser = _prepare.parser((__doc__ or "").splitlines()[0], default_out="data/open_ms_lesions")
    parser.add_argument("--split", type=Path, default=_prepare.SPLITS / "open_ms_lesions.json")
    parser.add_argument("--modality", choices=("FLAIR", "T1"), default="FLAIR")
    parser.add_argument("--min_voxels", type=int, default=30, help="lesions smaller than this get no clicks")
    options = parser.parse_args(arguments)
    writer = _prepare.DataSetWriter(
        options, name="MS lesions from seven points", target="lesion", min_voxels=options.min_voxels
    )
    for section, patients in _prepare.read_split(options.split).items():
        for patient in patients:
            image, label = _find_files(options.source, patient, options.modality)
            writer.add(section, patient, image=image, label=label)
    writer.finish()


def _find_files(source: Path, patient: str, modality: str) -> tuple[Path, Path]:
    published = source / "cross_sectional" / "MNI" / patient
    if published.is_dir():
        return _only(published, f"{modality}_*.nii.gz"), _only(published, "GOLD_STANDARD_*.nii.gz")
    image, label = f"{patient}_{modality}.nii.gz", f"{patient}_lesion.nii.gz"
    return _only(source / "images", image), _only(source / "labels", label)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} holds {len(found)} files named {pattern}, expected one.")
    return found[0]


if __name__ == "__main__":
    main()
