# SPDX-License-Identifier: Apache-2.0
"""Instance Dice and the count error against plain loops and values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.functional.instances import overlaps_of_label_maps, overlaps_of_masks
from monai_ext.metrics.instance_dice import InstanceCountError, InstanceDice


def reference_half(images: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Plain reference: for each mask of the first stacks its partner in the second, weighted by area over all."""
    total = sum(mask.sum() for owners, _ in images for mask in owners)
    half = 0.0
    for owners, others in images:
        for mask in owners:
            best, dice = 0, 0.0
            for other in others:
                shared, value = (mask & other).sum(), 2 * (mask & other).sum() / (mask.sum() + other.sum())
                if shared > best or (shared == best and value > dice):
                    best, dice = shared, value
            half += mask.sum() / total * dice
    return half


def reference_dice(images: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return (reference_half(images) + reference_half([pair[::-1] for pair in images])) / 2


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    masks = np.zeros((count, 30, 30), dtype=bool)
    for mask in masks:
        x, y = rng.integers(0, 25, 2)
        mask[x : x + rng.integers(2, 9), y : y + rng.integers(2, 9)] = True
    return masks


def test_pooled_over_images_equals_the_loop():
    rng = np.random.default_rng(0)
    images = [(rectangles(rng, n), rectangles(rng, m)) for n, m in [(8, 5), (3, 20), (0, 4), (6, 0), (0, 0), (1, 1)]]
    metric = InstanceDice()
    for found, truth in images:
        metric.update(overlaps_of_masks(found, truth), np.ones(len(found)))
    assert metric.value() == pytest.approx(reference_dice(images), rel=1e-12)
    alone = [reference_dice([images[i]]) for i in (0, 1, 5)]
    assert metric.of_images()[[0, 1, 5]].tolist() == pytest.approx(alone, rel=1e-12)
    assert metric.of_images()[2:5].tolist() == [0, 0, 1]


def test_one_prediction_over_two_references_by_hand():
    """Both references have it as partner; it takes the one that shares more, not the one of higher Dice."""
    truth = np.array([[1, 1, 1, 2, 2]])
    found = np.array([[9, 9, 9, 9, 9]])
    metric = InstanceDice()
    metric.update(overlaps_of_label_maps(found, truth), [0.5])
    first, second = 2 * 3 / 8, 2 * 2 / 7
    assert metric.value() == pytest.approx((0.6 * first + 0.4 * second + first) / 2)


def test_the_partner_shares_most_and_the_smaller_of_equals():
    found = np.zeros((3, 1, 20), dtype=bool)
    truth = np.zeros((1, 1, 20), dtype=bool)
    truth[0, 0, :5] = True
    found[0, 0, 3:20] = found[1, 0, 3:6] = found[2, 0, :1] = True
    metric = InstanceDice()
    for order in ([0, 1, 2], [2, 1, 0]):
        metric.reset()
        metric.update(overlaps_of_masks(found[order], truth), np.ones(3))
        ours = 2 * 2 / (5 + 3)
        theirs = (17 * 2 * 2 / (5 + 17) + 3 * ours + 1 * 2 / (5 + 1)) / 21
        assert metric.value() == pytest.approx((ours + theirs) / 2)


def test_perfect_prediction_and_order_of_cells():
    rng = np.random.default_rng(1)
    found, truth = rectangles(rng, 12), rectangles(rng, 9)
    metric = InstanceDice()
    metric.update(overlaps_of_masks(truth, truth), np.ones(9))
    assert metric.value() == pytest.approx(1, rel=1e-12)
    metric.reset()
    metric.update(overlaps_of_masks(found, truth), np.ones(12))
    metric.update(overlaps_of_masks(found[rng.permutation(12)], truth[rng.permutation(9)]), np.ones(12))
    assert metric.of_images()[0] == pytest.approx(metric.of_images()[1], rel=1e-12)


def test_scores_below_the_floor_are_left_out():
    truth, found = np.array([[1, 1, 0, 0]]), np.array([[7, 7, 0, 9]])
    strict, lenient, count = InstanceDice(), InstanceDice(score_floor=0), InstanceCountError()
    for metric in (strict, lenient, count):
        metric.update(overlaps_of_label_maps(found, truth), np.array([0.5, 0.49], dtype=np.float32))
    assert strict.value() == 1
    assert lenient.value() == pytest.approx((1 + 2 / 3) / 2)
    assert count.value() == 0


def test_empty_maps_and_groups():
    nothing, one = np.zeros((3, 3), dtype=int), np.ones((3, 3), dtype=int)
    metric = InstanceDice()
    for found, truth, group, value in [(nothing, nothing, "a", 1), (one, nothing, "b", 0), (nothing, one, "c", 0)]:
        metric.update(overlaps_of_label_maps(found, truth), np.ones(found.max()), group)
        assert metric.value(group=group) == value
    assert metric.value() == 0
    metric.update(overlaps_of_label_maps(one, one), [1], "c")
    assert metric.value(group="c") == pytest.approx((1 / 2 + 1) / 2)
    metric.reset()
    with pytest.raises(ValueError, match="No image was measured"):
        metric.value()


def test_count_error():
    metric = InstanceCountError()
    for found, truth, group in [([[1, 2, 3]], [[1, 1, 1]], 1), ([[0, 0, 0]], [[1, 2, 4]], 1), ([[5]], [[9]], 2)]:
        metric.update(overlaps_of_label_maps(found, truth), np.ones(len(set(found[0]) - {0})), group)
    assert metric.of_images().tolist() == [2, 3, 0]
    assert metric.value() == pytest.approx(5 / 3)
    assert metric.value(group=1) == 2.5
