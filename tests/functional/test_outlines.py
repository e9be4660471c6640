# SPDX-License-Identifier: Apache-2.0
"""Cutouts and outlines: drawn again they give the same pixels, and their rings are what geometry programs accept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from skimage.draw import polygon2mask

from monai_ext.functional.outlines import Cutout, cutouts_of_labels, cutouts_of_masks, polygons


def drawn(parts, shape):
    """How many outer rings less holes cover each pixel's centre."""
    count = np.zeros(shape, dtype=int)
    for rings in parts:
        for number, ring in enumerate(rings):
            inside = polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
            count += np.where(inside, 1 if number == 0 else -1, 0)
    return count


def twice_area(ring):
    (x, y), (a, b) = np.array(ring[:-1]).T, np.array(ring[1:]).T
    return (x * b - a * y).sum()


def outlined(mask):
    (cutout,) = cutouts_of_masks([mask])
    return polygons(cutout)


def random_masks():
    rng = np.random.default_rng(0)
    for _ in range(150):
        yield rng.random(rng.integers(1, 8, 2)) < rng.uniform(0.2, 0.95)
    for _ in range(20):
        yield gaussian_filter(rng.normal(size=(40, 30)), 1.2) > 0


def test_a_square_and_its_place():
    mask = np.zeros((5, 6))
    mask[1:3, 2:5] = 7
    (cutout,) = cutouts_of_masks([mask], scores=[0.5])
    assert (cutout.number, cutout.row, cutout.column, cutout.score) == (1, 1, 2, 0.5)
    assert polygons(cutout) == [[[[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]]]
    assert polygons(Cutout(1, np.ones((1, 1), bool), 0, 0)) == [[[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]]


def test_rings_drawn_again_are_the_mask_and_are_valid():
    for mask in random_masks():
        if not mask.any():
            continue
        parts = outlined(mask)
        np.testing.assert_array_equal(drawn(parts, mask.shape), mask)
        assert len(parts) == label(mask)[1]
        for rings in parts:
            for number, ring in enumerate(rings):
                assert ring[0] == ring[-1]
                assert len({tuple(vertex) for vertex in ring}) == len(ring) - 1  # no vertex twice
                steps = np.diff(np.array(ring), axis=0) != 0
                assert (steps.sum(axis=1) == 1).all()  # along the axes
                assert (steps[1:] != steps[:-1]).all()  # and only corners
                assert (twice_area(ring) > 0) == (number == 0)


@pytest.mark.parametrize(
    ("picture", "holes"),
    [
        ("10/01", [0, 0]),  # touch at a corner
        ("01/10", [0, 0]),
        ("111/101/111", [1]),
        ("111/101/110", [1]),  # the hole touches the outside
        ("1111/1011/1101/1111", [2]),  # two holes touch each other
        ("11111/10001/10101/10001/11111", [1, 0]),  # an island in a hole
        ("11100/10100/11111/00101/00111", [2]),
    ],
)
def test_corners_holes_and_islands(picture, holes):
    mask = np.array([[int(pixel) for pixel in row] for row in picture.split("/")])
    parts = outlined(mask)
    assert [len(rings) - 1 for rings in parts] == holes
    np.testing.assert_array_equal(drawn(parts, mask.shape), mask)


def test_labels_with_gaps_are_cut_out_by_rising_number():
    labels = np.zeros((6, 7), dtype=np.int64)
    labels[0, 0], labels[4:, 5:], labels[5, 6] = 9, 4_000_000_000, 2
    cutouts = cutouts_of_labels(labels, scores=[0.1, 0.2, 0.3])
    assert [cutout.number for cutout in cutouts] == [2, 9, 4_000_000_000]
    assert [cutout.score for cutout in cutouts] == [0.1, 0.2, 0.3]
    for cutout in cutouts:
        again = np.zeros(labels.shape, dtype=bool)
        height, width = cutout.mask.shape
        again[cutout.row : cutout.row + height, cutout.column : cutout.column + width] = cutout.mask
        np.testing.assert_array_equal(again, labels == cutout.number)
    assert cutouts_of_labels(np.zeros((3, 3), np.uint16)) == []


def test_an_empty_mask_is_left_out_and_the_others_keep_their_number():
    masks = [np.ones((2, 2)), np.zeros((2, 2)), np.eye(2)]
    found = list(cutouts_of_masks(masks, scores=[1, 2, 3]))
    assert [(cutout.number, cutout.score) for cutout in found] == [(1, 1), (3, 3)]
