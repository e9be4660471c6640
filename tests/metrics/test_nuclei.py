# SPDX-License-Identifier: Apache-2.0
"""Metrics of nuclei against plain loops over sets of pixels, values by hand, and MONAI's panoptic quality."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from monai.metrics.panoptic_quality import compute_panoptic_quality

from monai_ext.functional.instances import Overlaps, overlaps_of_label_maps
from monai_ext.metrics.aji import aggregated_jaccard
from monai_ext.metrics.nuclei import (
    NucleiMetric,
    foreground_dice,
    matched_jaccard,
    panoptic_quality,
    shared_jaccard,
)

NAMES = ("aji", "aji_plus", "pq", "foreground_dice")
NOTHING, ONE = np.zeros((4, 4), dtype=int), np.ones((4, 4), dtype=int)
MERGED = (
    np.ones((4, 10), dtype=int),
    np.repeat([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2]], 4, axis=0),
)
"""One 4x10 prediction over two 4x4 nuclei."""


def nuclei(label_map: np.ndarray) -> list[set[int]]:
    """The pixels of each instance."""
    return [set(np.flatnonzero(label_map == i).tolist()) for i in np.unique(label_map) if i]


def iou(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)


def loop_jaccard(found: list[set[int]], truth: list[set[int]], taken: dict[int, int]) -> float:
    """Plain reference of the ratio; ``taken`` is reference to prediction."""
    shared = sum(len(truth[r] & found[p]) for r, p in taken.items())
    total = sum(len(truth[r] | found[p]) for r, p in taken.items())
    total += sum(len(pixels) for r, pixels in enumerate(truth) if r not in taken)
    total += sum(len(pixels) for p, pixels in enumerate(found) if p not in taken.values())
    return shared / total


def loop_shared(found: list[set[int]], truth: list[set[int]]) -> float:
    taken = {}
    for r, pixels in enumerate(truth):
        best = max(range(len(found)), key=lambda p: (iou(found[p], pixels), len(found[p])), default=None)
        if best is not None and found[best] & pixels:
            taken[r] = best
    return loop_jaccard(found, truth, taken)


def loop_matched(found: list[set[int]], truth: list[set[int]]) -> set[float]:
    """Tries all matchings; the ratios of those with the greatest sum of IoU."""
    best, ratios = 0.0, set()
    places = [*range(len(found)), *[-1] * len(truth)]
    for chosen in set(itertools.permutations(places, len(truth))):
        taken = {r: p for r, p in enumerate(chosen) if p >= 0 and found[p] & truth[r]}
        total = sum(iou(found[p], truth[r]) for r, p in taken.items())
        if total > best + 1e-9:
            best, ratios = total, set()
        if total > best - 1e-9:
            ratios.add(loop_jaccard(found, truth, taken))
    return ratios


def loop_panoptic(found: list[set[int]], truth: list[set[int]]) -> tuple[float, float, float]:
    pairs = [iou(p, t) for p in found for t in truth if iou(p, t) > 0.5]
    wrong, missed = len(found) - len(pairs), len(truth) - len(pairs)
    detection = len(pairs) / (len(pairs) + wrong / 2 + missed / 2)
    segmentation = sum(pairs) / max(len(pairs), 1)
    return detection * segmentation, detection, segmentation


def random_map(rng: np.random.Generator, count: int, size: int = 24, width: int = 9) -> np.ndarray:
    """(size, size) rectangles, later ones over earlier ones, with gaps between the ids."""
    drawn = np.zeros((size, size), dtype=np.int32)
    for number in rng.choice(np.arange(1, 99), count, replace=False):
        x, y = rng.integers(0, size - 3, 2)
        drawn[x : x + rng.integers(3, width), y : y + rng.integers(3, width)] = number
    return drawn


def moved(rng: np.random.Generator, label_map: np.ndarray, count: int) -> np.ndarray:
    """The map one pixel off, with ``count`` more rectangles over it."""
    extra = random_map(rng, count, len(label_map))
    return np.where(extra > 0, extra + 100, np.roll(label_map, tuple(rng.integers(-1, 2, 2)), (0, 1)))


def random_pairs(seed: int, counts: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths = [(random_map(rng, references), extra) for references, extra in counts]
    return [(moved(rng, truth, extra), truth) for truth, extra in truths]


def all_metrics(overlaps: Overlaps) -> list[float]:
    return [
        shared_jaccard(overlaps),
        matched_jaccard(overlaps),
        *panoptic_quality(overlaps),
        foreground_dice(overlaps),
    ]


def test_shared_jaccard_panoptic_quality_and_dice_equal_plain_loops():
    pairs = random_pairs(0, [(9, 4), (14, 8), (1, 0), (0, 3), (6, 0), (9, 12)])
    pairs.append((NOTHING, ONE))
    reused = 0
    for found, truth in pairs:
        table = overlaps_of_label_maps(found, truth)
        expected = loop_shared(nuclei(found), nuclei(truth))
        assert shared_jaccard(table) == pytest.approx(expected, rel=1e-12)
        assert panoptic_quality(table) == pytest.approx(loop_panoptic(nuclei(found), nuclei(truth)), rel=1e-12)
        both = ((found > 0) & (truth > 0)).sum()
        assert foreground_dice(table) == pytest.approx(2 * both / ((found > 0).sum() + (truth > 0).sum()), rel=1e-12)
        reused += abs(expected - matched_jaccard(table)) > 1e-3
    assert reused >= 2  # else the loop could not tell a shared from a matched prediction


def test_matched_jaccard_equals_the_best_of_all_matchings():
    rng = np.random.default_rng(0)
    pairs = [(random_map(rng, 5, width=24), random_map(rng, 5, width=24)) for _ in range(12)]
    greedy = 0
    for found, truth in [*pairs, *random_pairs(3, [(4, 2), (1, 0), (0, 2), (4, 0)]), (NOTHING, ONE)]:
        table = overlaps_of_label_maps(found, truth)
        (expected,) = loop_matched(nuclei(found), nuclei(truth))
        assert matched_jaccard(table) == pytest.approx(expected, rel=1e-12)
        greedy += abs(aggregated_jaccard(table, iou_gate=0.0) - expected) > 1e-3
    assert greedy >= 3  # else the loop could not tell this matching from one by falling IoU


def test_the_matching_maximises_the_sum_of_iou():
    """By falling IoU reference 1 would take prediction 1 and leave nothing for reference 2."""
    truth = np.repeat([2, 1], [4, 9])[None]
    found = np.repeat([0, 1, 2], [2, 7, 4])[None]
    table = overlaps_of_label_maps(found, truth)
    assert table.iou().tolist() == [[5 / 11, 2 / 9], [4 / 9, 0]]
    assert matched_jaccard(table) == (2 + 4) / (7 + 4 + 9 + 4 - 6)
    assert aggregated_jaccard(table, iou_gate=0.0) == 5 / (7 + 4 + 9 + 4 - 5)
    assert shared_jaccard(table) == (5 + 2) / (11 + 9 + 4)


def test_one_prediction_over_two_nuclei():
    """Each nucleus takes it for AJI, with a union of 40 pixels each; one has it for AJI+, and the other adds its 16."""
    table = overlaps_of_label_maps(*MERGED)
    assert shared_jaccard(table) == (16 + 16) / (40 + 40) == 0.4
    assert matched_jaccard(table) == aggregated_jaccard(table, iou_gate=0.0) == 16 / (40 + 16)
    assert panoptic_quality(table) == (0, 0, 0)
    assert foreground_dice(table) == 2 * 32 / (40 + 32)


def test_a_neighbour_that_touches_the_nucleus_counts():
    """The paper's text would leave it out, as it touches a nucleus: 15 / 16."""
    truth = np.repeat([1, 0], [16, 4])[None]
    found = np.repeat([1, 2], [15, 5])[None]
    table = overlaps_of_label_maps(found, truth)
    assert shared_jaccard(table) == matched_jaccard(table) == 15 / (16 + 5)
    assert panoptic_quality(table) == (2 / 3 * 15 / 16, 2 / 3, 15 / 16)
    assert foreground_dice(table) == 2 * 16 / (20 + 16)


