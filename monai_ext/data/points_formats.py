# SPDX-License-Identifier: Apache-2.0
"""The file formats that clicked points come in, each read into a :class:`PointSet`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from monai_ext.data.errors import fault
from monai_ext.functional.points import world_from_voxels

SPACES = ("voxel", "RAS", "LPS")
CELL = "cell"
"""Label of a 2-D point that carries none."""

_KEY = "points"
_COLUMNS = {("r", "a", "s"): "RAS", ("l", "p", "s"): "LPS", ("i", "j", "k"): "voxel", ("x", "y", "z"): None}
_SLICER_SPACES = {"0": "RAS", "1": "LPS", "RAS": "RAS", "LPS": "LPS"}


@dataclass(frozen=True)
class PointSet:
    """Points as a file holds them.

    Attributes:
        labels: N names.
        positions: (N, D) float64, D = 2 or 3: array indices of the image file, or mm.
        space: ``"voxel"``, ``"RAS"`` or ``"LPS"``. A 2-D voxel position is [x, y], column and row.
    """

    labels: tuple[str, ...]
    positions: NDArray[np.float64]
    space: str


def collect(path: Path, rows: Iterable[tuple[Any, Any]], *, space: Any) -> PointSet:
    """Build a :class:`PointSet` from (label, position) pairs and refuse what is not a set of points.

    Raises:
        DataFault: at no point, a position that is not two or three finite numbers, a 3-D point without a label, or
            an unknown space.
    """
    labels, positions = [], []
    for number, (label, position) in enumerate(rows, start=1):
        try:
            numbers = [] if isinstance(position, str) else [float(value) for value in position]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
            found = f"point {number} has the position {position!r}"
            raise fault(path, _KEY, found=found, expected="two or three finite numbers")
        name = str(label).strip() if label is not None else ""
        if not name and len(numbers) == 3:
            raise fault(path, _KEY, found=f"point {number} has no label", expected="a label such as F or L2")
        labels.append(name or CELL)
        positions.append(numbers)
    if not positions:
        raise fault(path, _KEY, found="there is no point in it", expected="at least one")
    if len({len(position) for position in positions}) > 1:
        raise fault(path, _KEY, found="2-D and 3-D positions are mixed", expected="positions of one dimension")
    if space not in SPACES:
        raise fault(path, _KEY, found=f"the space is {space!r}", expected="voxel, RAS or LPS")
    return PointSet(tuple(labels), np.array(positions, dtype=np.float64), space)


def read_json(path: Path) -> PointSet:
    """Read this project's JSON, a Slicer markups file or a QuPath GeoJSON, told apart by their top-level keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise fault(path, _KEY, found=f"it is not JSON ({error})", expected="a points file") from error
    try:
        if isinstance(content, dict) and "markups" in content:
            return _from_slicer(path, content["markups"])
        if isinstance(content, list) or content.get("type") in ("Feature", "FeatureCollection"):
            return _from_geojson(path, content)
        return _from_own(path, content)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        # Any structure can come out of a JSON file; its first surprise ends the reading.
        found = f"its structure is not that of a points file ({type(error).__name__}: {error})"
        raise fault(path, _KEY, found=found, expected="Frugal JSON, Slicer markups or GeoJSON points") from error


def _from_own(path: Path, content: dict[str, Any]) -> PointSet:
    points = [(point.get("label"), point["position"]) for point in content["points"]]
    flat = bool(points) and all(len(position) == 2 for _, position in points)
    return collect(path, points, space=content.get("space", "voxel" if flat else None))


def _from_slicer(path: Path, markups: list[dict[str, Any]]) -> PointSet:
    """Read ``.mrk.json``; a point whose ``positionStatus`` is not ``defined`` was never placed."""
    rows, spaces = [], set()
    for node in markups:
        space = str(node.get("coordinateSystem", "LPS"))
        spaces.add(_SLICER_SPACES.get(space, space))
        for point in node.get("controlPoints", []):
            if point.get("positionStatus", "defined") == "defined":
                rows.append((point.get("label"), point["position"]))
    if len(spaces) > 1:
        raise fault(path, _KEY, found=f"its lists use {' and '.join(sorted(spaces))}", expected="one coordinateSystem")
    return collect(path, rows, space=spaces.pop() if spaces else "LPS")


def _from_geojson(path: Path, content: dict[str, Any] | list[Any]) -> PointSet:
    """Read Point and MultiPoint features; other geometries, such as the annotated region, are not points."""
    features = content if isinstance(content, list) else content.get("features", [content])
    rows = []
    for feature in features:
        geometry = feature.get("geometry") or {}
        kind = (feature.get("properties") or {}).get("classification") or {}
        label = kind.get("name") or ": ".join(kind.get("names", [])) or CELL
        if geometry.get("type") == "Point":
            rows.append((label, geometry["coordinates"][:2]))
        elif geometry.get("type") == "MultiPoint":
            rows += [(label, position[:2]) for position in geometry["coordinates"]]
    return collect(path, rows, space="voxel")


