# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import heapq
from itertools import product

import numpy as np
import pytest

from monai_ext.functional.geodesic import COSTS, geodesic_distance


def plain_dijkstra(image, seeds, *, cost, spacing, weight):
    """Textbook Dijkstra with a heap; one edge at a time, the three costs written out."""
    distance = np.full(image.shape, np.inf)
    heap = [(0.0, tuple(seed)) for seed in seeds]
    for _, seed in heap:
        distance[seed] = 0.0
    while heap:
        here_distance, here = heapq.heappop(heap)
        if here_distance > distance[here]:
            continue
        for offset in product((-1, 0, 1), repeat=image.ndim):
            there = tuple(h + o for h, o in zip(here, offset, strict=True))
            if not any(offset) or any(t < 0 or t >= n for t, n in zip(there, image.shape, strict=True)):
                continue
            contrast = abs(float(image[there]) - float(image[here]))
            length = sum((o * s) ** 2 for o, s in zip(offset, spacing, strict=True)) ** 0.5
            if cost == "gradient":
                step = contrast
            elif cost == "additive":
                step = contrast + weight * length
            else:
                step = length / (weight + (1 - weight) / (contrast + 1e-5))
            if here_distance + step < distance[there]:
                distance[there] = here_distance + step
                heapq.heappush(heap, (distance[there], there))
    return distance


def grid_length(shape, seed):
    """Length in voxels of the shortest 26-neighbour walk: diagonal steps first, by counting."""
    steps = np.sort(np.abs(np.indices(shape) - np.reshape(seed, (-1,) + (1,) * len(shape))), axis=0)
    a, b, c = steps
    return 3**0.5 * a + 2**0.5 * (b - a) + (c - b)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(
    ("shape", "spacing", "weight"),
    [((6, 7, 5), (1.0, 1.0, 1.0), 0.3), ((5, 8, 4), (0.5, 1.0, 2.5), 0.9), ((9, 11), (2.0, 0.7), 0.4)],
)
def test_equals_plain_dijkstra(cost, shape, spacing, weight):
    rng = np.random.default_rng(3)
    image = np.round(rng.normal(size=shape), 1)  # rounding makes ties and zero-weight edges
    seeds = [tuple(rng.integers(0, shape)) for _ in range(2)]
    ours = geodesic_distance(image, seeds, cost=cost, spacing=spacing, spatial_weight=weight)
    reference = plain_dijkstra(image, seeds, cost=cost, spacing=spacing, weight=weight)
    np.testing.assert_allclose(ours, reference, rtol=1e-12, atol=1e-12)


def test_default_spatial_weights_are_a_tenth_and_a_half():
    image = np.random.default_rng(0).normal(size=(4, 4, 4))
    for cost, weight in (("additive", 0.1), ("saturating", 0.5)):
        reference = plain_dijkstra(image, [(0, 0, 0)], cost=cost, spacing=(1, 1, 1), weight=weight)
        np.testing.assert_allclose(geodesic_distance(image, (0, 0, 0), cost=cost), reference, rtol=1e-12)


def test_values_by_hand():
    # One row: contrasts 1, 3, 0.
    image = np.array([[0.0, 1.0, 4.0, 4.0]])
    seed = (0, 0)
    np.testing.assert_allclose(geodesic_distance(image, seed, cost="gradient"), [[0, 1, 4, 4]])
    np.testing.assert_allclose(
        geodesic_distance(image, seed, cost="additive", spacing=(1, 2), spatial_weight=0.5), [[0, 2, 6, 7]]
    )
    # The released cost is about 2 L d / (1 + d) at one half: 1 for d = 1, 1.5 for d = 3, nothing for d = 0.
    np.testing.assert_allclose(geodesic_distance(image, seed, cost="saturating"), [[0, 1, 2.5, 2.5]], atol=1e-4)


def test_spatial_limits_are_the_length_of_the_grid_walk():
    flat, seed = np.full((7, 6, 9), 3.0), (2, 1, 4)
    length = grid_length(flat.shape, seed)
    np.testing.assert_allclose(geodesic_distance(flat, seed, cost="additive", spatial_weight=1.0), length)
    np.testing.assert_allclose(geodesic_distance(flat, seed, cost="saturating", spatial_weight=1.0), length)
    # On a constant image the released cost is small but not zero: L / (1/2 + 1/2 / 1e-5).
    np.testing.assert_allclose(geodesic_distance(flat, seed, cost="saturating"), length / 50000.5)


def test_plateau_costs_nothing_to_cross():
    image = np.zeros((5, 5, 5))
    image[4] = 2.0
    distance = geodesic_distance(image, (0, 0, 0), cost="gradient")
    assert (distance[:4] == 0).all()
    assert (distance[4] == 2.0).all()


