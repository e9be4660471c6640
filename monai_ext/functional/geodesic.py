# SPDX-License-Identifier: Apache-2.0
"""Exact geodesic distance on the grid graph of an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

COSTS = ("gradient", "additive", "saturating")
"""Names of the edge costs."""

DEFAULT_SPATIAL_WEIGHT = {"gradient": 0.0, "additive": 0.1, "saturating": 0.5}
"""Weight of the step length in each cost where none is given."""

_CONTRAST_FLOOR = 1e-5


def geodesic_distance(
    image: npt.ArrayLike,
    seeds: npt.ArrayLike,
    *,
    cost: str = "gradient",
    spacing: Sequence[float] | None = None,
    spatial_weight: float | None = None,
) -> np.ndarray:
    r"""Length of the cheapest path from each voxel to the nearest seed, exact on the 26-neighbour graph (8 in 2-D).

    .. math:: \mathcal{D}(i, i_f) = \min_{p \in \mathcal{P}_{i, i_f}} \int_0^1 \|\nabla X(p(n)) \cdot v(n)\| \, dn

    Along a step from voxel a to its neighbour b the integral is :math:`d = |X_a - X_b|`. With L the length of the
    step in mm and s the ``spatial_weight``, a step costs

    - ``"gradient"``: :math:`d`, the equation as printed;
    - ``"additive"``: :math:`d + s L`;
    - ``"saturating"``: :math:`L / (s + (1 - s) / (d + 10^{-5}))`, the form of the released code, whose
      :math:`\lambda` is :math:`1 - s`.

    Source: Zhai et al., IEEE TMI 2023, Eq. 1. The released code stops a raster scan after four passes, which
    overestimates the distance; here the path is the shortest, so a threshold tuned there does not carry over.

    Args:
        image: intensities (\*S), finite. Their scale matters, so bring images to one scale first (z-score).
        seeds: integer voxel index (D,) or indices (N, D), N >= 1, inside the image.
        cost: one of :data:`COSTS`.
        spacing: voxel size along each axis in mm, 1 everywhere where None. ``"gradient"`` does not use it.
        spatial_weight: s, at least 0, and at most 1 for ``"saturating"``; None takes :data:`DEFAULT_SPATIAL_WEIGHT`.

    Returns:
        float64 distances (\*S), 0 at the seeds.

    Raises:
        ValueError: for an unknown cost, a weight or spacing out of range, a seed outside the image, intensities
            that are not finite, or an image too large for the graph's 32-bit indices.
    """
    values = np.asarray(image, dtype=np.float64)
    spacing_mm = np.ones(values.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    weight = checked_weight(cost, spatial_weight)
    if not np.isfinite(values).all():
        raise ValueError("image: found NaN or infinite intensities, expected finite ones.")
    if spacing_mm.shape != (values.ndim,) or not (np.isfinite(spacing_mm) & (spacing_mm > 0)).all():
        raise ValueError(f"spacing: found {spacing}, expected {values.ndim} positive numbers in mm.")
    sources = _flat_index(seeds, values.shape)
    graph = _grid_graph(values, cost=cost, spacing_mm=spacing_mm, weight=weight)
    return dijkstra(graph, directed=True, indices=sources, min_only=True).reshape(values.shape)


def checked_weight(cost: str, spatial_weight: float | None) -> float:
    """Spatial weight that a cost uses, the default of the cost where None.

    Raises:
        ValueError: for an unknown cost or a weight out of its range.
    """
    if cost not in COSTS:
        raise ValueError(f"cost: found {cost!r}, expected one of {', '.join(COSTS)}.")
    weight = DEFAULT_SPATIAL_WEIGHT[cost] if spatial_weight is None else float(spatial_weight)
    upper = 1.0 if cost == "saturating" else np.inf
    if not (0.0 <= weight <= upper and np.isfinite(weight)):
        raise ValueError(f"spatial_weight: found {weight}, expected a number from 0 to {upper} for cost {cost!r}.")
    return weight


def _flat_index(seeds: npt.ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    index = np.atleast_2d(np.asarray(seeds))
    if index.shape[1] != len(shape) or not np.issubdtype(index.dtype, np.integer) or not len(index):
        raise ValueError(f"seeds: found {seeds!r}, expected integer voxel indices with {len(shape)} numbers each.")
    if (index < 0).any() or (index >= shape).any():
        raise ValueError(f"seeds: found {index.tolist()}, expected voxels inside the image of shape {shape}.")
    return np.ravel_multi_index(tuple(index.T), shape)


def _grid_graph(values: np.ndarray, *, cost: str, spacing_mm: np.ndarray, weight: float) -> csr_array:
    """Both directions of every edge, the same number of slots in each row.

    The arrays of the sparse matrix are written directly: a zero weight then stays an edge (an intensity plateau costs
    nothing to cross), no sorting is needed, and the search needs no transposed copy. A slot whose neighbour is off
    the grid holds a loop from the voxel to itself, which shortens no path.
    """
    offsets = [o for o in product((-1, 0, 1), repeat=values.ndim) if any(o)]
    slots = values.size * len(offsets)
    if slots > np.iinfo(np.int32).max:
        raise ValueError(f"image: found shape {values.shape}, expected fewer than {2**31 // len(offsets)} voxels.")
    own = np.arange(values.size, dtype=np.int32).reshape(values.shape)
    neighbours = np.repeat(own[..., None], len(offsets), axis=-1)
    weights = np.zeros(neighbours.shape)
    for slot, offset in enumerate(offsets):
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, values.shape, strict=True))
        there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, values.shape, strict=True))
        length_mm = float(np.linalg.norm(np.multiply(offset, spacing_mm)))
        neighbours[..., slot][here] = own[there]
        weights[..., slot][here] = _step_cost(np.abs(values[there] - values[here]), length_mm, cost=cost, weight=weight)
    starts = np.arange(0, slots + 1, len(offsets), dtype=np.int32)
    return csr_array((weights.ravel(), neighbours.ravel(), starts), shape=(values.size, values.size))


def _step_cost(contrast: np.ndarray, length_mm: float, *, cost: str, weight: float) -> np.ndarray:
    if cost == "gradient":
        return contrast
    if cost == "additive":
        return contrast + weight * length_mm
    return length_mm / (weight + (1.0 - weight) / (contrast + _CONTRAST_FLOOR))
