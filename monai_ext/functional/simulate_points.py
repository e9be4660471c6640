# SPDX-License-Identifier: Apache-2.0
"""Seven simulated clicks per object, from a dense mask."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects, generate_binary_structure, label
from scipy.optimize import linear_sum_assignment

logger = logging.getLogger(__name__)

_LOW_LETTERS, _HIGH_LETTERS = "LPI", "RAS"
_WELL_INSIDE = 0.5


def connected_components(mask: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Components of a mask under 26-connectivity (8 in 2-D), the largest first.

    Args:
        mask: (\*S), non-zero is foreground.

    Returns:
        integer map (\*S) with 0 background and 1, 2, ... the components, and their sizes in voxels (N,).
    """
    foreground = np.asarray(mask) > 0
    found, count = label(foreground, structure=generate_binary_structure(foreground.ndim, foreground.ndim))
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.zeros(count + 1, dtype=np.int64)
    rank[order + 1] = np.arange(1, count + 1)
    return rank[found], sizes[order]


def axis_letters(affine: npt.ArrayLike, dimensions: int) -> list[tuple[str, str]]:
    """Anatomical letters of the low and the high end of each array axis.

    Args:
        affine: voxel to world (RAS+ mm), (D + 1, D + 1) or larger.
        dimensions: D, 2 or 3.

    Returns:
        One (low, high) pair per axis, each world axis used once, for example ``("L", "R")``.
    """
    rotation = np.asarray(affine, dtype=np.float64)[:dimensions, :dimensions]
    closeness = np.abs(rotation) / np.linalg.norm(rotation, axis=0)
    world, voxel = linear_sum_assignment(-closeness)
    letters = [("", "")] * dimensions
    for w, v in zip(world, voxel, strict=True):
        ends = (_LOW_LETTERS[w], _HIGH_LETTERS[w])
        letters[v] = ends if rotation[w, v] >= 0 else ends[::-1]
    return letters


def simulate_points(
    mask: npt.ArrayLike,
    *,
    margin_voxels: tuple[int, int] = (1, 5),
    jitter_voxels: float = 2.0,
    min_voxels: int = 10,
    seed: int | np.random.Generator = 0,
    affine: npt.ArrayLike | None = None,
) -> tuple[list[str], np.ndarray]:
    r"""Simulate the seven-point annotation of each connected component.

    F lies well inside the component near its centroid. Each background point is an extreme voxel of the component
    moved outward along its axis, clipped at the border of the image. Where that lands in another object, a free place
    among the same extreme voxels and distances is drawn instead; where there is none, the first one stays, because the
    plane of the click is what bounds the object. Source: the annotation protocol of Zhai et al., IEEE TMI 2023,
    section III-A; neither the paper nor its code says how far outside the clicks were, so that distance is an argument
    here.

    Args:
        mask: (\*S), 2-D or 3-D, non-zero is foreground.
        margin_voxels: least and greatest distance of a background point from the extreme voxel, both possible.
        jitter_voxels: F is drawn among the inner voxels at most this far from the innermost choice.
        min_voxels: components with fewer voxels are left out; their number is logged as a warning.
        seed: seed or generator of the random draws.
        affine: voxel to world (RAS+ mm), which names the directions; the identity where None.

    Returns:
        labels, ``F`` and the direction letters, with suffix 2, 3, ... from the second component on (by size), and
        their array indices as float64 (N, D). Both are empty for an empty mask.

    Raises:
        ValueError: where the mask is not 2-D or 3-D or the margins are not 1 <= least <= greatest.
    """
    components, sizes = connected_components(mask)
    if components.ndim not in (2, 3):
        raise ValueError(f"mask: found {components.ndim} axes, expected 2 or 3.")
    if not 1 <= margin_voxels[0] <= margin_voxels[1]:
        raise ValueError(f"margin_voxels: found {margin_voxels}, expected 1 <= least <= greatest.")
    rng = np.random.default_rng(seed)
    ends = axis_letters(np.eye(components.ndim + 1) if affine is None else affine, components.ndim)
    kept = int((sizes >= min_voxels).sum())
    if left_out := len(sizes) - kept:
        logger.warning("%d components have fewer than %d voxels and get no points.", left_out, min_voxels)
    labels: list[str] = []
    positions: list[np.ndarray] = []
    for number, box in enumerate(find_objects(components)[:kept], start=1):
        suffix = "" if number == 1 else str(number)
        start = np.array([axis.start for axis in box])
        inside = components[box] == number
        labels += ["F" + suffix] + [letter + suffix for pair in ends for letter in pair]
        positions.append(start + _foreground_point(inside, jitter_voxels, rng))
        for axis in range(components.ndim):
            positions += _outer_points(inside, start, components, axis=axis, margin_voxels=margin_voxels, rng=rng)
    return labels, np.array(positions, dtype=np.float64).reshape(-1, components.ndim)


def _foreground_point(inside: np.ndarray, jitter_voxels: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a voxel near the deep voxel that is nearest the centroid; a curved object may not contain its centroid."""
    depth = distance_transform_edt(np.pad(inside, 1))[(slice(1, -1),) * inside.ndim]
    deep = np.argwhere(depth >= _WELL_INSIDE * depth.max())
    centroid = np.argwhere(inside).mean(axis=0)
    centre = deep[np.argmin(np.linalg.norm(deep - centroid, axis=1))]
    near = deep[np.linalg.norm(deep - centre, axis=1) <= jitter_voxels]
    return near[rng.integers(len(near))]


def _outer_points(
    inside: np.ndarray,
    start: np.ndarray,
    components: np.ndarray,
    *,
    axis: int,
    margin_voxels: tuple[int, int],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """One point beyond each end of the component along ``axis``, low end first."""
    points = []
    voxels = np.argwhere(inside)
    last = components.shape[axis] - 1
    for extreme, outward in ((0, -1), (inside.shape[axis] - 1, 1)):
        candidates = start + voxels[voxels[:, axis] == extreme]
        chosen = rng.integers(len(candidates))
        margin = int(rng.integers(margin_voxels[0], margin_voxels[1], endpoint=True))
        point = _moved(candidates[[chosen]], axis, outward * margin, last)[0]
        if components[tuple(point)]:
            margins = range(margin_voxels[0], margin_voxels[1] + 1)
            places = np.concatenate([_moved(candidates, axis, outward * m, last) for m in margins])
            free = places[components[tuple(places.T)] == 0]
            # A spawned generator leaves the draws of all other points as they are.
            point = free[rng.spawn(1)[0].integers(len(free))] if len(free) else point
        points.append(point)
    return points


def _moved(voxels: np.ndarray, axis: int, step: int, last: int) -> np.ndarray:
    moved = voxels.copy()
    moved[:, axis] = np.clip(moved[:, axis] + step, 0, last)
    return moved
