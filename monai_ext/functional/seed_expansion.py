# SPDX-License-Identifier: Apache-2.0
"""From seven clicks per object to a partial label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_ext.functional.geodesic import geodesic_distance
from monai_ext.functional.partial_labels import UNLABELLED

_ON_THE_BOUND = 1e-3
"""Distance in voxels from the image's outer bound that rounding of an affine may cause."""


@dataclass(frozen=True)
class ObjectDistance:
    """Geodesic distance from one object's foreground click inside its box; thresholding it gives the seeds.

    Attributes:
        box: half-open slice along each axis of the image.
        click: voxel index of the foreground click in the image.
        distance: float64, the shape of the box; infinite where the voxel is known background.
        maximum: largest finite distance, D_max; 0 where there is none.
    """

    box: tuple[slice, ...]
    click: tuple[int, ...]
    distance: np.ndarray
    maximum: float


def box_of_points(points: npt.ArrayLike, shape: Sequence[int]) -> tuple[slice, ...]:
    r"""Half-open box enclosed by the background clicks of one object.

    The clicks lie beyond the object by the annotation rule, so the planes that hold the outermost ones are outside
    the box, except where such a plane is the first or last of the image: an object that reaches the border is clicked
    there, and the box keeps the plane. The released code keeps every click plane inside.

    Args:
        points: voxel coordinates (N, D) of the background clicks, rounded here.
        shape: image shape (\*S).

    Returns:
        One slice per axis.

    Raises:
        ValueError: where a click is outside the image or the clicks enclose no voxel.
    """
    clicks = nearest_voxels(points, shape)
    last = np.asarray(shape) - 1
    low, high = clicks.min(axis=0), clicks.max(axis=0)
    # Clicks that share one border plane enclose nothing, unless the image has no other plane.
    shared = (low == high) & (last > 0)
    start = np.where((low == 0) & ~shared, 0, low + 1)
    stop = np.where((high == last) & ~shared, high + 1, high)
    if (start >= stop).any():
        axis = int(np.argmax(start >= stop))
        raise ValueError(
            f"background points: found clicks from {low[axis]} to {high[axis]} along axis {axis}, "
            "expected at least one voxel between them."
        )
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def object_distance(
    image: npt.ArrayLike,
    foreground_point: npt.ArrayLike,
    background_points: npt.ArrayLike,
    *,
    cost: str = "gradient",
    spacing: Sequence[float] | None = None,
    spatial_weight: float | None = None,
    valid: npt.ArrayLike | None = None,
) -> ObjectDistance:
    r"""Distance map of one object, computed inside its box only: no path leaves the box.

    Args:
        image: intensities (\*S) on one scale for all images (z-score).
        foreground_point: voxel coordinate (D,), rounded here.
        background_points: voxel coordinates (N, D), rounded here.
        cost, spacing, spatial_weight: as in :func:`~monai_ext.functional.geodesic.geodesic_distance`.
        valid: valid image region (\*S), 0 where the voxel is known background; everywhere valid where None. Paths may
            cross known background, which Eq. 1 does not forbid, but it counts neither as a seed nor in D_max.

    Returns:
        The distance in the box and its maximum.

    Raises:
        ValueError: where the foreground click is outside the box.
    """
    values = np.asarray(image)
    box = box_of_points(background_points, values.shape)
    click = nearest_voxels(foreground_point, values.shape)[0]
    start = np.array([axis.start for axis in box])
    if not all(axis.start <= c < axis.stop for c, axis in zip(click, box, strict=True)):
        bounds = ", ".join(f"{axis.start} to {axis.stop - 1}" for axis in box)
        raise ValueError(
            f"foreground point: found voxel {click.tolist()}, expected one inside the box of the background points "
            f"({bounds})."
        )
    distance = geodesic_distance(values[box], click - start, cost=cost, spacing=spacing, spatial_weight=spatial_weight)
    if valid is not None:
        distance[~np.asarray(valid, dtype=bool)[box]] = np.inf
    finite = distance[np.isfinite(distance)]
    maximum = float(finite.max()) if finite.size else 0.0
    return ObjectDistance(box, tuple(int(c) for c in click), distance, maximum)


