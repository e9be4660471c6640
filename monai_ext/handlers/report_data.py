# SPDX-License-Identifier: Apache-2.0
"""Reads what a run's handlers left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_ext.handlers.files import case_name

Epochs = Mapping[int, Mapping[str, float]]
Cases = Mapping[str, Mapping[str, float]]

OVERLAYS = "overlays"
OVERLAYS_INDEX = "cases.json"


@dataclass(frozen=True)
class Picture:
    """An overlay: what it stands for (best, ...), whose it is, its Dice, and the PNG file's bytes."""

    rank: str
    name: str
    dice: float | None
    png: bytes


def read_pictures(output_dir: Path) -> list[Picture]:
    """The overlays that ``CaseOverlays`` wrote, in its order; none where it did not run."""
    folder = output_dir / OVERLAYS
    if not (folder / OVERLAYS_INDEX).exists():
        return []
    shown = json.loads((folder / OVERLAYS_INDEX).read_text(encoding="utf-8"))["shown"]
    return [Picture(p["rank"], p["name"], p["dice"], (folder / p["file"]).read_bytes()) for p in shown]


def read_cases(cases_dir: Path, output_dir: Path) -> Cases:
    """Metrics of each case: from the ``*_raw.csv`` of MONAI's ``MetricsSaver``, else the Dice of the overlays."""
    by_file: dict[str, dict[str, float]] = {}
    for path in sorted(cases_dir.glob("*_raw.csv")):
        metric = path.stem.removesuffix("_raw").removeprefix("val_").removeprefix("test_")
        for file, values in _read_raw(path, metric).items():
            by_file.setdefault(file, {}).update(values)
    if by_file:
        names = {file: case_name(file) for file in by_file}
        unique = len(set(names.values())) == len(names)
        return {names[file] if unique else file: values for file, values in by_file.items()}
    index = output_dir / OVERLAYS / OVERLAYS_INDEX
    found = json.loads(index.read_text(encoding="utf-8"))["cases"] if index.exists() else []
    return {case["name"]: {"mean_dice": case["dice"]} for case in found if case["dice"] is not None}


def _read_raw(path: Path, metric: str) -> dict[str, dict[str, float]]:
    """MONAI does not quote file names, so columns are counted from the right."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    _, *classes, _ = head.split(",")
    columns = [f"{metric} {name}" for name in classes] + [metric]
    table = {}
    for line in lines:
        file, *cells = line.rsplit(",", len(columns))
        values = {column: float(cell) for column, cell in zip(columns, cells, strict=True)}
        table[file] = values if len(classes) > 1 else {metric: values[metric]}
    return table
