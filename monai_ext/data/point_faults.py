# SPDX-License-Identifier: Apache-2.0
"""Checks on a user's points; each raises a :class:`~monai_ext.data.errors.DataFault` or says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_ext.data.errors import fault
from monai_ext.data.points_io import read_points, to_voxels
from monai_ext.functional.points import LETTERS, group_points
from monai_ext.functional.seed_expansion import box_of_points, nearest_voxels

_MIRRORED = (("L", "R", 0), ("P", "A", 1), ("I", "S", 2))


def check_points(file: str, image: MetaTensor) -> tuple[int, int]:
    """Refuse points that do not fit their image; on a 3-D image they must be the seven clicks of PA-Seg.

    Returns:
        Number of points and of objects; in 2-D every point is an object.
    """
    points = read_points(file)
    shape, affine = tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64)
    if points.positions.shape[1] != len(shape):
        found = f"positions have {points.positions.shape[1]} numbers"
        raise fault(file, "points", found=found, expected=f"{len(shape)} as the image has axes")
    try:
        voxels = to_voxels(points, affine=affine)
    except ValueError as error:
        found = f"its image has an affine without inverse, {affine.tolist()}"
        raise fault(file, "points", found=found, expected="one that places the voxels in the world") from error
    outside = ((voxels < -0.5) | (voxels > np.array(shape) - 0.5)).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        found = (
            f"point {points.labels[first]!r} at {points.positions[first].round(2).tolist()} ({points.space}) is voxel "
        )
        found += f"{voxels[first].round(1).tolist()}"
        raise fault(file, "points", found=found, expected=f"a voxel inside the image of shape {shape}")
    if len(shape) == 2:
        return len(voxels), len(voxels)
    try:
        groups = group_points(points.labels, voxels)
    except ValueError as error:
        found, _, expected = str(error).rstrip(".").partition(", expected ")
        raise fault(file, "points", found=found, expected=expected) from error
    for instance, clicks in groups.items():
        check_enclosed(clicks, instance, shape, file)
        check_sides(clicks, instance, affine, file)
    return len(voxels), len(groups)


def check_enclosed(clicks: Mapping[str, NDArray[np.float64]], instance: str, shape: Sequence[int], file: str) -> None:
    """Refuse an object that lacks a click or whose F is not inside the box that the six others leave it.

    The planes of the six clicks are outside the box, but for those in the image's border
    (:func:`~monai_ext.functional.seed_expansion.box_of_points`).
    """
    missing = [letter + instance for letter in LETTERS if letter not in clicks]
    if missing:
        found = f"there is no point {' or '.join(missing)}"
        raise fault(file, "points", found=found, expected="F, L, R, A, P, I and S for each object")
    names = ", ".join(letter + instance for letter in LETTERS if letter != "F")
    try:
        box = box_of_points([clicks[letter] for letter in LETTERS if letter != "F"], shape)
    except ValueError as error:
        found = f"the points {names} enclose no voxel"
        raise fault(file, "points", found=found, expected="each pair further apart than the object") from error
    click = nearest_voxels(clicks["F"], shape)[0]
    if not all(axis.start <= c < axis.stop for c, axis in zip(click, box, strict=True)):
        bounds = " x ".join(f"{axis.start}..{axis.stop - 1}" for axis in box)
        found = f"point {'F' + instance!r} at voxel {click.tolist()} is not enclosed by {names}"
        raise fault(file, "points", found=found, expected=f"a voxel in {bounds}")


def check_sides(clicks: Mapping[str, NDArray[np.float64]], instance: str, affine: Any, file: str) -> None:
    """Refuse a pair of letters in the wrong order along its axis, which a file of the wrong space (RAS, LPS) shows.

    On an oblique image the order along the world's axis may differ from that along the nearest voxel axis; only a pair
    that is wrong along both is refused.
    """
    linear = np.asarray(affine)[:3, :3]
    for low, high, axis in _MIRRORED:
        step = clicks[high] - clicks[low]
        nearest = int(np.argmax(np.abs(linear[axis]) / np.linalg.norm(linear, axis=0)))
        along_voxels = step[nearest] * np.sign(linear[axis, nearest])
        if (linear @ step)[axis] < 0 and along_voxels < 0:
            found = f"point {low + instance!r} lies beyond {high + instance!r} along the RAS axis {'xyz'[axis]}"
            expected = (
                f"{low} before {high}: the sides are the patient's, and the file must say its space (RAS, LPS) right"
            )
            raise fault(file, "points", found=found, expected=expected)