def test_the_highest_iou_counts_and_not_the_greatest_intersection():
    truth = np.repeat([1, 0], [10, 24])[None]
    found = np.repeat([2, 1], [4, 30])[None]
    table = overlaps_of_label_maps(found, truth)
    assert table.iou()[:, 0].tolist() == [6 / 34, 4 / 10]
    assert shared_jaccard(table) == 4 / (10 + 30)


def test_of_equal_iou_the_largest_prediction_is_taken():
    truth = np.repeat([0, 1, 0], [4, 8, 4])[None]
    for small, large in [(1, 2), (2, 1)]:
        found = np.repeat([0, small, 0, large], [3, 4, 1, 8])[None]
        table = overlaps_of_label_maps(found, truth)
        assert table.iou()[:, 0].tolist() == [1 / 3, 1 / 3]
        assert shared_jaccard(table) == 4 / (12 + 4)


def test_an_iou_of_one_half_is_no_pair():
    truth = np.repeat([1, 0], [8, 8])[None]
    for covered, expected in [(8, (0, 0, 0)), (9, (9 / 16, 1, 9 / 16))]:
        found = np.repeat([1, 0], [covered, 16 - covered])[None]
        assert panoptic_quality(overlaps_of_label_maps(np.ones_like(truth), found)) == expected
    assert panoptic_quality(overlaps_of_label_maps(np.ones_like(truth), truth)) == (0, 0, 0)


