# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from monai_ext.functional.geodesic import COSTS, geodesic_distance
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.functional.seed_expansion import (
    box_of_points,
    expand_seeds,
    nearest_voxels,
    object_distance,
    threshold_distances,
)


def six(low, high):
    """Six background clicks whose outermost planes are ``low`` and ``high`` along each axis."""
    middle = (np.asarray(low) + high) / 2
    points = []
    for axis in range(len(low)):
        for end in (low, high):
            point = middle.copy()
            point[axis] = end[axis]
            points.append(point)
    return np.array(points)


def ball(shape, centre, radius):
    grid = np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))
    return (grid**2).sum(axis=0) <= radius**2


def test_box_excludes_the_clicked_planes():
    assert box_of_points(six((2, 3, 4), (8, 9, 10)), (20, 20, 20)) == (slice(3, 8), slice(4, 9), slice(5, 10))


def test_box_keeps_a_clicked_plane_at_the_border():
    assert box_of_points(six((0, 3, 4), (8, 19, 10)), (20, 20, 20)) == (slice(0, 8), slice(4, 20), slice(5, 10))
    assert box_of_points(six((0, 0), (9, 4)), (10, 5)) == (slice(0, 10), slice(0, 5))


def test_box_rounds_to_the_voxel_that_holds_the_click():
    assert box_of_points([[1.6, 2.4], [6.4, 5.6]], (9, 9)) == (slice(3, 6), slice(3, 6))
    assert box_of_points([[-0.4, 0.4], [8.4, 7.6]], (9, 9)) == (slice(0, 9), slice(0, 9))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[2, 2], [3, 6]], "from 2 to 3 along axis 0"),
        ([[2, 2], [5, 9]], "in the image of shape"),
        ([[-1, 2], [5, 5]], "in the image of shape"),
        ([[2, 2, 2]], "with 2 numbers each"),
        ([[2, float("nan")]], "with 2 numbers each"),
        (np.empty((0, 2)), "with 2 numbers each"),
    ],
)
def test_box_needs_room_inside_the_image(points, message):
    with pytest.raises(ValueError, match=message):
        box_of_points(points, (9, 9))


@pytest.mark.parametrize("cost", COSTS)
def test_equals_the_definition(cost):
    """Eq. 2 voxel by voxel, with the click planes and the invalid voxels written as background by hand."""
    rng = np.random.default_rng(5)
    shape, spacing = (10, 10, 8), (1.0, 0.8, 2.0)
    image, valid = rng.normal(size=shape), rng.random(shape) > 0.2
    click = (4, 5, 3)
    got = expand_seeds(
        image, [(click, six((1, 1, 0), (8, 8, 6)))], epsilon=0.4, cost=cost, spacing=spacing, valid=valid
    )

    box = (slice(2, 8), slice(2, 8), slice(0, 6))
    distance = geodesic_distance(image[box], (2, 3, 3), cost=cost, spacing=spacing)
    maximum = max(d for d, ok in zip(distance.ravel(), valid[box].ravel(), strict=True) if ok)
    expected = np.zeros(shape, dtype=np.uint8)
    for index in np.ndindex(*shape):
        inside = all(s.start <= i < s.stop for i, s in zip(index, box, strict=True))
        if index == click:
            expected[index] = 1
        elif inside and valid[index]:
            d = distance[tuple(i - s.start for i, s in zip(index, box, strict=True))]
            expected[index] = 1 if d < 0.4 * maximum else 255
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.uint8
    assert set(np.unique(got)) == {0, 1, UNLABELLED}


def test_paths_stay_inside_the_box():
    # A bright wall splits the box; the only gap is outside it, so a path through the gap would cost nothing.
    image = np.zeros((11, 11))
    image[5, 1:] = 4.0
    result = object_distance(image, (3, 5), [[2, 2], [8, 8]])
    assert result.box == (slice(3, 8), slice(3, 8))
    assert result.distance[-1].min() == 8.0
    assert result.maximum == 8.0


def test_maximum_ignores_known_background():
    image = np.array([[0.0, 1.0, 2.0, 9.0]])
    valid = np.array([[1, 1, 1, 0]])
    clicks = ((0, 0), [[0, 0], [0, 3]])
    assert object_distance(image, *clicks).maximum == 9.0
    assert object_distance(image, *clicks, valid=valid).maximum == 2.0
    np.testing.assert_array_equal(expand_seeds(image, [clicks], epsilon=0.6, valid=valid), [[1, 1, 255, 0]])


def test_no_expansion_keeps_the_click():
    image = np.random.default_rng(0).normal(size=(7, 7, 7))
    seeds = expand_seeds(image, [((3, 3, 3), six((1, 1, 1), (5, 5, 5)))], epsilon=0.0)
    assert np.argwhere(seeds == 1).tolist() == [[3, 3, 3]]
    assert (seeds == UNLABELLED).sum() == 27 - 1


