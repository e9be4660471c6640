# SPDX-License-Identifier: Apache-2.0
"""Simulate the seven-point annotation of every case of a datalist that has dense masks.

    python scripts/simulate_points.py data/datalist.json --section training --margin 1 5 --seed 0 --drop_labels

One points file per case goes to ``<dataset_dir>/<out_dir>``, and a new datalist that names them beside the given one.
The clicks of a case depend on ``--seed`` and the name of its mask alone, whatever other cases the list holds.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage
from numpy.typing import ArrayLike

from monai_ext.data.datalist import entries_of, load_datalist, read_datalist
from monai_ext.data.points_io import PointSet, write_points
from monai_ext.functional.simulate_points import connected_components, simulate_points


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("datalist", type=Path, help="datalist whose cases have a 'label'")
    parser.add_argument(
        "--dataset_dir", type=Path, help="folder its paths are relative to; that of the datalist if absent"
    )
    parser.add_argument("--section", default="training", help="section that gets points")
    parser.add_argument("--margin", type=int, nargs=2, default=(1, 5), metavar=("MIN", "MAX"), help="voxels outside")
    parser.add_argument("--jitter", type=float, default=2.0, help="greatest shift of the F point, in voxels")
    parser.add_argument("--min_voxels", type=int, default=10, help="objects smaller than this get no points")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulated clicks")
    parser.add_argument("--out_dir", default="points", help="folder of the points files, relative to dataset_dir")
    parser.add_argument("--out_datalist", type=Path, help="new datalist; <datalist>_points.json if absent")
    parser.add_argument("--drop_labels", action="store_true", help="leave 'label' out of the section")
    parser.add_argument("--overwrite", action="store_true", help="replace a datalist that exists")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the points files, then the datalist."""
    options = parse(arguments)
    try:
        _run(options)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _run(options: argparse.Namespace) -> None:
    dataset_dir = options.dataset_dir or options.datalist.parent
    target = options.out_datalist or options.datalist.with_name(f"{options.datalist.stem}_points.json")
    if target.exists() and not options.overwrite:
        raise SystemExit(f"{target}: this datalist exists, expected a new name or --overwrite.")
    content = read_datalist(options.datalist)
    entries = entries_of(options.datalist, content, options.section)
    cases = load_datalist(options.datalist, dataset_dir, options.section)
    unmasked = [entry for entry in entries if "label" not in entry]
    if unmasked:
        raise SystemExit(f"{options.datalist} (label): found none for {unmasked[0].get('image')}, expected a mask.")
    kept: list[dict[str, Any]] = []
    objects = 0
    loader = LoadImage(ensure_channel_first=True)
    for entry, case, name in zip(entries, cases, case_names([str(e["label"]) for e in entries]), strict=True):
        points = _points_of(loader(case["label"]), name, options)
        if not points.labels:
            print(f"{name}: no object of at least {options.min_voxels} voxels; left out of {target.name}.")
            continue
        file = Path(options.out_dir) / f"{name}.json"
        (dataset_dir / file).parent.mkdir(parents=True, exist_ok=True)
        write_points(dataset_dir / file, points)
        objects += sum(label.startswith("F") for label in points.labels)
        dropped = ("label",) if options.drop_labels else ()
        kept.append({k: v for k, v in entry.items() if k not in dropped} | {"points": file.as_posix()})
    target.write_text(json.dumps({**content, options.section: kept}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kept)} of {len(entries)} cases with {objects} objects have points; written: {target}")


def _points_of(mask: MetaTensor, name: str, options: argparse.Namespace) -> PointSet:
    if mask.ndim != 4 or len(mask) != 1:
        file = mask.meta["filename_or_obj"]
        raise SystemExit(f"{file} (label): found an array of shape {tuple(mask.shape)}, expected one 3-D mask.")
    sizes = connected_components(mask[0])[1]
    if left_out := int((sizes < options.min_voxels).sum()):
        print(
            f"{name}: {left_out} of {len(sizes)} objects have fewer than {options.min_voxels} voxels and get no points."
        )
    settings = {"jitter_voxels": options.jitter, "min_voxels": options.min_voxels}
    return clicks_of(mask[0], name, seed=options.seed, margin_voxels=options.margin, affine=mask.affine, **settings)


def clicks_of(mask: ArrayLike, name: str, *, seed: int, margin_voxels: Sequence[int], **settings: Any) -> PointSet:
    """Simulate the clicks of a case; they depend on the seed and the case's name only, not on the other cases.

    Args:
        mask: (i, j, k), non-zero is foreground.
        name: the case.
        seed: of the simulated clicks.
        margin_voxels: least and greatest distance of a background click from the object.
        settings: further arguments of ``monai_ext.functional.simulate_points.simulate_points``.
    """
    draws = np.random.default_rng([seed, zlib.crc32(name.encode())])
    labels, positions = simulate_points(mask, margin_voxels=tuple(margin_voxels), seed=draws, **settings)
    return PointSet(tuple(labels), positions, "voxel")


def case_names(paths: Sequence[str]) -> list[str]:
    """Name cases after their files, or after their whole paths where two files share a name."""
    bare = [path.removesuffix(".gz").rsplit(".", 1)[0] for path in paths]
    names = [Path(path).name for path in bare]
    return names if len(set(names)) == len(names) else [path.replace("/", "_") for path in bare]


if __name__ == "__main__":
    main()
