# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import numpy as np
import pytest

from monai_ext.functional.points import group_points
from monai_ext.functional.seed_expansion import box_of_points
from monai_ext.functional.simulate_points import axis_letters, connected_components, simulate_points


def blob(shape, *boxes):
    mask = np.zeros(shape, dtype=np.uint8)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in box)] = 1
    return mask


ONE = blob((20, 22, 24), ((6, 12), (7, 15), (8, 14)))


def test_seven_points_per_object_in_their_places():
    labels, positions = simulate_points(ONE, margin_voxels=(2, 4), seed=1)
    assert sorted(labels) == sorted("FLRPAIS")
    assert positions.shape == (7, 3)
    assert positions.dtype == np.float64
    clicks = group_points(labels, positions)[""]
    assert ONE[tuple(clicks["F"].astype(int))] == 1
    # Identity affine, RAS: L is low i, P is low j, I is low k. Extremes are 6..11, 7..14, 8..13.
    for letter, axis, nearest, farthest in (
        ("L", 0, 4, 2), ("R", 0, 13, 15), ("P", 1, 5, 3), ("A", 1, 16, 18), ("I", 2, 6, 4), ("S", 2, 15, 17)
    ):  # fmt: skip
        assert min(nearest, farthest) <= clicks[letter][axis] <= max(nearest, farthest)
        others = [a for a in range(3) if a != axis]
        assert all(ONE.any(axis=tuple({0, 1, 2} - {a}))[int(clicks[letter][a])] for a in others)


