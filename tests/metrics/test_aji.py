# SPDX-License-Identifier: Apache-2.0
"""AJI against plain loops over dense masks, squares by hand, and the released code's order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_ext.functional.instances import overlaps_of_label_maps, overlaps_of_masks
from monai_ext.metrics.aji import AggregatedJaccard, aggregated_jaccard


def sums_to_aji(matches: list[tuple[int, int]], found: np.ndarray, truth: np.ndarray) -> float:
    """Plain reference of the fraction: matched unions, then whatever is in no pair (prediction, reference)."""
    shared = sum((found[p] & truth[r]).sum() for p, r in matches)
    total = sum((found[p] | truth[r]).sum() for p, r in matches)
    total += sum(mask.sum() for p, mask in enumerate(found) if p not in [match[0] for match in matches])
    total += sum(mask.sum() for r, mask in enumerate(truth) if r not in [match[1] for match in matches])
    return shared / total


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


def by_falling_iou(found: np.ndarray, truth: np.ndarray, gate: float) -> list[tuple[int, int]]:
    """Plain reference: looks at all free pairs again and again for the best."""
    matches: list[tuple[int, int]] = []
    while True:
        best, key = None, (0.0, 0)
        for r in range(len(truth)):
            for p in range(len(found)):
                free = p not in [match[0] for match in matches] and r not in [match[1] for match in matches]
                value = iou(found[p], truth[r])
                if free and value >= gate and (value, (found[p] & truth[r]).sum()) > key:
                    best, key = (p, r), (value, (found[p] & truth[r]).sum())
        if best is None:
            return matches
        matches.append(best)


def by_reference(found: np.ndarray, truth: np.ndarray, gate: float) -> list[tuple[int, int]]:
    """Plain reference of the released order: each reference in turn takes its best unused prediction."""
    matches: list[tuple[int, int]] = []
    for r, mask in enumerate(truth):
        free = [p for p in range(len(found)) if p not in [match[0] for match in matches]]
        best = max(free, key=lambda p: iou(found[p], mask), default=None)
        if best is not None and iou(found[best], mask) >= gate:
            matches.append((best, r))
    return matches


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 40, 40) masks that may overlap."""
    masks = np.zeros((count, 40, 40), dtype=bool)
    for mask in masks:
        x, y = rng.integers(0, 30, 2)
        mask[x : x + rng.integers(3, 12), y : y + rng.integers(3, 12)] = True
    return masks