def test_flat_image_keeps_only_the_click_under_the_gradient_cost():
    seeds = expand_seeds(np.zeros((7, 7, 7)), [((3, 3, 3), six((0, 0, 0), (6, 6, 6)))], epsilon=1.0)
    assert np.argwhere(seeds == 1).tolist() == [[3, 3, 3]]
    assert (seeds == 0).sum() == 0


def test_click_on_known_background_is_kept_alone():
    valid = np.ones((5, 5), dtype=bool)
    valid[2, 2] = False
    seeds = expand_seeds(np.zeros((5, 5)), [((2, 2), [[0, 0], [4, 4]])], epsilon=0.5, valid=valid)
    assert np.argwhere(seeds == 1).tolist() == [[2, 2]]
    nothing = expand_seeds(
        np.zeros((5, 5)), [((2, 2), [[0, 0], [4, 4]])], epsilon=0.5, valid=np.zeros((5, 5), dtype=bool)
    )
    assert nothing.sum() == 1


def test_inequality_is_strict():
    image = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    clicks = ((0, 0), [[0, 0], [0, 4]])
    np.testing.assert_array_equal(expand_seeds(image, [clicks], epsilon=0.5), [[1, 1, 255, 255, 255]])
    np.testing.assert_array_equal(expand_seeds(image, [clicks], epsilon=1.0), [[1, 1, 1, 1, 255]])


def test_seeds_grow_with_epsilon_and_recover_a_contrasted_ball():
    truth = ball((20, 20, 20), (10, 10, 10), 5)
    image = truth * 4.0 + 0.02 * np.random.default_rng(0).normal(size=truth.shape)
    one = object_distance(image, (10, 9, 11), six((3, 3, 3), (17, 17, 17)))
    maps = [threshold_distances([one], truth.shape, epsilon=e) == 1 for e in (0.0, 0.05, 0.2, 0.5, 0.9)]
    assert all((small <= large).all() for small, large in pairwise(maps))
    np.testing.assert_array_equal(maps[3], truth)


def test_two_objects_are_merged():
    shape = (1, 12)
    image = np.array([[9, 0, 0, 1, 1, 3, 3, 1, 1, 0, 0, 9]], dtype=float)
    first = ((0, 1), [[0, 0], [0, 6]])  # box 0..5
    second = ((0, 10), [[0, 4], [0, 11]])  # box 5..11
    a, b = (expand_seeds(image, [clicks], epsilon=0.3) for clicks in (first, second))
    both = expand_seeds(image, [first, second], epsilon=0.3)
    for index in np.ndindex(*shape):
        values = {a[index], b[index]}
        assert both[index] == (1 if 1 in values else 0 if values == {0} else UNLABELLED)
    assert {tuple(pair) for pair in zip(a.ravel(), b.ravel(), strict=True)} >= {(1, 0), (0, 1), (UNLABELLED, 0)}
    np.testing.assert_array_equal(both, expand_seeds(image, [second, first], epsilon=0.3))


def test_a_foreground_seed_wins_over_another_objects_background():
    image = np.zeros((1, 9))
    near, far = ((0, 2), [[0, 0], [0, 5]]), ((0, 7), [[0, 6], [0, 8]])
    both = expand_seeds(image, [near, far], epsilon=0.5)
    assert both[0, 2] == both[0, 7] == 1
    assert both[0, 5] == both[0, 6] == 0


def test_no_object_is_all_background():
    assert (expand_seeds(np.zeros((3, 3)), [], epsilon=0.2) == 0).all()


def test_foreground_click_outside_its_box():
    clicks = [((1, 3, 3), six((1, 1, 1), (5, 5, 5)))]
    with pytest.raises(ValueError, match=r"found voxel \[1, 3, 3\], expected one inside the box.*2 to 4"):
        expand_seeds(np.zeros((7, 7, 7)), clicks, epsilon=0.2)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
def test_epsilon_is_a_share(epsilon):
    with pytest.raises(ValueError, match="epsilon: found"):
        threshold_distances([], (3, 3), epsilon=epsilon)


def test_a_point_on_a_bound_belongs_to_one_voxel():
    points = [[-0.5, 0.5], [1.49, 5.5], [5.5 + 1e-6, 4.5]]
    assert nearest_voxels(points, (6, 6)).tolist() == [[0, 1], [1, 5], [5, 5]]
    for outside in ([[5.51, 0]], [[0, -0.51]]):
        with pytest.raises(ValueError, match="expected voxels in the image"):
            nearest_voxels(outside, (6, 6))