def test_serpentine_corridor_is_followed():
    # A dark corridor winds between bright walls; crossing the wall would cost 2 * 10.
    image = np.full((9, 7), 10.0)
    image[0::2] = 0.0
    for row, column in ((1, 6), (3, 0), (5, 6), (7, 0)):
        image[row, column] = 0.0
    distance = geodesic_distance(image, (0, 0), cost="additive", spatial_weight=0.01)
    # Five rows of 7 voxels; each turn cuts the corner by two diagonal steps: 4 + 3 * 5 ... in units of the weight.
    straight_first_last = 2 * 5  # (0,0) to (0,5) and (8,1) to (8,6)
    straight_between = 3 * 4  # from (2,5) to (2,1) and so on
    diagonals = 4 * 2 * 2**0.5
    assert distance[8, 6] == pytest.approx(0.01 * (straight_first_last + straight_between + diagonals))


@pytest.mark.parametrize("cost", COSTS)
def test_axes_may_be_permuted_and_flipped(cost):
    image = np.random.default_rng(1).normal(size=(5, 6, 7))
    spacing, seed = np.array([1.0, 0.5, 3.0]), np.array([1, 4, 2])
    distance = geodesic_distance(image, seed, cost=cost, spacing=spacing)
    order = [2, 0, 1]
    moved = geodesic_distance(image.transpose(order), seed[order], cost=cost, spacing=spacing[order])
    np.testing.assert_allclose(moved, distance.transpose(order), rtol=1e-12)
    flipped = geodesic_distance(image[::-1], (5 - 1 - 1, 4, 2), cost=cost, spacing=spacing)
    np.testing.assert_allclose(flipped, distance[::-1], rtol=1e-12)


def test_what_a_change_of_scale_does():
    image = np.random.default_rng(2).normal(size=(6, 6, 6))
    seed = (3, 3, 3)

    def relative(**options):
        distance = geodesic_distance(image * options.pop("scale", 1.0), seed, **options)
        return distance / distance.max()

    # The gradient cost is homogeneous: neither intensity scale nor spacing changes D / D_max.
    np.testing.assert_allclose(relative(cost="gradient", scale=50.0), relative(cost="gradient"), rtol=1e-9)
    np.testing.assert_array_equal(relative(cost="gradient", spacing=(1, 1, 4)), relative(cost="gradient"))
    # The others are homogeneous in the spacing, but large contrasts drown or saturate the length.
    for cost in ("additive", "saturating"):
        np.testing.assert_allclose(
            relative(cost=cost, spacing=(2, 2, 2), scale=2.0 if cost == "additive" else 1.0),
            relative(cost=cost),
            rtol=1e-9,
        )
        assert np.abs(relative(cost=cost, scale=50.0) - relative(cost=cost)).max() > 0.05
    # Saturated, the released cost is twice the Euclidean length of the walk.
    far = geodesic_distance(image * 1e7, seed, cost="saturating")
    np.testing.assert_allclose(far, 2 * grid_length(image.shape, seed), rtol=0.01)


def test_several_seeds_take_the_nearest():
    image = np.random.default_rng(4).normal(size=(5, 5, 5))
    a, b = (0, 0, 0), (4, 4, 2)
    both = geodesic_distance(image, [a, b])
    np.testing.assert_allclose(both, np.minimum(geodesic_distance(image, a), geodesic_distance(image, b)), rtol=1e-12)


def test_one_voxel():
    np.testing.assert_array_equal(geodesic_distance(np.ones((1, 1, 1)), (0, 0, 0)), np.zeros((1, 1, 1)))


def test_image_is_not_changed():
    image = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    before = image.copy()
    geodesic_distance(image, (0, 0, 0))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "raster"}, "cost: found 'raster'"),
        ({"cost": "additive", "spatial_weight": -1.0}, "spatial_weight: found -1.0"),
        ({"cost": "saturating", "spatial_weight": 1.5}, "spatial_weight: found 1.5"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing: found"),
        ({"spacing": (1.0, 1.0)}, "spacing: found"),
        ({"seeds": (0, 0, 3)}, "expected voxels inside"),
        ({"seeds": (0, 0, -1)}, "expected voxels inside"),
        ({"seeds": (0, 0)}, "expected integer voxel indices"),
        ({"seeds": (0.0, 0.0, 1.0)}, "expected integer voxel indices"),
        ({"image": np.full((3, 3, 3), np.nan)}, "NaN or infinite"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"image": np.zeros((3, 3, 3)), "seeds": (0, 0, 0), **options}
    with pytest.raises(ValueError, match=message):
        geodesic_distance(arguments.pop("image"), arguments.pop("seeds"), **arguments)