def moved(rng: np.random.Generator, masks: np.ndarray, step: int) -> np.ndarray:
    return np.array([np.roll(m, tuple(rng.integers(-step, step + 1, 2)), (0, 1)) for m in masks]).reshape(-1, 40, 40)


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Masks (N, 20, 20) of rows a to b and columns c to d."""
    masks = np.zeros((len(corners), 20, 20), dtype=bool)
    for mask, (a, b, c, d) in zip(masks, corners, strict=True):
        mask[a:b, c:d] = True
    return masks


@pytest.mark.parametrize("gate", [0.0, 0.3, 0.5, 0.8])
def test_equals_a_double_loop(gate):
    rng = np.random.default_rng(0)
    values = []
    for references, extra in [(12, 4), (20, 8), (1, 0), (0, 3), (5, 0), (9, 9)]:
        truth = rectangles(rng, references)
        found = np.concatenate([moved(rng, truth[: references * 4 // 5], 1), rectangles(rng, extra)])
        expected = sums_to_aji(by_falling_iou(found, truth, gate), found, truth)
        values.append(aggregated_jaccard(overlaps_of_masks(found, truth), iou_gate=gate))
        assert values[-1] == pytest.approx(expected, rel=1e-12)
    assert 0 < max(values) < 1


def test_overlapping_squares_by_hand():
    """Two references of 16 pixels that share 4; one prediction is a column off, the other far off."""
    truth = boxes((0, 4, 0, 4), (2, 6, 2, 6))
    found = boxes((0, 4, 1, 5), (12, 14, 12, 14))
    first, second = 12 / 20, 6 / 26
    assert overlaps_of_masks(found, truth).iou()[0].tolist() == [first, second]
    for gate in (0.0, 0.5, 0.6):
        assert aggregated_jaccard(overlaps_of_masks(found, truth), iou_gate=gate) == 12 / (20 + 16 + 4)
    assert aggregated_jaccard(overlaps_of_masks(found, truth), iou_gate=0.61) == 0


def test_without_a_gate_a_poor_pair_counts():
    truth, found = boxes((0, 4, 0, 4)), boxes((2, 6, 2, 6))
    table = overlaps_of_masks(found, truth)
    assert aggregated_jaccard(table, iou_gate=0.0) == 4 / 28
    assert aggregated_jaccard(table) == 0
    apart = overlaps_of_masks(boxes((8, 9, 8, 9)), truth)
    assert aggregated_jaccard(apart, iou_gate=0.0) == 0


def test_a_merged_prediction_is_used_once():
    """4x10 over two 4x4: one is matched (16 of 40), the other adds its 16."""
    table = overlaps_of_masks(boxes((0, 4, 0, 10)), boxes((0, 4, 0, 4), (0, 4, 6, 10)))
    assert aggregated_jaccard(table, iou_gate=0.0) == 16 / (40 + 16)


def test_the_higher_iou_has_the_prediction_and_the_other_its_next():
    """Both references like prediction 0 best; in the order of the file the first would take it from the second."""
    truth = boxes((0, 4, 0, 10), (0, 4, 2, 10))
    found = boxes((0, 4, 2, 10), (0, 4, 0, 6))
    assert overlaps_of_masks(found, truth).iou().tolist() == [[0.8, 1.0], [0.6, 16 / 40]]
    for order in ([0, 1], [1, 0]):
        table = overlaps_of_masks(found, truth[order])
        assert aggregated_jaccard(table) == (32 + 24) / (32 + 40)
    assert sums_to_aji(by_reference(found, truth, 0.5), found, truth) == 32 / (40 + 32 + 24)


def test_of_equal_iou_the_larger_goes_first():
    """IoU 1/2 with both; without the prediction the other reference has one half as large left."""
    truth = boxes((0, 4, 0, 4), (0, 4, 0, 16))
    found = boxes((0, 4, 0, 8))
    assert overlaps_of_masks(found, truth).iou().tolist() == [[0.5, 0.5]]
    for order in ([0, 1], [1, 0]):
        assert aggregated_jaccard(overlaps_of_masks(found, truth[order])) == 32 / (64 + 16)


def test_the_released_order_gives_the_same_where_references_do_not_overlap():
    rng = np.random.default_rng(1)
    matched = 0
    for _ in range(5):
        grid = boxes(*[(a, a + rng.integers(3, 5), c, c + rng.integers(3, 5)) for a in (0, 5, 10) for c in (0, 5, 10)])
        truth = np.pad(grid, ((0, 0), (0, 20), (0, 20)))
        found = np.concatenate([moved(rng, truth, 1), moved(rng, truth, 1), rectangles(rng, 4)])
        matches = by_reference(found, truth, 0.51)
        matched += len(matches)
        value = aggregated_jaccard(overlaps_of_masks(found, truth), iou_gate=0.51)
        assert value == pytest.approx(sums_to_aji(matches, found, truth), rel=1e-12)
    assert matched > 15


def test_perfect_prediction_order_of_cells_and_flip():
    rng = np.random.default_rng(2)
    truth = rectangles(rng, 15)
    assert aggregated_jaccard(overlaps_of_masks(truth, truth)) == 1
    found = np.concatenate([moved(rng, truth, 2), rectangles(rng, 5)])
    p, r = rng.permutation(20), rng.permutation(15)
    for gate in (0.0, 0.5):
        value = aggregated_jaccard(overlaps_of_masks(found, truth), iou_gate=gate)
        assert 0 < value < 1
        assert aggregated_jaccard(overlaps_of_masks(found[p], truth[r]), iou_gate=gate) == value
        assert aggregated_jaccard(overlaps_of_masks(found[:, ::-1], truth[:, ::-1]), iou_gate=gate) == value
        assert aggregated_jaccard(overlaps_of_masks(truth, found), iou_gate=gate) == value


def test_mean_over_images_then_over_classes():
    """Class 1: 1/2 and 0; class 2: 1. Neither image pools its pixels with the other."""
    one, half, nothing = (
        np.ones((1, 1, 8), dtype=bool),
        np.zeros((1, 1, 8), dtype=bool),
        np.zeros((0, 1, 8), dtype=bool),
    )
    half[..., :4] = True
    metric = AggregatedJaccard()
    for found, truth, group in [(half, one, 1), (one, one, 2), (nothing, half, 1), (nothing, nothing, 2)]:
        metric.update(overlaps_of_masks(found, truth), np.ones(len(found)), group)
    assert metric.of_images().tolist() == pytest.approx([0.5, 1, 0, math.nan], nan_ok=True)
    assert [metric.value(group=group) for group in (1, 2)] == [0.25, 1]
    assert metric.value() == 0.625
    with pytest.raises(ValueError, match="No image of group 3"):
        metric.value(group=3)
    metric.reset()
    with pytest.raises(ValueError, match="No image was measured"):
        metric.value()


def test_the_gate_of_the_metric():
    table = overlaps_of_masks(boxes((2, 6, 2, 6)), boxes((0, 4, 0, 4)))
    for metric, expected in [(AggregatedJaccard(), 0), (AggregatedJaccard(iou_gate=0.0), 4 / 28)]:
        metric.update(table, [0.9])
        assert metric.value() == expected


def test_empty_images_and_empty_masks():
    nothing, one = np.zeros((3, 3), dtype=int), np.ones((3, 3), dtype=int)
    metric = AggregatedJaccard()
    metric.update(overlaps_of_label_maps(nothing, nothing), [], 1)
    assert math.isnan(metric.value())
    metric.update(overlaps_of_label_maps(one, one), [0.9], 2)
    assert metric.value() == 1  # the class without instances is left out
    metric.update(overlaps_of_label_maps(one, nothing), [0.9], 2)
    metric.update(overlaps_of_label_maps(nothing, one), [], 2)
    assert metric.value(group=2) == pytest.approx(1 / 3)
    blank = np.zeros((1, 3, 3), dtype=bool)
    assert math.isnan(aggregated_jaccard(overlaps_of_masks(blank, blank), iou_gate=0.0))


def test_scores_below_the_floor_are_left_out():
    truth, found = np.array([[1, 1, 0, 0]]), np.array([[7, 7, 0, 9]])
    strict, lenient = AggregatedJaccard(), AggregatedJaccard(score_floor=0.0)
    for metric in (strict, lenient):
        metric.update(overlaps_of_label_maps(found, truth), [0.1, 0.09])
        metric.update(overlaps_of_label_maps(found, np.zeros_like(truth)), [0.09, 0.09])
    assert strict.of_images().tolist() == pytest.approx([1, math.nan], nan_ok=True)
    assert strict.value() == 1
    assert lenient.of_images().tolist() == [2 / 3, 0]
