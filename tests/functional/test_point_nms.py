# SPDX-License-Identifier: Apache-2.0
"""Suppression by distance against a greedy loop, and locations replaced by proposals against hand cases and a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.functional.point_nms import distance_nms, replace_by_proposals


def greedy(locations, scores, radius_px):
    """Each location in turn, highest score first, against all that are kept."""
    points, kept = locations.double().numpy(), []
    for n in sorted(range(len(points)), key=lambda n: (-scores[n].item(), n)):
        if not kept or (((points[kept] - points[n]) ** 2).sum(1) >= radius_px**2).all():
            kept.append(n)
    return kept


def scattered(number, kind, seed):
    """Locations on whole pixels, many at one distance or at one place, or anywhere; few different scores, or many."""
    rng = np.random.default_rng(seed)
    if kind == "clusters":
        middle = rng.integers(0, 200, size=(max(number // 20, 1), 2))
        points = middle[rng.integers(0, len(middle), number)] + rng.integers(-6, 7, size=(number, 2))
    elif kind == "grid":
        points = rng.integers(0, 60, size=(number, 2))
    else:
        points = rng.uniform(0, 300, size=(number, 2))
    scores = rng.random(number)
    scores = scores if kind == "anywhere" else np.round(scores, 1)
    return torch.from_numpy(points).float(), torch.from_numpy(scores).float()


@pytest.mark.parametrize("kind", ["clusters", "grid", "anywhere"])
@pytest.mark.parametrize(("number", "seed"), [(1, 0), (2, 1), (30, 2), (300, 3), (2000, 4)])
def test_equals_a_greedy_loop(kind, number, seed):
    locations, scores = scattered(number, kind, seed)
    for radius_px in (5.0, 8.0):  # 3, 4 and 5 make a triangle: many pairs are at 5 px sharp
        found = distance_nms(locations, scores, radius_px=radius_px)
        assert found.dtype == torch.int64
        assert found.tolist() == greedy(locations, scores, radius_px)


def test_all_scores_equal_keeps_the_earlier_index():
    locations, _ = scattered(400, "clusters", 7)
    scores = torch.full((400,), 0.5)
    found = distance_nms(locations, scores, radius_px=8.0)
    assert found.tolist() == greedy(locations, scores, 8.0)
    assert found.tolist() == sorted(found.tolist())


def test_what_is_dropped_does_not_drop_others():
    locations = torch.tensor([[0.0, 0.0], [0.0, 6.0], [0.0, 12.0]])
    # the middle one falls to the first; the last is near the middle one only, so it stays
    assert distance_nms(locations, torch.tensor([0.9, 0.8, 0.7]), radius_px=8.0).tolist() == [0, 2]
    assert distance_nms(locations, torch.tensor([0.8, 0.9, 0.7]), radius_px=8.0).tolist() == [1]
    assert distance_nms(locations, torch.tensor([0.7, 0.8, 0.9]), radius_px=8.0).tolist() == [2, 0]


def test_the_radius_itself_is_far_enough():
    locations = torch.tensor([[500.0, 500.0], [500.0, 508.0], [500.0, 507.9]])
    assert distance_nms(locations[:2], torch.tensor([0.5, 0.6]), radius_px=8.0).tolist() == [1, 0]
    assert distance_nms(locations[::2], torch.tensor([0.5, 0.6]), radius_px=8.0).tolist() == [1]


def test_one_place_many_times():
    assert distance_nms(torch.full((50, 2), 3.0), torch.arange(50.0), radius_px=8.0).tolist() == [49]


def test_no_location():
    found = distance_nms(torch.zeros(0, 2), torch.zeros(0), radius_px=8.0)
    assert found.dtype == torch.int64
    assert found.shape == (0,)


def replaced(points, image, proposals, proposal_image, scores, radius_px):
    out, best = points.clone(), {}
    for proposal, where, score in zip(proposals, proposal_image.tolist(), scores.tolist(), strict=True):
        mine = [n for n, b in enumerate(image.tolist()) if b == where]
        if not mine:
            continue
        distance = {n: (points[n].double() - proposal.double()).norm().item() for n in mine}
        n = min(mine, key=distance.__getitem__)
        if distance[n] < radius_px and score > best.get(n, -1.0):
            best[n], out[n] = score, proposal
    return out


def test_replaced_within_the_radius_and_in_one_image():
    points, image = torch.tensor([[50.0, 50.0], [50.0, 50.0], [50.0, 90.0]]), torch.tensor([0, 1, 1])
    radius_px = 12.0

    def replace(proposal, where):
        found = replace_by_proposals(
            points, image, torch.tensor([proposal]), torch.tensor([where]), torch.tensor([0.5]), radius_px=radius_px
        )
        assert found.shape == (3, 2)
        return [n for n in range(3) if not torch.equal(found[n], points[n])], found

    changed, found = replace([50.0, 61.9], 0)
    assert changed == [0]
    assert torch.equal(found[0], torch.tensor([50.0, 61.9]))
    assert replace([50.0, 62.1], 0)[0] == []
    assert replace([37.9, 50.0], 0)[0] == []
    assert replace([38.1, 50.0], 0)[0] == [0]
    assert replace([50.0, 62.0], 0)[0] == []  # the radius itself is too far
    assert replace([50.0, 61.9], 1)[0] == [1]
    assert replace([50.0, 80.0], 1)[0] == [2]
    assert replace([50.0, 89.0], 0)[0] == []  # its neighbour is in the other image
    assert replace([50.0, 50.5], 7)[0] == []


def test_the_best_proposal_of_the_nearest_point():
    points, image = torch.tensor([[20.0, 20.0], [20.0, 30.0]]), torch.zeros(2, dtype=torch.int64)
    proposals = torch.tensor([[21.0, 20.0], [20.0, 24.0], [20.0, 26.0], [20.0, 29.0]])
    scores = torch.tensor([0.3, 0.9, 0.8, 0.4])
    found = replace_by_proposals(points, image, proposals, torch.zeros(4, dtype=torch.int64), scores, radius_px=12.0)
    # the third is near enough to both, but belongs to the second alone
    assert found.tolist() == [[20, 24], [20, 26]]


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_proposals(seed):
    rng = np.random.default_rng(seed)
    points, image = torch.from_numpy(rng.uniform(0, 120, (30, 2))).float(), torch.from_numpy(rng.integers(0, 3, 30))
    proposals = torch.from_numpy(rng.uniform(-5, 125, (200, 2))).float()
    where, scores = torch.from_numpy(rng.integers(0, 3, 200)), torch.from_numpy(rng.random(200)).float()
    kept = points.clone()
    found = replace_by_proposals(points, image, proposals, where, scores, radius_px=9.0)
    assert torch.equal(found, replaced(points, image, proposals, where, scores, 9.0))
    assert not torch.equal(found, points)
    assert torch.equal(points, kept)


def test_no_proposal_and_no_point():
    points, nothing, none = torch.tensor([[1.0, 2.0]]), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    one = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(replace_by_proposals(points, one, nothing, none, torch.zeros(0), radius_px=12.0), points)
    found = replace_by_proposals(nothing, none, points, one, torch.ones(1), radius_px=12.0)
    assert found.shape == (0, 2)