def test_panoptic_quality_equals_monai():
    qualities = []
    for found, truth in [*random_pairs(4, [(9, 4), (14, 8), (1, 0), (0, 3), (6, 0)]), MERGED, (NOTHING, ONE)]:
        ours = panoptic_quality(overlaps_of_label_maps(found, truth))
        maps = torch.from_numpy(found.astype(np.int32)), torch.from_numpy(truth.astype(np.int32))
        theirs = [float(compute_panoptic_quality(*maps, metric_name=name)) for name in ("pq", "rq", "sq")]
        assert ours == pytest.approx(theirs, abs=2e-6)
        qualities.append(ours.quality)
    assert sum(0.1 < quality < 1 for quality in qualities) >= 3


def test_a_perfect_prediction():
    truth = random_map(np.random.default_rng(5), 12)
    assert all_metrics(overlaps_of_label_maps(truth, truth)) == [1] * 6


def test_numbers_order_and_flips_do_not_matter():
    rng = np.random.default_rng(6)
    for found, truth in random_pairs(11, [(12, 5), (8, 8), (5, 0)]):
        values = all_metrics(overlaps_of_label_maps(found, truth))
        assert 0 < min(values) <= max(values) < 1
        numbers = np.append(0, rng.permutation(np.arange(1, 400)))
        for changed in [(numbers[found], numbers[truth]), (found[::-1], truth[::-1]), (found.T, truth.T)]:
            assert all_metrics(overlaps_of_label_maps(*changed)) == pytest.approx(values, rel=1e-12)
        swapped = all_metrics(overlaps_of_label_maps(truth, found))
        assert swapped[1:] == pytest.approx(values[1:], rel=1e-12)  # AJI itself asks the references only


