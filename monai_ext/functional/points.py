# SPDX-License-Identifier: Apache-2.0
"""Coordinates of clicked points: RAS, LPS and voxel space, and the names of seven-point clicks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LETTERS = "FLRAPIS"
"""F is the foreground click; left, right, anterior, posterior, inferior, superior are the patient's sides."""

_LABEL = re.compile(rf"([{LETTERS}])(\d*)", re.IGNORECASE)


def ras_from_lps(points: ArrayLike) -> NDArray[np.float64]:
    """Turn LPS positions into RAS ones by flipping the first two axes; it is its own inverse.

    Args:
        points: (N, D) positions in mm, D = 2 or 3.

    Returns:
        (N, D) positions in mm.
    """
    flipped = _as_points(points).copy()
    flipped[:, :2] *= -1
    return flipped


def world_from_voxels(voxels: ArrayLike, *, affine: ArrayLike) -> NDArray[np.float64]:
    """Apply a voxel-to-world matrix to array indices.

    Args:
        voxels: (N, D) array indices; the centre of the first voxel is 0.
        affine: homogeneous matrix with at least D + 1 rows, as nibabel and MONAI's ``MetaTensor`` give it.
            A 2-D image may carry MONAI's 4x4 matrix: its first D axes and last column are used.

    Returns:
        (N, D) positions in mm, in the space the affine maps to (RAS in MONAI).
    """
    points = _as_points(voxels)
    linear, offset = _split(affine, points.shape[1])
    return points @ linear.T + offset


def voxels_from_world(points_ras: ArrayLike, *, affine: ArrayLike) -> NDArray[np.float64]:
    """Invert :func:`world_from_voxels`; indices are not rounded.

    Args:
        points_ras: (N, D) positions in mm.
        affine: as in :func:`world_from_voxels`.

    Returns:
        (N, D) array indices.

    Raises:
        ValueError: where the affine cannot be inverted.
    """
    points = _as_points(points_ras)
    linear, offset = _split(affine, points.shape[1])
    if np.linalg.matrix_rank(linear) < len(linear):
        raise ValueError(f"affine {np.asarray(affine).tolist()} has no inverse, expected one axis a dimension.")
    return np.asarray(np.linalg.solve(linear, (points - offset).T).T, dtype=np.float64)


def object_of(label: str) -> tuple[str, str]:
    """Split the name of a click into its letter and its instance: ``"F2"`` gives ``("F", "2")``, ``"l"`` ``("L", "")``.

    Raises:
        ValueError: where the name is not one of F, L, R, A, P, I, S with an optional number.
    """
    match = _LABEL.fullmatch(label.strip())
    if match is None:
        raise ValueError(f"label {label!r} is unknown, expected F, L, R, A, P, I or S with an optional number.")
    return match[1].upper(), match[2]


def group_points(labels: Sequence[str], positions: ArrayLike) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Sort clicks into objects.

    Args:
        labels: N names, see :func:`object_of`.
        positions: (N, D) in any space.

    Returns:
        ``{instance: {letter: (D,) position}}`` in the order of first appearance; no number is the instance ``""``.

    Raises:
        ValueError: at an unknown or doubled name, or where the numbers of names and positions differ.
    """
    points = _as_points(positions)
    if len(labels) != len(points):
        raise ValueError(f"{len(labels)} labels name {len(points)} positions, expected one label a position.")
    groups: dict[str, dict[str, NDArray[np.float64]]] = {}
    for label, position in zip(labels, points, strict=True):
        letter, instance = object_of(label)
        clicks = groups.setdefault(instance, {})
        if letter in clicks:
            raise ValueError(f"label {letter + instance!r} occurs twice, expected one click for each letter.")
        clicks[letter] = position
    return groups


def _as_points(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"points have shape {array.shape}, expected (N, 2) or (N, 3).")
    return array


def _split(affine: ArrayLike, dims: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < dims + 1:
        raise ValueError(f"affine has shape {matrix.shape}, expected a square one of at least {dims + 1} rows.")
    return matrix[:dims, :dims], matrix[:dims, -1]
