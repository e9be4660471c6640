# SPDX-License-Identifier: Apache-2.0
"""One made-up MR-like volume with lobed targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

_MIN_VOXELS = 16


@dataclass(frozen=True)
class PhantomSpec:
    """How a phantom looks. Intensities are relative to bright tissue = 1 before the scanner's gain is applied.

    Args:
        objects: targets per volume, cycled over the cases of each section by ``make_phantoms``.
        contrast: target minus bright tissue. The distractors share the target's brightness.
        texture: standard deviation of the smooth texture inside tissue and target.
        bias: largest relative strength of the multiplicative bias field.
        noise: standard deviation of each of the two channels of the Rician noise.
        blur_mm: width of every edge, which stands for the partial-volume effect.
        vessels: bright tubes; the first one of each target touches it.
        nodules: bright balls, much smaller than a target.
    """

    objects: tuple[int, ...] = (1, 2, 1)
    contrast: float = 0.45
    texture: float = 0.06
    bias: float = 0.15
    noise: float = 0.05
    blur_mm: float = 0.6
    vessels: int = 3
    nodules: int = 3


def phantom_volume(
    *,
    shape: Sequence[int] = (64, 64, 48),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.5),
    objects: int = 1,
    spec: PhantomSpec | None = None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """Draw one head-like volume: textured tissue, dark ventricles, bright distractors and lobed targets.

    A threshold cannot find the target: a rim, vessels that touch it and nodules are as bright as it is, and a
    bias field moves all of them. What tells it apart is that it is bulky.

    Args:
        shape: voxels along (i, j, k), at least 16 each.
        spacing_mm: voxel size along (i, j, k).
        objects: 1, or 2 (then smaller, one per half of the head, not touching each other).
        spec: the look; default ``PhantomSpec()``.
        rng: the only source of randomness.

    Returns:
        image (i, j, k), float32, exactly 0 outside the head; mask (i, j, k), uint8, 1 in any target, one connected
        component per target; affine (4, 4) from voxel indices to RAS millimetres, with a random origin.

    Raises:
        ValueError: if ``shape`` is too small or ``objects`` is neither 1 nor 2.
    """
    spec = spec or PhantomSpec()
    if len(shape) != 3 or min(shape) < _MIN_VOXELS:
        raise ValueError(f"phantom shape is {tuple(shape)}, expected three axes of at least {_MIN_VOXELS} voxels.")
    if objects not in (1, 2):
        raise ValueError(f"objects is {objects}, expected 1 or 2 targets per phantom.")
    spacing = np.asarray(spacing_mm, dtype=float)
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (i, j, k, 3), mm from the centre
    radii = 0.45 * np.asarray(shape) * spacing
    targets = [_lobed(grid, centre, size, rng) for centre, size in _places(radii, objects, rng)]
    head = _ellipsoid(grid, np.zeros(3), radii) + 0.04 * radii.min() * _smooth_field(shape, spacing, 10.0, rng)
    target = np.minimum.reduce(targets)
    image = _paint(grid, head, targets, spacing, spec, rng)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [a[0] for a in axes] + rng.uniform(-20, 20, 3)
    return image, (target < 0).astype(np.uint8), affine


def _paint(
    grid: NDArray[Any],
    head: NDArray[Any],
    targets: list[NDArray[Any]],
    spacing: NDArray[Any],
    spec: PhantomSpec,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Intensities from distances (mm, negative inside): tissue, ventricles, distractors, targets, then the scanner."""
    shape, size = head.shape, -head.min()

    def put(image: NDArray[Any], distance: NDArray[Any], value: float | NDArray[Any]) -> NDArray[Any]:
        share = 0.5 - 0.5 * np.tanh(distance / (2 * spec.blur_mm))
        return image + share * (value - image)

    bright = 1.0 + spec.contrast
    image = 0.75 + 0.25 * np.tanh(3 * _smooth_field(shape, spacing, 0.12 * size, rng))
    for side in (-1, 1):
        centre = np.array([0.14 * side, 0.1, 0.1]) * size
        image = put(image, _ellipsoid(grid, centre, size * np.array([0.07, 0.3, 0.15])), 0.3)
    image = put(image, np.abs(head + 0.08 * size) - 0.03 * size, bright)
    for k in range(spec.vessels):
        inside = targets[k] < 0 if k < len(targets) else head < -0.3 * size
        start = grid[inside][rng.integers(inside.sum())]
        image = put(image, _vessel(grid, start, size, rng), bright)
    for _ in range(spec.nodules):
        centre = rng.uniform(-0.5, 0.5, 3) * size
        image = put(image, _ellipsoid(grid, centre, size * rng.uniform(0.07, 0.1, 3)), bright)
    for target in targets:
        image = put(image, target, bright)
    image = image + spec.texture * _smooth_field(shape, spacing, 1.5, rng)
    bias = _smooth_field(shape, spacing, 0.7 * size, rng)
    image = image * (1 + spec.bias * bias / np.abs(bias).max())
    real, imaginary = rng.normal(0, spec.noise, (2, *shape))
    image = np.hypot(image + real, imaginary) * rng.uniform(300, 900)
    return np.where(head < 0, image, 0).astype(np.float32)