def threshold_distances(objects: Iterable[ObjectDistance], shape: Sequence[int], *, epsilon: float) -> np.ndarray:
    r"""Partial label map of a volume from the distance maps of its objects.

    .. math:: \Omega_F = \{i \in \Omega - \Omega_B : \mathcal{D}(i, i_f) < \epsilon \mathcal{D}_{max}\}

    Source: Zhai et al., IEEE TMI 2023, Eq. 2. The inequality is strict, so that a flat box (all distances 0) or
    epsilon = 0 would give nothing at all; the clicked voxel is foreground by annotation and is always kept.

    Args:
        objects: distance map of each object; none means a volume known to be all background.
        shape: image shape (\*S).
        epsilon: degree of expansion, from 0 to 1.

    Returns:
        uint8 (\*S): 1 where any object says foreground, 0 where all say background, else ``UNLABELLED``.

    Raises:
        ValueError: where epsilon is out of range.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon: found {epsilon}, expected a number from 0 to 1.")
    seeds = np.zeros(tuple(shape), dtype=np.uint8)
    foreground = np.zeros(seeds.shape, dtype=bool)
    for one in objects:
        inside = seeds[one.box]
        inside[np.isfinite(one.distance)] = UNLABELLED
        foreground[one.box] |= one.distance < epsilon * one.maximum
        foreground[one.click] = True
    seeds[foreground] = 1
    return seeds


def expand_seeds(
    image: npt.ArrayLike,
    objects: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    epsilon: float,
    cost: str = "gradient",
    spacing: Sequence[float] | None = None,
    spatial_weight: float | None = None,
    valid: npt.ArrayLike | None = None,
) -> np.ndarray:
    r"""Seed expansion: clicks to a partial label map.

    Background is everything outside the boxes or outside the valid region,
    :math:`\Omega_B = \Omega_{out} \cup (\Omega - \Omega_M)`; foreground is what :func:`threshold_distances` finds.
    Source: Zhai et al., IEEE TMI 2023, Eq. 1 and 2, section III-A. The released code works on raw intensities with an
    unconverged distance and writes 2 for unlabelled voxels.

    Args:
        image: intensities (\*S) on one scale for all images (z-score).
        objects: per object the foreground point (D,) and the background points (N, D), in voxel coordinates.
        epsilon: degree of expansion, from 0 to 1; choose it for the cost and the organ by the precision curve.
        cost, spacing, spatial_weight: as in :func:`~monai_ext.functional.geodesic.geodesic_distance`.
        valid: valid image region (\*S), 0 where the voxel is known background; everywhere valid where None.

    Returns:
        uint8 (\*S): 0 background, 1 foreground, 255 unlabelled.

    Raises:
        ValueError: for clicks outside the image, clicks that enclose nothing, a foreground click outside its box, or
            an option out of range.
    """
    values = np.asarray(image)
    distances = [
        object_distance(
            values, foreground, background, cost=cost, spacing=spacing, spatial_weight=spatial_weight, valid=valid
        )
        for foreground, background in objects
    ]
    return threshold_distances(distances, values.shape, epsilon=epsilon)


def nearest_voxels(points: npt.ArrayLike, shape: Sequence[int]) -> np.ndarray:
    r"""Voxel that each point lies in; voxel i holds [i - 0.5, i + 0.5), and the last one its upper bound too.

    A click in the last plane of an image may come to lie on that bound when the image is resampled.

    Args:
        points: voxel coordinates (N, D) or (D,).
        shape: image shape (\*S).

    Returns:
        integer indices (N, D).

    Raises:
        ValueError: where a point is outside the image or has another number of coordinates.
    """
    positions = np.atleast_2d(np.asarray(points, dtype=np.float64))
    if positions.shape[1] != len(shape) or not len(positions) or not np.isfinite(positions).all():
        raise ValueError(f"points: found {positions.tolist()}, expected positions with {len(shape)} numbers each.")
    last = np.asarray(shape) - 1
    voxels = np.floor(positions + 0.5).astype(np.int64)
    if (np.abs(positions - last / 2) > (last + 1) / 2 + _ON_THE_BOUND).any():
        raise ValueError(f"points: found voxels {voxels.tolist()}, expected voxels in the image of shape {shape}.")
    return np.clip(voxels, 0, last)
