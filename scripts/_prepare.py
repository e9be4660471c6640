# SPDX-License-Identifier: Apache-2.0
"""What the ``prepare_*.py`` scripts share: splits, simulated clicks, files and the data list."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _files import place
from numpy.typing import NDArray
from simulate_points import clicks_of

from monai_ext.data.points_io import write_points

SECTIONS = ("training", "validation", "test")
MARGIN_HELP = "distance of the simulated background clicks from the object, in voxels"
NO_VALIDATION_HELP = "train on the validation cases too, from points: for settings that are chosen already"
SPLITS = Path(__file__).resolve().parent / "splits"


def parser(description: str, *, default_out: str) -> argparse.ArgumentParser:
    """Return the argument parser with what every script takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("source", type=Path, help="folder of the data set as it was downloaded")
    made.add_argument("--out", type=Path, default=Path(default_out), help="folder to write")
    made.add_argument("--margin", type=int, nargs=2, default=(1, 5), metavar=("MIN", "MAX"), help=MARGIN_HELP)
    made.add_argument("--seed", type=int, default=0, help="seed of the simulated clicks")
    made.add_argument("--copy", action="store_true", help="copy files that need no change instead of linking them")
    made.add_argument("--no_validation", action="store_true", help=NO_VALIDATION_HELP)
    return made


def read_split(path: Path) -> dict[str, list[str]]:
    """Return {section: names} from a JSON file, or stop with a sentence where a section is missing."""
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


class DataSetWriter:
    """Writes images, labels, simulated points and, at the end, the data list and a short table.

    Args:
        options: the command line, see :func:`parser`.
        name: the data set's name in the data list.
        target: name of label 1.
        min_voxels: objects smaller than this get no clicks.
    """

    def __init__(self, options: argparse.Namespace, *, name: str, target: str, min_voxels: int = 10) -> None:
        self.options, self.min_voxels = options, min_voxels
        self.head: dict[str, Any] = {"name": name, "labels": {"0": "background", "1": target}}
        self.items: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
        self.objects = dict.fromkeys(SECTIONS, 0)

    def add(
        self,
        section: str,
        stem: str,
        *,
        image: Path | NDArray[Any],
        label: Path | NDArray[Any],
        affine: NDArray[Any] | None = None,
        group: str | None = None,
    ) -> None:
        """Write one case; training cases get points.

        Files are linked (labels that are not 0 and 1 are written as label > 0); arrays (i, j, k) are written with
        ``affine`` to RAS millimetres. ``group`` is the patient, by default the case itself.
        """
        out = self.options.out
        if self.options.no_validation and section == "validation":
            section = "training"
        item = {"image": f"images/{stem}.nii.gz", "label": f"labels/{stem}.nii.gz", "group": group or stem}
        if isinstance(image, Path):
            _place(image, out / item["image"], copy=self.options.copy)
        else:
            _save(image, affine, out / item["image"])
        if isinstance(label, Path):
            label, affine = self._bring_label(label, out / item["label"])
        else:
            _save(label, affine, out / item["label"])
        if section == "training":
            item["points"] = f"points/{stem}.json"
            self.objects[section] += self._write_points(label, affine, out / item["points"])
        self.items[section].append(item)

    def finish(self) -> None:
        """Write ``datalist.json``, last, so that it names only what exists, and say what was done."""
        path = self.options.out / "datalist.json"
        path.write_text(json.dumps({**self.head, **self.items}, indent=1) + "\n")
        print(f"{'section':<12}{'cases':>7}{'objects':>9}{'clicks':>8}")
        for section, rows in self.items.items():
            counts = (self.objects[section], 7 * self.objects[section]) if section == "training" else ("-", "-")
            print(f"{section:<12}{len(rows):>7}{counts[0]:>9}{counts[1]:>8}")
        print(f"written: {path}")

    def _bring_label(self, source: Path, target: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        image: Any = nib.load(source)
        values = np.asarray(image.dataobj)
        mask = (values > 0).astype(np.uint8)
        if np.array_equal(mask, values):
            _place(source, target, copy=self.options.copy)
        else:
            _save(mask, image.affine, target)
        return mask, image.affine

    def _write_points(self, mask: NDArray[Any], affine: NDArray[Any] | None, path: Path) -> int:
        """Seven clicks per connected object."""
        seed, margin = self.options.seed, self.options.margin
        points = clicks_of(mask, path.stem, seed=seed, margin_voxels=margin, min_voxels=self.min_voxels, affine=affine)
        if not points.labels:
            raise SystemExit(f"{path.stem}: the mask holds no object of at least {self.min_voxels} voxels.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_points(path, points)
        return len(points.labels) // 7


def _place(source: Path, target: Path, *, copy: bool) -> None:
    """Put ``source`` at ``target``, compressed, as its name in the data set says."""
    if source.suffix == ".gz":
        place(source, target, copy=copy)
        return
    image: Any = nib.load(source)
    _save(np.asarray(image.dataobj), image.affine, target)


def _save(array: NDArray[Any], affine: NDArray[Any] | None, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never write through a link into the source
    nib.save(nib.Nifti1Image(array, affine), path)