def _places(radii: NDArray[Any], objects: int, rng: np.random.Generator) -> list[tuple[NDArray[Any], float]]:
    """Centres (3,) and outer radii, mm, such that targets stay inside the head and apart from each other."""
    if objects == 1:
        return [(rng.uniform(-0.22, 0.22, 3) * radii, radii.min() * rng.uniform(0.48, 0.6))]
    places = []
    for side in (-1, 1):
        centre = radii * np.array([0.48 * side, *rng.uniform(-0.2, 0.2, 2)])
        places.append((centre, radii.min() * rng.uniform(0.32, 0.38)))
    return places


def _lobed(grid: NDArray[Any], centre: NDArray[Any], radius: float, rng: np.random.Generator) -> NDArray[Any]:
    """Distance (mm, negative inside) to a smooth union of overlapping ellipsoids within ``radius`` of ``centre``."""
    turn = Rotation.random(rng=rng).as_matrix()
    parts = [_ellipsoid(grid, centre, radius * rng.uniform(0.45, 0.65, 3), turn)]
    for direction in Rotation.random(rng.integers(2, 5), rng=rng).as_matrix()[:, 0]:
        parts.append(_ellipsoid(grid, centre + 0.55 * radius * direction, radius * rng.uniform(0.35, 0.45, 3), turn))
    softness = 0.05 * radius
    return -softness * np.logaddexp.reduce([-part / softness for part in parts])


def _vessel(grid: NDArray[Any], start: NDArray[Any], size: float, rng: np.random.Generator) -> NDArray[Any]:
    """Distance (mm, negative inside) to a winding tube that begins at ``start``."""
    direction = Rotation.random(rng=rng).as_matrix()[0]
    path = [start]
    for _ in range(40):
        direction = direction + rng.normal(0, 0.25, 3)
        direction /= np.linalg.norm(direction)
        path.append(path[-1] + 0.03 * size * direction)
    return cKDTree(np.array(path)).query(grid)[0] - size * rng.uniform(0.05, 0.075)


def _ellipsoid(
    grid: NDArray[Any], centre: NDArray[Any], radii: NDArray[Any], turn: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Approximate distance (mm, negative inside; exact for a ball) to an ellipsoid's surface."""
    offset = grid - centre if turn is None else (grid - centre) @ turn
    return (np.linalg.norm(offset / radii, axis=-1) - 1) * radii.min()


def _smooth_field(
    shape: Sequence[int], spacing: NDArray[Any], sigma_mm: float, rng: np.random.Generator
) -> NDArray[Any]:
    """Gaussian random field of mean 0 and standard deviation 1 that is isotropic in millimetres."""
    field = gaussian_filter(rng.standard_normal(shape), sigma_mm / spacing, mode="wrap")
    return (field - field.mean()) / field.std()