def test_volumes():
    found, truth = random_pairs(7, [(9, 4)])[0]
    flat, deep = (overlaps_of_label_maps(*maps) for maps in [(found, truth), (np.stack([found] * 2), [truth] * 2)])
    assert all_metrics(deep) == pytest.approx(all_metrics(flat), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_empty_maps(name):
    metric = NucleiMetric(name)
    metric.update(overlaps_of_label_maps(NOTHING, NOTHING), [], "liver")
    assert math.isnan(metric.value())
    assert math.isnan(metric.value(group="liver"))
    metric.update(overlaps_of_label_maps(ONE, ONE), [1], "kidney")
    assert metric.value() == 1  # the image without nuclei is left out
    metric.update(overlaps_of_label_maps(NOTHING, ONE), [], "liver")
    metric.update(overlaps_of_label_maps(ONE, NOTHING), [1], "liver")
    assert metric.of_images().tolist() == pytest.approx([math.nan, 1, 0, 0], nan_ok=True)
    assert metric.value() == pytest.approx(1 / 3)
    assert metric.value(group="liver") == 0


def test_no_instance_gives_no_value():
    assert all(map(math.isnan, all_metrics(overlaps_of_label_maps(NOTHING, NOTHING))))


def test_mean_over_images_and_not_over_organs_or_pixels():
    """Two images of one organ (0.4 and 1) and one of another (0)."""
    metric = NucleiMetric("aji")
    for (found, truth), organ in [(MERGED, "liver"), ((ONE, ONE), "liver"), ((NOTHING, ONE), "colon")]:
        metric.update(overlaps_of_label_maps(found, truth), np.ones(found.max()), organ)
    assert metric.of_images().tolist() == [0.4, 1, 0]
    assert [metric.value(group=organ) for organ in ("liver", "colon")] == pytest.approx([0.7, 0])
    assert metric.value() == pytest.approx(1.4 / 3)
    with pytest.raises(ValueError, match="No image of group 'breast'"):
        metric.value(group="breast")
    metric.reset()
    assert metric.of_images().shape == (0,)
    with pytest.raises(ValueError, match="No image was measured"):
        metric.value()


@pytest.mark.parametrize(("name", "expected"), zip(NAMES, [0.4, 16 / 56, 0, 64 / 72], strict=True))
def test_the_name_chooses_the_metric(name, expected):
    metric = NucleiMetric(name)
    metric.update(overlaps_of_label_maps(*MERGED), [1])
    assert metric.value() == pytest.approx(expected, rel=1e-12)


def test_unknown_name():
    with pytest.raises(ValueError, match="'iou', expected one of 'aji', 'aji_plus', 'pq', 'foreground_dice'"):
        NucleiMetric("iou")


def test_scores_below_the_floor_are_left_out():
    truth, found = np.array([[1, 1, 0, 0]]), np.array([[7, 7, 0, 9]])
    for name, lenient in zip(NAMES, [2 / 3, 2 / 3, 2 / 3, 4 / 5], strict=True):
        for metric, expected in [(NucleiMetric(name), 1), (NucleiMetric(name, score_floor=0.0), lenient)]:
            metric.update(overlaps_of_label_maps(found, truth), [0.5, 0.49])
            assert metric.value() == pytest.approx(expected, rel=1e-12)


def test_images_of_several_processes_join_as_in_one():
    pairs = random_pairs(8, [(9, 4), (5, 2), (7, 7)])
    whole, ranks = NucleiMetric("pq"), [NucleiMetric("pq"), NucleiMetric("pq")]
    for i, (found, truth) in enumerate(pairs):
        for metric in (whole, ranks[i // 2]):
            metric.update(overlaps_of_label_maps(found, truth), np.ones(len(np.unique(found)) - 1), i % 2)
    joined = NucleiMetric("pq")
    joined.images = [image for rank in ranks for image in pickle.loads(pickle.dumps(rank.images))]
    assert 0 < whole.value() < 1
    assert [joined.value(group=group) for group in (None, 0, 1)] == [whole.value(group=g) for g in (None, 0, 1)]
    assert joined.of_images().tolist() == whole.of_images().tolist()
