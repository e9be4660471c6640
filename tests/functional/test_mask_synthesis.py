# SPDX-License-Identifier: Apache-2.0
"""Synthetic maps: whose nuclei they hold, that none touch, against dilation by a disk."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label
from skimage.morphology import dilation, disk

from monai_ext.functional import mask_synthesis
from monai_ext.functional.mask_synthesis import nuclei_of, synthesize_mask, synthesize_masks, turned

EIGHT = np.ones((3, 3))


def patch():
    """A bar, an L, a disc, a speck, and a nucleus at the border."""
    numbers = np.zeros((40, 50), np.int32)
    numbers[3:5, 4:14] = 2
    numbers[10:18, 5:8], numbers[16:18, 8:14] = 3, 3
    numbers[20:31, 20:31][disk(5) > 0] = 7
    numbers[35, 40] = 8
    numbers[0:6, 40:46] = 9
    return numbers


def shape(mask):
    """A shape, wherever it lies."""
    return frozenset(map(tuple, np.argwhere(mask) - np.argwhere(mask).min(0)))


def all_turns(mask):
    return {shape(np.rot90(m, k)) for m in (mask, mask.T) for k in range(4)}


def test_nuclei_by_hand():
    numbers = patch()
    found = nuclei_of(numbers)
    assert [len(nucleus.offsets) for nucleus in found] == [20, 36, disk(5).sum(), 36]
    bar, _, circle, _ = found
    # The centroid (3.5, 8.5) is rounded to (4, 9); the farthest pixel is (3, 4).
    assert bar.radius_px == pytest.approx(np.hypot(1, 5))
    assert circle.radius_px == 5
    assert [len(n.offsets) for n in nuclei_of(numbers, border_px=1)] == [20, 36, disk(5).sum()]
    assert [len(n.offsets) for n in nuclei_of(numbers, border_px=5)] == [36, disk(5).sum()]
    assert len(nuclei_of(numbers, least_px=1)) == 5
    assert nuclei_of(np.zeros((5, 5), int)) == []


def test_turns_are_all_eight_and_keep_the_radius():
    nucleus = nuclei_of(patch())[1]
    found = turned([nucleus])
    assert {n.radius_px for n in found} == {nucleus.radius_px}
    shapes = set()
    for one in found:
        canvas = np.zeros((41, 41), bool)
        canvas[tuple((one.offsets + 20).T)] = True
        shapes.add(shape(canvas))
    assert shapes == all_turns(patch() == 3)
    assert len(shapes) == 8
    for one in found:
        assert np.sqrt((one.offsets**2).sum(1).max()) == pytest.approx(one.radius_px)


@pytest.mark.parametrize("seed", range(5))
def test_every_nucleus_is_one_of_the_patchs_and_none_touch(seed):
    nuclei = turned(nuclei_of(patch(), border_px=1))
    allowed = set().union(*(all_turns(patch() == number) for number in (2, 3, 7)))
    found = synthesize_mask(nuclei, number=25, size=(90, 120), margin_px=0, rng=np.random.default_rng(seed))
    components, number = label(found.instances > 0, EIGHT)
    assert number == found.instances.max() == found.placed == 25
    for k in range(1, number + 1):
        mask = found.instances == k
        assert len(np.unique(components[mask])) == 1
        whole = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum() == 0
        assert not whole or shape(mask) in allowed


def test_margin_cuts_nuclei_and_numbers_stay_without_gaps():
    nuclei = nuclei_of(patch(), border_px=1)
    cut = 0
    for seed in range(8):
        found = synthesize_mask(nuclei, number=30, size=(60, 80), margin_px=12, rng=np.random.default_rng(seed))
        assert found.instances.shape == (60, 80)
        assert found.instances.dtype == np.int32
        numbers = np.unique(found.instances)
        assert numbers.tolist() == list(range(len(numbers)))
        assert found.placed >= len(numbers) - 1
        edges = np.concatenate([found.instances[[0, -1]].ravel(), found.instances[:, [0, -1]].ravel()])
        cut += len(np.unique(edges[edges > 0]))
    assert cut > 8


def test_free_places_are_those_outside_a_dilation_by_a_disk(monkeypatch):
    """Where a nucleus may lie, spied on as it is chosen."""
    seen = []

    class Spy(np.random.Generator):
        def choice(self, places):
            seen.append(places)
            return super().choice(places)

    nuclei = nuclei_of(patch(), border_px=1)[2:]
    size = (70, 70)
    rng = Spy(np.random.PCG64(0))
    found = synthesize_mask(nuclei, number=6, size=size, margin_px=0, gap_px=0.0, rng=rng)
    assert len(seen) == found.placed == 6
    assert len(seen[0]) == 70 * 70
    so_far = found.instances == 1
    free = ~dilation(so_far, disk(5))
    assert seen[1].tolist() == np.flatnonzero(free).tolist()


def test_saturation_is_reported():
    nuclei = nuclei_of(patch(), border_px=1)
    found = synthesize_mask(nuclei, number=500, size=(40, 40), margin_px=5, rng=np.random.default_rng(0))
    assert 1 < found.placed < 100
    assert found.instances.max() <= found.placed


def test_where_a_large_one_finds_no_room_a_small_one_may():
    large, small = mask_synthesis._nucleus(np.ones((9, 9), bool)), mask_synthesis._nucleus(np.ones((1, 1), bool))
    rng = np.random.default_rng(1)
    found = synthesize_mask([large, small], number=40, size=(14, 14), margin_px=0, rng=rng)
    areas = np.bincount(found.instances.ravel())[1:]
    assert (areas == 1).sum() > 3
    assert (areas > 1).sum() == 1


def test_seeds_nothing_and_faults():
    nuclei = nuclei_of(patch())
    one, same, other = (
        synthesize_mask(nuclei, number=9, size=(50, 50), rng=np.random.default_rng(seed)).instances
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    empty = synthesize_mask(nuclei, number=0, size=(5, 6), rng=np.random.default_rng(0))
    assert (empty.placed, empty.instances.any()) == (0, False)
    with pytest.raises(ValueError, match="found 0 nuclei"):
        synthesize_mask([], number=3, size=(5, 5), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="set down -1"):
        synthesize_mask(nuclei, number=-1, size=(5, 5), rng=np.random.default_rng(0))


def test_maps_have_about_as_many_nuclei_as_the_patch():
    rng = np.random.default_rng(0)
    found = synthesize_masks(patch(), number=40, density=(0.5, 1.0), margin_px=10, rng=rng)
    usual = 5 * 60 * 70 / (40 * 50)
    asked = [one.wanted for one in found]
    assert len(found) == 40
    assert round(0.5 * usual) <= min(asked) < max(asked) <= round(usual)
    assert all(one.instances.shape == (40, 50) for one in found)
    assert all(one.placed <= one.wanted for one in found)
    assert len({one.instances.tobytes() for one in found}) == 40
    again = synthesize_masks(patch(), number=40, density=(0.5, 1.0), margin_px=10, rng=np.random.default_rng(0))
    assert all(np.array_equal(one.instances, other.instances) for one, other in zip(found, again, strict=True))


def test_fewer_maps_are_the_first_ones():
    two, four = (synthesize_masks(patch(), number=n, margin_px=10, rng=np.random.default_rng(5)) for n in (2, 4))
    for one, other in zip(two, four, strict=False):
        assert np.array_equal(one.instances, other.instances)
        assert (one.placed, one.wanted) == (other.placed, other.wanted)


def test_every_centre_is_farther_than_its_radius_from_all_before(monkeypatch):
    """A distance transform of all that lies there, against the one that is lowered around each nucleus."""
    nuclei, lowered = turned(nuclei_of(patch(), border_px=1)), mask_synthesis._come_nearer
    reach, seen = max(nucleus.radius_px for nucleus in nuclei) + 2**0.5, []
    there = np.zeros((80, 90), bool)

    def spy(distance, rows, columns, far):
        lowered(distance, rows, columns, far)
        there[rows, columns] = True
        expected = distance_transform_edt(~there)
        near = expected <= reach
        assert np.array_equal(distance[near], expected[near])
        assert (distance[~near] > reach).all()
        seen.append(len(rows))

    monkeypatch.setattr(mask_synthesis, "_come_nearer", spy)
    synthesize_mask(nuclei, number=15, size=(80, 90), margin_px=0, rng=np.random.default_rng(0))
    assert len(seen) == 15


def test_a_patch_of_cut_nuclei_only():
    numbers = np.zeros((20, 20), int)
    numbers[0:5, 3:9] = 1
    with pytest.raises(ValueError, match="no nucleus farther than 1 px from the border"):
        synthesize_masks(numbers, number=3, rng=np.random.default_rng(0))
