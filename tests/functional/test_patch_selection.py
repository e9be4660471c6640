# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 against loops over windows, clusters and pairs; random choices by what they may and may not do."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression

from monai_ext.functional import patch_selection
from monai_ext.functional.patch_selection import (
    Windows,
    consistency_terms,
    random_centres,
    random_windows,
    window_corners,
)
from monai_ext.functional.stain_texture import standardize


def draw(windows=60, features=5, *, seed=0):
    """Windows around four places, and quarters about each window."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(4, features)) * 4
    found = middle[rng.integers(4, size=windows)] + rng.normal(size=(windows, features))
    return found, found[:, None] + rng.normal(size=(windows, 4, features)) * rng.uniform(0.2, 2, (windows, 1, 1))


def select_patches(features, regions, **options):
    """Of windows that lie anywhere."""
    nowhere = np.zeros(len(features), np.int64)
    return patch_selection.select_patches(Windows(features, regions, nowhere, nowhere), **options)


def algorithm_1(features, regions, k1, k2, weights, candidates):
    """As it is printed, one window after another."""
    coarse = KMeans(k1, init="random", n_init=10, max_iter=10_000, random_state=42).fit(features)
    picks = []
    for k in range(k1):
        members = [n for n in range(len(features)) if coarse.labels_[n] == k]
        centre = np.mean([features[n] for n in members], axis=0)
        parts = [regions[n][p] for n in members for p in range(4)]
        fine = KMeans(k2, init="random", n_init=10, max_iter=50_000, random_state=500).fit(parts)
        sizes = [list(fine.labels_).count(c) for c in range(k2)]
        largest = sizes.index(max(sizes))
        fine_centre = np.mean([parts[n] for n in range(len(parts)) if fine.labels_[n] == largest], axis=0)
        best, pick = np.inf, None
        for place, n in enumerate(members):
            if candidates == "touching" and largest not in fine.labels_[4 * place : 4 * place + 4]:
                continue
            first = np.sqrt(sum((features[n] - centre) ** 2))
            second = sum(np.sqrt(sum((regions[n][p] - fine_centre) ** 2)) for p in range(4)) / 4
            third = max(np.sqrt(sum((regions[n][i] - regions[n][j]) ** 2)) for j in range(4) for i in range(j))
            cost = weights[0] * first + weights[1] * second + weights[2] * third
            if cost < best:
                best, pick = cost, n
        picks.append((pick, best))
    return picks


@pytest.mark.parametrize("candidates", ["all", "touching"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_printed_algorithm(candidates, weights, seed):
    features, regions = draw(seed=seed)
    found = select_patches(features, regions, clusters=4, fine_clusters=3, weights=weights, candidates=candidates)
    expected = algorithm_1(features, regions, 4, 3, weights, candidates)
    assert found.picks.tolist() == [pick for pick, _ in expected]
    np.testing.assert_allclose(found.costs[found.picks], [cost for _, cost in expected])
    assert found.clusters[found.picks].tolist() == [0, 1, 2, 3]


def test_who_is_a_candidate_matters_and_the_others_cost_infinity():
    picks = set()
    for seed in range(20):
        features, regions = draw(seed=seed)
        every, few = (
            select_patches(features, regions, clusters=3, fine_clusters=6, candidates=c) for c in ("all", "touching")
        )
        assert np.isfinite(every.costs).all()
        assert not np.isfinite(few.costs).all()
        picks.add(every.picks.tolist() == few.picks.tolist())
    assert picks == {True, False}


def approximate(features, regions, *, noise=1.0, **options):
    """The choice among windows whose features are known roughly, and of which windows the exact ones were asked."""
    rng = np.random.default_rng(9)
    rough = [some + noise * rng.normal(size=some.shape) for some in (features, regions)]
    asked = []

    def exact(windows):
        asked.extend(windows.tolist())
        return features[windows], regions[windows]

    nowhere = np.zeros(len(features), np.int64)
    return patch_selection.select_patches(Windows(*rough, nowhere, nowhere, exact), **options), asked, rough


def short_list(features, regions, rough, members, *, cheapest, spread, k2, weights, candidates):
    """Of one cluster, as the docstring has it: the windows asked about, the pick, its cost."""
    fine = KMeans(k2, init="random", n_init=10, max_iter=50_000, random_state=500)
    parts = fine.fit_predict([rough[1][n][p] for n in members for p in range(4)]).reshape(-1, 4)
    largest = np.bincount(parts.ravel()).argmax()
    centre = np.mean([rough[0][n] for n in members], axis=0)
    terms = consistency_terms(rough[0][members], rough[1][members], centre, fine.cluster_centers_[largest])
    cost = {n: sum(w * t for w, t in zip(weights, row, strict=True)) for n, row in zip(members, terms, strict=True)}
    order = sorted(members, key=cost.get)
    step = (len(order) - 1) / max(min(spread, len(order)) - 1, 1)
    across = {order[round(i * step)] for i in range(min(spread, len(order)))}
    across = sorted(across)
    fine.fit([regions[n][p] for n in across for p in range(4)])
    fine_centre = fine.cluster_centers_[np.bincount(fine.labels_).argmax()]
    centre = np.mean(features[across], axis=0)
    y = [float(consistency_terms(features[[n]], regions[[n]], centre, fine_centre)[0] @ weights) for n in across]
    expect = LinearRegression().fit([terms[members.tolist().index(n)] for n in across], y).predict(terms)
    expected = dict(zip(members, expect, strict=True))
    allowed = [n for n, row in zip(members, parts, strict=True) if candidates == "all" or largest in row]
    asked = sorted(set(across) | set(sorted(allowed, key=expected.get)[:cheapest]))
    own = consistency_terms(features[asked], regions[asked], centre, fine_centre)
    costs = [(float(row @ weights), n) for n, row in zip(asked, own, strict=True) if n in allowed]
    return asked, *min(costs)


@pytest.mark.parametrize("candidates", ["all", "touching"])
@pytest.mark.parametrize(("cheapest", "spread"), [(3, 7), (1, 5), (8, 16), (100, 100)])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 1)])
def test_the_exact_features_of_a_short_list_decide_among_approximate_ones(candidates, cheapest, spread, weights):
    features, regions = draw(120, seed=5)
    options = {"cheapest": cheapest, "spread": spread, "weights": weights, "candidates": candidates}
    found, asked, rough = approximate(features, regions, clusters=3, fine_clusters=2, **options)
    for number, pick in enumerate(found.picks):
        members = np.flatnonzero(found.clusters == number)
        expected = short_list(features, regions, rough, members, k2=2, **options)
        assert sorted(n for n in asked if found.clusters[n] == number) == expected[0]
        assert pick == expected[2]
        assert found.costs[pick] == pytest.approx(expected[1])
        finite = np.flatnonzero(np.isfinite(found.costs) & (found.clusters == number))
        assert set(finite) <= set(expected[0])


@pytest.mark.parametrize("scale", [False, True])
def test_a_short_list_of_all_windows_with_exact_features_is_the_algorithm(scale):
    features, regions = draw(seed=4)
    features, regions = features * [1, 50, 1, 1, 1], regions * [1, 50, 1, 1, 1]
    options = {"clusters": 4, "cheapest": 60, "spread": 60, "scale": scale}
    found, asked, _ = approximate(features, regions, noise=0.0, **options)
    expected = select_patches(features, regions, **options)
    assert found.picks.tolist() == expected.picks.tolist()
    np.testing.assert_allclose(found.costs, expected.costs)
    assert sorted(asked) == list(range(60))


def test_the_short_list_brings_the_picks_near_those_of_exact_features():
    """It takes off half of what they cost too much without it, by exact features and their clusters."""
    costs = {"exact": 0.0, "listed": 0.0, "alone": 0.0}
    for seed in range(5):
        features, regions = draw(400, seed=seed)
        exact = select_patches(features, regions, clusters=4)
        for name, cheapest in (("listed", 16), ("alone", 0)):
            found, asked, _ = approximate(features, regions, clusters=4, cheapest=cheapest, spread=32)
            assert bool(asked) == (name == "listed")
            costs[name] += exact.costs[found.picks].sum()
        costs["exact"] += exact.costs[exact.picks].sum()
    assert costs["alone"] > 1.4 * costs["exact"]
    assert costs["listed"] - costs["exact"] < 0.5 * (costs["alone"] - costs["exact"])


def test_terms_by_hand():
    quarters = np.array([[[0, 0], [3, 4], [0, 4], [0, 0]], [[1, 1]] * 4])
    found = consistency_terms([[3, 4], [0, 1]], quarters, [0, 0], [0, 4])
    np.testing.assert_allclose(found, [[5, (4 + 3 + 0 + 4) / 4, 5], [1, np.sqrt(10), 0]])


def test_a_window_that_is_all_others_costs_least():
    """Of copies of two windows, one with unlike quarters, those alike within are picked."""
    features = np.repeat([[0.0, 0], [9, 9]], 10, axis=0)
    regions = np.repeat(features[:, None], 4, axis=1) + 0.0
    regions[:9, 0] += 3
    regions[10:19, 2] += 3
    found = select_patches(features, regions, clusters=2)
    assert sorted(found.picks.tolist()) == [9, 19]


def test_scaling_and_turning_the_features_changes_no_pick():
    features, regions = draw(seed=3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    expected = select_patches(features, regions, clusters=4)
    found = select_patches(features @ turn * 3, regions @ turn * 3, clusters=4)
    assert found.picks.tolist() == expected.picks.tolist()
    np.testing.assert_allclose(found.costs, expected.costs * 3, rtol=1e-6)


def test_few_windows():
    features, regions = draw(windows=3)
    found = select_patches(features, regions, clusters=3, fine_clusters=8)
    assert sorted(found.picks.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(found.terms[:, 0], 0, atol=1e-12)
    same = np.zeros((5, 2))
    assert select_patches(same, np.zeros((5, 4, 2)), clusters=1).picks.tolist() == [0]


def test_features_in_units_of_their_own_get_one_spread():
    features, regions = draw(seed=2)
    units = np.array([1.0, 1000, 0.01, 5, 1])
    found = select_patches(features * units, regions * units, clusters=4, scale=True)
    expected = select_patches(standardize(features), standardize(regions, features), clusters=4)
    assert found.picks.tolist() == expected.picks.tolist()
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-6)
    unscaled = select_patches(features * units, regions * units, clusters=4)
    assert unscaled.picks.tolist() != expected.picks.tolist()


def grid(images=3):
    """The windows of 8 pixels, every 3, of images of 20 x 29, with no features."""
    corners = window_corners(20, 29, size=8, stride=3)
    off = np.hypot(*(corners + 4 - np.array([10, 14.5])).T)
    count = len(corners) * images
    empty = np.zeros((count, 0)), np.zeros((count, 4, 0))
    return Windows(*empty, np.repeat(np.arange(images), len(corners)), np.tile(off, images)), corners


def test_random_windows_are_different_ones_and_all_come_up():
    windows, corners = grid()
    every = random_windows(windows, number=3 * len(corners), seed=4).picks
    assert sorted(every.tolist()) == list(range(3 * len(corners)))
    few = [random_windows(windows, number=5, seed=seed).picks.tolist() for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert len(set(few[0])) == 5
    assert random_windows(windows, number=1).clusters is None


def test_random_centres_are_the_middle_windows_of_different_images():
    windows, corners = grid()
    picks = random_centres(windows, number=3, seed=1).picks
    assert sorted(windows.image[picks].tolist()) == [0, 1, 2]
    # (6, 9) ends at (14, 17): its middle (10, 13) is 1.5 px from the image's (10, 14.5), as is that of (6, 12)
    assert {tuple(corners[n % len(corners)]) for n in picks} == {(6, 9)}
    orders = {tuple(windows.image[random_centres(windows, number=2, seed=seed).picks]) for seed in range(30)}
    assert len(orders) == 6
    one = random_centres(Windows(*(array[7:8] for array in windows[:4])), number=1)
    assert one.picks.tolist() == [0]


def test_too_few_windows_or_images_for_a_random_choice():
    windows = grid()[0]
    with pytest.raises(ValueError, match="number: found 4, expected 1 to 3, the number of images"):
        random_centres(windows, number=4)
    with pytest.raises(ValueError, match=f"number: found {len(windows.image) + 1}, expected 1 to"):
        random_windows(windows, number=len(windows.image) + 1)
    with pytest.raises(ValueError, match="number: found 0"):
        random_windows(windows, number=0)


def test_fewer_different_windows_than_clusters_are_told():
    with pytest.raises(ValueError, match="clusters: found 2 different windows, expected 3 or more"):
        select_patches([[0.0], [0], [1], [1]], np.zeros((4, 4, 1)), clusters=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters: found 0, expected 1 to 60"),
        ({"clusters": 61}, "clusters: found 61"),
        ({"clusters": 2, "candidates": "none"}, "candidates: found 'none'"),
        ({"clusters": 2, "cheapest": -1}, "cheapest, spread: found -1, 96, expected 0 or more and 1 or more"),
        ({"clusters": 2, "spread": 0}, "cheapest, spread: found 32, 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        select_patches(*draw(), **options)
    with pytest.raises(ValueError, match="regions: found the shape"):
        select_patches(draw()[0], draw()[1][:, :3], clusters=2)


@pytest.mark.parametrize(("side", "windows"), [(1000, 2500), (500, 289), (512, 324), (256, 1)])
def test_windows_of_the_papers_sets(side, windows):
    corners = window_corners(side, side, size=256, stride=15)
    assert len(corners) == windows
    assert corners.max() <= side - 256
    assert len(np.unique(corners, axis=0)) == windows


def test_windows_of_an_oblong_image_row_by_row():
    assert window_corners(5, 9, size=4, stride=3).tolist() == [[0, 0], [0, 3]]
    assert window_corners(7, 4, size=4, stride=3).tolist() == [[0, 0], [3, 0]]
    with pytest.raises(ValueError, match="size: found 6"):
        window_corners(5, 9, size=6, stride=3)
    with pytest.raises(ValueError, match="stride: found 0"):
        window_corners(5, 9, size=4, stride=0)
