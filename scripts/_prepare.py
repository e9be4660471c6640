# SPDX-License-Identifier: Apache-2.0
"""What the ``prepare_*.py`` scripts share: splits, simulated clicks, files and the data list."""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_ext.functional.simulate_points import simulate_points

SECTIONS = ("training", "validation", "test")
MARGIN_HELP = "distance of the simulated background clicks from the object, in voxels"
SPLITS = Path(__file__).resolve().parent / "splits"


def parser(description: str, *, default_out: str) -> argparse.ArgumentParser:
    """Return the argument parser with what every script takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("source", type=Path, help="folder of the data set as it was downloaded")
    made.add_argument("--out", type=Path, default=Path(default_out), help="folder to write")
    made.add_argument("--margin", type=int, nargs=2, default=(1, 5), metavar=("MIN", "MAX"), help=MARGIN_HELP)
    made.add_argument("--seed", type=int, default=0, help="seed of the simulated clicks")
    made.add_argument("--copy", action="store_true", help="copy files that need no change instead of linking them")
    return made


def read_split(path: Path) -> dict[str, list[str]]:
    """Return {section: names} from a split file, or stop with a sentence where a section is missing."""
    split = json.loads(path.read_text())
    missing = [section for section in SECTIONS if not split.get(section)]
    if missing:
        raise SystemExit(f"{path}: section {missing[0]!r} is missing or empty, expected {', '.join(SECTIONS)}.")
    return {section: split[section] for section in SECTIONS}


def draw_split(names: Sequence[str], counts: Sequence[int], *, seed: int) -> dict[str, list[str]]:
    """Return a random split of ``names`` into sections of the given sizes, each sorted."""
    if len(names) != sum(counts):
        raise SystemExit(
            f"found {len(names)} cases, expected {sum(counts)} ({'/'.join(map(str, counts))}): give --split."
        )
    order = list(np.random.default_rng(seed).permutation(sorted(names)))
    split = {}
    for section, count in zip(SECTIONS, counts, strict=True):
        split[section], order = sorted(map(str, order[:count])), order[count:]
    return split


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Put ``source`` at ``target`` as a link, or as a copy where asked or where the system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if not copy:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError:  # Windows without the right to make links
            pass
    shutil.copyfile(source, target)


def read_mask(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return label > 0 and the affine of a NIfTI label file."""
    image = nib.load(path)
    return (np.asarray(image.dataobj) > 0).astype(np.uint8), image.affine


def save_nifti(array: NDArray[Any], affine: NDArray[Any], path: Path) -> None:
    """Write an array (i, j, k) with its affine to RAS millimetres, without leaving half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never write through a link into the source
    draft = path.with_name(f".{path.name}.nii.gz")
    nib.save(nib.Nifti1Image(array, affine), draft)
    draft.replace(path)


def write_points(
    mask: NDArray[Any], affine: NDArray[Any], path: Path, *, options: argparse.Namespace, min_voxels: int = 10
) -> int:
    """Simulate seven clicks per connected object of the mask, write them, and return how many objects got clicks.

    The random state depends on ``options.seed`` and the file's name only: a case keeps its clicks in any split.
    """
    labels, positions = simulate_points(
        mask,
        margin_voxels=tuple(options.margin),
        min_voxels=min_voxels,
        seed=np.random.default_rng([options.seed, zlib.crc32(path.stem.encode())]),
        affine=affine,
    )
    if not labels:
        raise SystemExit(f"{path.stem}: the mask holds no object of at least {min_voxels} voxels.")
    points = [{"label": n, "position": [int(x) for x in p]} for n, p in zip(labels, positions, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"space": "voxel", "points": points}, indent=1) + "\n")
    return len(points) // 7


def write_datalist(out: Path, name: str, target: str, items: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Write ``datalist.json`` (the list comes last, so that it names only what exists)."""
    datalist = {"name": name, "labels": {"0": "background", "1": target}, **items}
    (out / "datalist.json").write_text(json.dumps(datalist, indent=1) + "\n")


def print_table(out: Path, items: Mapping[str, Sequence[Mapping[str, str]]], objects: int) -> None:
    """Say what was written."""
    print(f"{'section':<12}{'cases':>6}")
    for section, rows in items.items():
        print(f"{section:<12}{len(rows):>6}")
    print(f"{7 * objects} simulated clicks on {objects} training objects; written: {out / 'datalist.json'}")