def read_csv(path: Path) -> PointSet:
    """Read a table of points; its header tells the space.

    Slicer's tables say ``label,r,a,s`` (RAS) or ``label,l,p,s`` (LPS), and rows whose ``defined`` is 0 were never
    placed. Array indices are ``label,i,j,k``. ``label,x,y,z`` needs the space said, in a first line such as
    ``# space=RAS`` or in a column ``space``, because guessing wrong would mirror the points unseen. ``label,x,y`` is
    2-D pixels, and its label may be left out. A spreadsheet's semicolons with decimal commas, its tabs and its
    byte-order mark are understood.

    Raises:
        DataFault: at a missing header or space, or a cell that is not a number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise fault(path, _KEY, found="it is not UTF-8 text", expected="a CSV table") from error
    said = [line for line in lines if line.lstrip().startswith("#")]
    table = [line for line in lines if line.strip() and line not in said]
    delimiter = next((mark for mark in (";", "\t") if table and mark in table[0]), ",")
    header, *body = list(csv.reader(table, delimiter=delimiter)) or [[]]
    names = [name.strip().lower() for name in header]
    rows = [dict(zip(names, cells, strict=False)) for cells in body]
    axes, space = _axes_of(path, names)
    space = space or _said_space(path, said, rows)
    placed = [row for row in rows if row.get("defined", "1").strip() != "0"]
    decimal = "." if delimiter == "," else ","
    return collect(
        path,
        ((row.get("label"), [row.get(axis, "").replace(decimal, ".") for axis in axes]) for row in placed),
        space=space,
    )


def _axes_of(path: Path, names: list[str]) -> tuple[tuple[str, ...], str | None]:
    for axes, space in _COLUMNS.items():
        if set(axes) <= set(names):
            return axes, space
    if {"x", "y"} <= set(names):
        return ("x", "y"), "voxel"
    expected = "label,r,a,s or label,l,p,s or label,i,j,k or label,x,y,z or label,x,y"
    raise fault(path, _KEY, found=f"the first line is {','.join(names)!r}", expected=expected)


def _said_space(path: Path, comments: list[str], rows: list[dict[str, str]]) -> str:
    words = [line.lstrip("# ").replace(":", "=").partition("=") for line in comments]
    said = {value.strip().upper() for key, _, value in words if key.strip().lower() in ("space", "coordinatesystem")}
    said |= {row["space"].strip().upper() for row in rows if row.get("space", "").strip()}
    if len(said) != 1:
        found = f"columns x,y,z and the space {' and '.join(sorted(said)) or 'not said'}"
        raise fault(path, _KEY, found=found, expected="one first line '# space=RAS' (or LPS, or voxel)")
    word = said.pop()
    return "voxel" if word == "VOXEL" else word


def read_label_volume(path: Path) -> PointSet:
    """Read the annotation volume of the released PA-Seg code (Zhai et al., IEEE TMI 2023).

    Six voxels of 1 are the background clicks and one of 2 the foreground click; 3 and 4 are a second object, which gets
    the suffix 2. The volume does not say which background click is which, so that letters are given by position: the
    assignment that lays L, P, I furthest down and R, A, S furthest up the RAS axes.

    Returns:
        RAS positions through the volume's own affine.

    Raises:
        DataFault: where the file cannot be read or holds other values or numbers of voxels (the released code skips
            such volumes without a word).
    """
    try:
        volume = image_loader()(path)
    except Exception as error:  # readers raise whatever their library raises
        raise fault(path, _KEY, found=f"it cannot be read ({cause_of(error)})", expected="a points file") from error
    values = np.asarray(volume.numpy())
    if values.ndim != 4 or len(values) != 1:
        raise fault(path, _KEY, found=f"the volume has shape {values.shape[1:]}", expected="one 3-D volume of clicks")
    present = set(np.unique(values).tolist()) - {0}
    if not present or not present <= {1, 2, 3, 4}:
        found = f"the volume holds the values {sorted(present)[:8]}"
        raise fault(path, _KEY, found=found, expected="1 and 2, and 3 and 4 for a second object")
    labels, positions = [], []
    for background, foreground, suffix in ((1, 2, ""), (3, 4, "2")):
        if not present & {background, foreground}:
            continue
        outer, inner = (np.argwhere(values[0] == value) for value in (background, foreground))
        if (len(outer), len(inner)) != (6, 1):
            found = f"{len(outer)} voxels of {background} and {len(inner)} of {foreground}"
            raise fault(path, _KEY, found=found, expected="six and one")
        world = world_from_voxels(np.concatenate([inner, outer]), affine=volume.affine)
        labels += ["F" + suffix] + [letter + suffix for letter in _letters_of(world[1:])]
        positions += world.tolist()
    return collect(path, zip(labels, positions, strict=True), space="RAS")


def _letters_of(positions_ras: NDArray[np.float64]) -> list[str]:
    """Name six positions (6, 3) so that the sum of their signed positions along the named directions is largest."""
    extent = np.ptp(positions_ras, axis=0)
    relative = (positions_ras - positions_ras.mean(axis=0)) / np.where(extent > 0, extent, 1.0)
    letters = "LRPAIS"
    score = np.stack([sign * relative[:, axis] for axis in range(3) for sign in (-1, 1)], axis=1)
    rows, columns = linear_sum_assignment(score, maximize=True)
    return [letters[column] for _, column in sorted(zip(rows, columns, strict=True))]


@cache
def image_loader() -> LoadImage:
    """Give MONAI's reader of images (C, *S) in their file's type; making one is slow, and its plugins log each time."""
    return LoadImage(image_only=True, ensure_channel_first=True, dtype=None)


def cause_of(error: BaseException) -> str:
    """Give the last non-empty line of an error's text, short: readers put the cause there, after their trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160].rstrip(".")
