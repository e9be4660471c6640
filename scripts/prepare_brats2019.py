# SPDX-License-Identifier: Apache-2.0
"""Whole glioma in FLAIR (BraTS 2019 training data) as a seven-point data set.

    python scripts/prepare_brats2019.py MICCAI_BraTS_2019_Data_Training --out data/brats2019

``<source>`` holds ``{HGG,LGG}/<ID>/<ID>_{flair,seg}.nii.gz`` (request it from the organisers). The target is seg > 0.
Zhai et al., IEEE TMI 2023, use 244/27/64 patients, but the list in their code names 244/27/1. So the split is either
drawn here with ``--split_seed`` and written to ``<out>/split.json``, or given with ``--split``: a JSON file
``{"training": [IDs], "validation": [IDs]}``, in which a missing ``"test"`` stands for all other cases.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import _prepare


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    parser = _prepare.parser((__doc__ or "").splitlines()[0], default_out="data/brats2019")
    parser.add_argument("--split", type=Path, help="JSON file of case IDs; without it the split is drawn")
    parser.add_argument("--counts", type=int, nargs=3, default=(244, 27, 64), help="patients per section when drawn")
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--min_voxels", type=int, default=100, help="tumours smaller than this get no clicks")
    options = parser.parse_args(arguments)
    cases = {f.name: f for grade in ("HGG", "LGG") for f in (options.source / grade).glob("*") if f.is_dir()}
    if not cases:
        raise SystemExit(f"{options.source} holds no case folders in HGG or LGG.")
    split = _read_split(options.split, cases) if options.split else _draw_split(cases, options)
    writer = _prepare.DataSetWriter(
        options, name="glioma from seven points", target="whole tumour", min_voxels=options.min_voxels
    )
    for section, names in split.items():
        for name in names:
            image, label = (_find(cases[name], f"{name}_{kind}") for kind in ("flair", "seg"))
            writer.add(section, name, image=image, label=label, group=_patient(name))
    (options.out / "split.json").write_text(json.dumps(split, indent=1) + "\n")
    writer.finish()


def _patient(case: str) -> str:
    """The ID without the number of the scan: ``BraTS19_CBICA_AAB`` for ``BraTS19_CBICA_AAB_1``."""
    return re.sub(r"_\d+$", "", case)


def _draw_split(cases: dict[str, Path], options: argparse.Namespace) -> dict[str, list[str]]:
    patients = sorted({_patient(case) for case in cases})
    split = _prepare.draw_split(patients, options.counts, seed=options.split_seed)
    return {section: [c for c in sorted(cases) if _patient(c) in drawn] for section, drawn in split.items()}


def _read_split(path: Path, cases: dict[str, Path]) -> dict[str, list[str]]:
    split = json.loads(path.read_text())
    listed = [case for section in _prepare.SECTIONS for case in split.get(section, [])]
    unknown = sorted(set(listed) - set(cases))
    if unknown:
        raise SystemExit(f"{path} names {unknown[0]} (one of {len(unknown)}), which the source does not hold.")
    split.setdefault("test", sorted(set(cases) - set(listed)))
    return {section: split.get(section, []) for section in _prepare.SECTIONS}


def _find(folder: Path, stem: str) -> Path:
    for suffix in (".nii.gz", ".nii"):
        if (folder / (stem + suffix)).exists():
            return folder / (stem + suffix)
    raise SystemExit(f"{folder / stem}.nii.gz does not exist.")


if __name__ == "__main__":
    main()
