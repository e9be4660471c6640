# SPDX-License-Identifier: Apache-2.0
"""Which instances stay, what an annotation overrules, and where patches are cut."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from monai_ext.functional.pseudo_labels import kept_instances, overruled, spread_windows


def test_certain_and_large_instances_stay():
    """Of four, one is uncertain and one is small; a score that equals the floor is enough."""
    labels = np.array([[1, 1, 0, 2], [1, 0, 0, 2], [3, 3, 3, 0], [0, 0, 5, 0]])
    scores = np.choose(np.minimum(labels, 4), [0.0, 0.9, 0.4, 0.5, 0.99])
    kept, dropped = kept_instances(labels, scores, score_floor=0.5, smallest_px=2)
    assert dropped == 2
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0], [1, 0, 0, 0], [2, 2, 2, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(("floor", "expected"), [(0.0, (2, 0)), (1.1, (0, 2))])
def test_all_and_none_stay(floor, expected):
    labels = np.array([[4, 0], [0, 7]])
    kept, dropped = kept_instances(labels, labels / 7, score_floor=floor)
    assert (int(kept.max()), dropped) == expected


def test_without_instances():
    kept, dropped = kept_instances(np.zeros((2, 3), int), np.zeros((2, 3)))
    assert kept.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert dropped == 0


def test_the_annotation_stands_in_its_window():
    """A nucleus on the border goes on beyond it, one that is wrong within is cut, and background is annotated too."""
    labels = np.zeros((6, 8), int)
    labels[0, 1:5] = 1  # half of it is within, where an annotated one has all of that
    labels[2, 2:8] = 2  # nothing is annotated there: what is beyond stays
    labels[4, 3:5] = 3  # likewise, but one pixel is left, which is too small
    labels[5, 0] = 4  # wholly within: gone
    labels[5, 7] = 5  # wholly beyond: stays, small as it is
    annotation = np.zeros((6, 4), np.uint16)
    annotation[0, :4] = 9
    annotation[1, 0] = 3
    found = overruled(labels, annotation, row=0, column=0, smallest_px=2)
    expected = np.zeros((6, 8), int)
    expected[2, 4:8], expected[5, 7] = 1, 2
    expected[1, 0], expected[0, :5] = 3, 4
    np.testing.assert_array_equal(found, expected)


def test_a_neighbour_that_touches_is_not_joined():
    """Of its three pixels within, the annotated one has one."""
    labels = np.array([[1, 1, 1, 1, 1]])
    found = overruled(labels, np.array([[2, 0, 0]]), row=0, column=0)
    assert found.tolist() == [[2, 0, 0, 1, 1]]


def test_a_window_of_the_whole_map_is_the_annotation():
    rng = np.random.default_rng(0)
    labels, annotation = (rng.integers(0, 5, (7, 5)) for _ in range(2))
    found = overruled(labels, annotation, row=0, column=0)
    assert Counter(zip(found.flat, annotation.flat, strict=True)).keys() == {(n, n) for n in np.unique(annotation)}


def test_pixels_outside_of_a_window_in_empty_tissue_stay():
    labels = np.arange(1, 26).reshape(5, 5)
    found = overruled(labels, np.zeros((2, 3), int), row=1, column=2)
    outside = np.ones((5, 5), bool)
    outside[1:3, 2:5] = False
    np.testing.assert_array_equal(found > 0, outside)
    assert len(np.unique(found[outside])) == outside.sum()


@pytest.mark.parametrize("place", [(-1, 0), (0, 3)])
def test_a_window_beyond_the_map_is_refused(place):
    with pytest.raises(ValueError, match="annotation"):
        overruled(np.zeros((4, 4), int), np.zeros((2, 2), int), row=place[0], column=place[1])


def test_windows_are_spread_over_images():
    """7 of three images are 3, 2 and 2; they lie in them, and a seed repeats them."""
    shapes = [(20, 30), (8, 8), (5, 40)]
    windows = spread_windows(shapes, size=8, number=7, rng=np.random.default_rng(0))
    assert Counter(image for image, *_ in windows) == {0: 3, 1: 2, 2: 2}
    for image, row, column in windows:
        assert all(0 <= start <= max(side - 8, 0) for start, side in zip((row, column), shapes[image], strict=True))
    assert windows == spread_windows(shapes, size=8, number=7, rng=np.random.default_rng(0))
    assert windows != spread_windows(shapes, size=8, number=7, rng=np.random.default_rng(1))


def test_windows_reach_every_place():
    windows = spread_windows([(3, 4)], size=2, number=400, rng=np.random.default_rng(0))
    assert set(windows) == {(0, row, column) for row in range(2) for column in range(3)}
    assert spread_windows([], size=2, number=3, rng=np.random.default_rng(0)) == []