def test_every_margin_occurs_and_no_other():
    margins = set()
    for seed in range(40):
        labels, positions = simulate_points(ONE, margin_voxels=(1, 3), seed=seed)
        margins.add(6 - positions[labels.index("L")][0])
        margins.add(positions[labels.index("S")][2] - 13)
    assert margins == {1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_box_of_the_points_covers_the_object(seed):
    mask = blob((16, 16, 16), ((0, 5), (3, 16), (6, 9)))  # touches the border on two sides
    labels, positions = simulate_points(mask, margin_voxels=(1, 5), seed=seed)
    background = np.array([p for name, p in zip(labels, positions, strict=True) if name != "F"])
    assert (background >= 0).all()
    assert (background <= 15).all()
    covered = np.zeros_like(mask)
    covered[box_of_points(background, mask.shape)] = 1
    assert (covered >= mask).all()


def named(mask, **options):
    labels, positions = simulate_points(mask, **options)
    return dict(zip(labels, map(tuple, positions.astype(int)), strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_no_background_point_lies_in_another_object_where_there_is_another_place(seed):
    """Beyond the high end of the first axis a wall covers all but one row of the places, and a speck one more."""
    mask = blob((20, 22, 24), ((6, 12), (7, 15), (8, 14)), ((14, 17), (7, 14), (6, 16)))
    mask[14, 14, 8:13] = 1
    clicks = named(mask, margin_voxels=(3, 3), min_voxels=10, seed=seed)
    assert clicks["R"] == (14, 14, 13)
    alone = named(ONE, margin_voxels=(3, 3), min_voxels=10, seed=seed)
    # Drawing again moves no other click: only R differs from the object alone.
    assert {name for name in alone if alone[name] != clicks[name]} <= {"R"}


def test_another_margin_is_taken_where_one_is_full_and_all_free_places_occur():
    mask = blob((20, 22, 24), ((6, 12), (7, 15), (8, 14)), ((13, 15), (0, 22), (0, 24)))
    seen = {named(mask, margin_voxels=(1, 5), seed=seed)["R2"] for seed in range(60)}  # the wall is larger
    assert {place[0] for place in seen} == {12, 15, 16}
    assert all(mask[place] == 0 for place in seen)
    assert len(seen) > 20
    assert named(mask, seed=3) == named(mask, seed=3)


def test_a_point_without_a_free_place_stays_beyond_its_object():
    mask = blob((20, 22, 24), ((6, 12), (7, 15), (8, 14)), ((13, 19), (0, 22), (0, 24)))
    for seed in range(6):
        place = named(mask, margin_voxels=(2, 5), seed=seed)["R2"]
        assert 13 <= place[0] <= 16
        assert 7 <= place[1] < 15
        assert 8 <= place[2] < 14


def test_foreground_point_lies_in_a_ring():
    grid = np.indices((21, 21, 7)) - np.reshape((10, 10, 3), (3, 1, 1, 1))
    radius = np.hypot(grid[0], grid[1])
    ring = (radius > 5) & (radius < 9) & (np.abs(grid[2]) < 3)
    places = set()
    for seed in range(20):
        labels, positions = simulate_points(ring, jitter_voxels=3, seed=seed)
        place = tuple(positions[labels.index("F")].astype(int))
        assert ring[place]
        places.add(place)
    assert len(places) > 1
    fixed = [simulate_points(ring, jitter_voxels=0, seed=seed)[1][0].tolist() for seed in range(3)]
    assert fixed[0] == fixed[1] == fixed[2]


def test_foreground_point_of_a_box_is_its_centre_without_jitter():
    mask = blob((11, 11, 11), ((3, 8), (3, 8), (3, 8)))
    labels, positions = simulate_points(mask, jitter_voxels=0)
    assert positions[labels.index("F")].tolist() == [5, 5, 5]


def test_seeded():
    same = [simulate_points(ONE, seed=7)[1] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (simulate_points(ONE, seed=8)[1] != same[0]).any()
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(simulate_points(ONE, seed=rng)[1], same[0])
    assert (simulate_points(ONE, seed=rng)[1] != same[0]).any()


def test_components_get_suffixes_by_size_and_small_ones_are_left_out(caplog):
    mask = blob((30, 20, 20), ((2, 5), (5, 8), (5, 8)), ((12, 20), (5, 12), (5, 12)), ((27, 28), (2, 3), (2, 3)))
    with caplog.at_level(logging.WARNING):
        labels, positions = simulate_points(mask, min_voxels=2)
    assert "1 components have fewer than 2 voxels" in caplog.text
    clicks = group_points(labels, positions)
    assert list(clicks) == ["", "2"]
    assert 12 <= clicks[""]["F"][0] < 20
    assert 2 <= clicks["2"]["F"][0] < 5
    assert all(len(letters) == 7 for letters in clicks.values())
    assert list(group_points(*simulate_points(mask, min_voxels=1))) == ["", "2", "3"]


def test_diagonal_neighbours_are_one_component():
    mask = np.zeros((4, 4, 4))
    mask[1, 1, 1] = mask[2, 2, 2] = 1
    _, sizes = connected_components(mask)
    assert sizes.tolist() == [2]
    assert connected_components(np.zeros((3, 3)))[1].size == 0


def test_empty_mask_has_no_points():
    labels, positions = simulate_points(np.zeros((4, 5, 6)))
    assert labels == []
    assert positions.shape == (0, 3)


def test_letters_follow_the_affine():
    assert axis_letters(np.eye(4), 3) == [("L", "R"), ("P", "A"), ("I", "S")]
    assert axis_letters(np.diag([-1, -1, 2, 1]), 3) == [("R", "L"), ("A", "P"), ("I", "S")]
    swapped = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
    assert axis_letters(swapped, 3) == [("A", "P"), ("I", "S"), ("L", "R")]
    assert axis_letters(np.eye(3), 2) == [("L", "R"), ("P", "A")]


def test_letters_of_an_oblique_affine_are_a_permutation():
    nib = pytest.importorskip("nibabel")
    turn = np.radians(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        affine = np.eye(4)
        affine[:3, :3] = rotation[:, order] * [0.5, -1.0, 3.0]
        assert tuple(high for _, high in axis_letters(affine, 3)) == nib.aff2axcodes(affine)


def test_letters_name_the_world_direction():
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    labels, positions = simulate_points(ONE, affine=affine)
    clicks = group_points(labels, positions)[""]
    assert clicks["R"][0] < 6
    assert clicks["L"][0] > 11


def test_two_dimensional():
    mask = blob((12, 14), ((4, 8), (5, 9)))
    labels, positions = simulate_points(mask)
    assert sorted(labels) == sorted("FLRPA")
    assert positions.shape == (5, 2)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.ones(5), {}, "mask: found 1 axes"),
        (ONE, {"margin_voxels": (0, 3)}, "margin_voxels: found"),
        (ONE, {"margin_voxels": (3, 2)}, "margin_voxels: found"),
    ],
)
def test_bad_arguments_are_named(mask, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_points(mask, **options)
