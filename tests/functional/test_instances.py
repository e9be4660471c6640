# SPDX-License-Identifier: Apache-2.0
"""Overlap tables, centres and painting against double loops, scipy and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from monai_ext.functional.instances import (
    centroids,
    label_map_of_masks,
    overlaps_of_label_maps,
    overlaps_of_masks,
    values_of_instances,
)


def blocks(shape: tuple[int, ...], ids: list[int], *, seed: int) -> np.ndarray:
    """A label map of random boxes, later ones over earlier ones."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros(shape, dtype=np.int32)
    for i in ids:
        start = [int(rng.integers(0, n - 2)) for n in shape]
        label_map[tuple(slice(s, s + int(rng.integers(2, 7))) for s in start)] = i
    return label_map


def masks_of(label_map: np.ndarray) -> np.ndarray:
    ids = [i for i in np.unique(label_map) if i > 0]
    return np.stack([label_map == i for i in ids]) if ids else np.zeros((0, *label_map.shape), dtype=bool)


def reference_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Plain reference: double loop over boolean masks."""
    table = np.zeros((len(a), len(b)))
    for i, p in enumerate(a):
        for j, r in enumerate(b):
            table[i, j] = (p & r).sum() / max((p | r).sum(), 1)
    return table


@pytest.mark.parametrize("shape", [(24, 31), (9, 10, 11)])
def test_table_of_label_maps_equals_a_double_loop(shape):
    a, b = blocks(shape, [4, 2, 19, 7, 300, 70000], seed=1), blocks(shape, [1, 2, 3, 9, 8], seed=2)
    table = overlaps_of_label_maps(a, b)
    masks = masks_of(a), masks_of(b)
    assert np.array_equal(table.iou(), reference_iou(*masks))
    assert np.array_equal(
        table.intersections, (masks[0][:, None] & masks[1][None]).reshape(*table.iou().shape, -1).sum(-1)
    )
    assert table.intersections.dtype == np.int64
    assert table.prediction_areas.tolist() == [m.sum() for m in masks[0]]
    assert table.reference_areas.tolist() == [m.sum() for m in masks[1]]
    assert table.prediction_ids.tolist() == [i for i in np.unique(a) if i]
    assert table.reference_ids.tolist() == [i for i in np.unique(b) if i]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64, np.int64, np.float32, np.float64])
def test_types_of_label_maps(dtype):
    a, b = blocks((20, 20), [1, 5, 200], seed=3), blocks((20, 20), [2, 90], seed=4)
    table = overlaps_of_label_maps(a.astype(dtype), b.astype(dtype))
    assert np.array_equal(table.iou(), overlaps_of_label_maps(a, b).iou())
    assert table.prediction_ids.dtype == np.int64


def test_masks_may_overlap_and_be_empty():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 13, 9)) > 0.5, rng.random((7, 13, 9)) > 0.7
    a[2], b[4] = False, False
    table = overlaps_of_masks(a, b)
    assert np.array_equal(table.iou(), reference_iou(a, b))
    assert table.iou()[2, 4] == 0
    assert table.prediction_areas.tolist() == a.sum((1, 2)).tolist()
    assert table.reference_areas.tolist() == b.sum((1, 2)).tolist()
    assert table.prediction_ids.tolist() == [1, 2, 3, 4, 5]


def test_both_kinds_of_table_agree_and_pairs_are_their_nonzero_part():
    a, b = blocks((30, 30), [1, 2, 3, 4], seed=5), blocks((30, 30), [1, 2, 3], seed=6)
    table, other = overlaps_of_label_maps(a, b), overlaps_of_masks(masks_of(a), masks_of(b))
    assert all(np.array_equal(x, y) for x, y in zip(table[:3], other[:3], strict=True))
    pairs = table.pairs()
    assert len(pairs.iou) == np.count_nonzero(table.iou()) > 0
    assert np.array_equal(pairs.iou, table.iou()[pairs.prediction, pairs.reference])
    assert np.array_equal(pairs.intersection, table.intersections[pairs.prediction, pairs.reference])


def test_no_background_and_a_subset_of_predictions():
    a = np.array([[1, 1, 2], [3, 3, 3]])
    table = overlaps_of_label_maps(a, a)
    assert np.array_equal(table.iou(), np.eye(3))
    part = table.of_predictions(np.array([True, False, True]))
    assert part.prediction_ids.tolist() == [1, 3]
    assert part.intersections.tolist() == [[2, 0, 0], [0, 0, 3]]
    assert part.reference_areas.tolist() == [2, 1, 3]


def test_nothing_on_either_side():
    nothing, one = np.zeros((4, 5), dtype=int), np.ones((4, 5), dtype=int)
    for a, b, shape in [(nothing, nothing, (0, 0)), (one, nothing, (1, 0)), (nothing, one, (0, 1)), (one, one, (1, 1))]:
        for table in (overlaps_of_label_maps(a, b), overlaps_of_masks(masks_of(a), masks_of(b))):
            assert table.iou().shape == table.intersections.shape == shape
            assert len(table.pairs().iou) == shape[0] * shape[1]
    ids, centres = centroids(nothing, inside=True)
    assert (ids.shape, centres.shape) == ((0,), (0, 2))
    assert values_of_instances(nothing, nothing).shape == (0,)
    assert not label_map_of_masks(np.zeros((0, 3, 2), dtype=bool), []).any()


def test_three_thousand_cells():
    """A table of this size is made from pixels, not from masks: those would fill 900 MB a side."""
    cells = np.zeros((544, 544), dtype=np.uint16)
    numbers = np.arange(1, 55 * 55 + 1).reshape(55, 55)
    for i in range(5):
        for j in range(6):
            cells[i : 55 * 9 : 9, j : 55 * 9 : 9] = numbers
    table = overlaps_of_label_maps(cells, cells)
    assert np.array_equal(table.intersections, 30 * np.eye(55 * 55, dtype=np.int64))


@pytest.mark.parametrize("wrong", [[[0, -1]], [[0.0, 1.5]], [[0.0, np.nan]], [[np.inf, 1.0]]])
def test_what_is_no_label_map(wrong):
    with pytest.raises(ValueError, match="A label map holds"):
        overlaps_of_label_maps([[0, 1]], wrong)
    with pytest.raises(ValueError, match="A label map holds"):
        centroids(wrong)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        overlaps_of_label_maps(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 3, 2\)"):
        overlaps_of_masks(np.zeros((1, 2, 3)), np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        values_of_instances(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3, 3\) and \(3,\)"):
        label_map_of_masks(np.zeros((2, 3, 3)), [1, 2, 3])


@pytest.mark.parametrize("shape", [(24, 31), (9, 10, 11)])
def test_centroids_equal_scipy(shape):
    label_map = blocks(shape, [3, 9, 4, 12], seed=7)
    ids, centres = centroids(label_map)
    assert centres.dtype == np.float64
    np.testing.assert_allclose(centres, center_of_mass(label_map > 0, label_map, ids), rtol=1e-12)


def test_a_centre_outside_moves_to_the_nearest_pixel():
    """A ring, an L whose centre lies in another cell, and a block that keeps its centre between pixels."""
    label_map = np.zeros((12, 20), dtype=int)
    label_map[1:6, 1:6] = 5
    label_map[2:5, 2:5] = 0
    label_map[6:12, 8] = label_map[11, 8:14] = 2
    label_map[8:11, 9:12] = 1
    label_map[1:3, 15:17] = 8
    ids, plain = centroids(label_map)
    _, moved = centroids(label_map, inside=True)
    assert ids.tolist() == [1, 2, 5, 8]
    assert plain[2].tolist() == [3, 3]
    assert moved[2].tolist() == [1, 3]
    assert np.array_equal(moved[[0, 3]], plain[[0, 3]])
    assert moved[3].tolist() == [1.5, 15.5]
    pixels = np.argwhere(label_map == 2)
    assert moved[1].tolist() == pixels[np.square(pixels - plain[1]).sum(1).argmin()].tolist() != plain[1].tolist()
    assert [label_map[tuple(np.floor(c + 0.5).astype(int))] for c in moved] == ids.tolist()


def test_values_follow_the_ids():
    label_map = np.array([[0, 7, 7], [2, 2, 0], [0, 30, 0]])
    scores = np.array([[9, 0.7, 0.7], [0.2, 0.2, 9], [9, 0.3, 9]], dtype=np.float32)
    values = values_of_instances(label_map.astype(np.float32), scores)
    assert values.dtype == np.float32
    assert values.tolist() == np.array([0.2, 0.7, 0.3], dtype=np.float32).tolist()


def test_contested_pixels_go_to_the_higher_score_then_to_the_earlier_mask():
    rng = np.random.default_rng(8)
    masks, scores = rng.random((6, 7, 8)) > 0.6, np.array([0.2, 0.9, 0.5, 0.9, 0.1, 0.5])
    painted = label_map_of_masks(masks, scores)
    assert painted.dtype == np.int32
    for index in np.ndindex(7, 8):
        holders = [i for i in range(6) if masks[(i, *index)]]
        expected = max(holders, key=lambda i: (scores[i], -i)) + 1 if holders else 0
        assert painted[index] == expected


def test_painting_undoes_taking_apart():
    label_map = blocks((20, 20), [1, 2, 3], seed=9)
    assert np.array_equal(label_map_of_masks(masks_of(label_map), np.zeros(3)), label_map)
