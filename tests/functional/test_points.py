# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from monai_ext.functional.points import group_points, object_of, ras_from_lps, voxels_from_world, world_from_voxels

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.2, 5)] * 3)
POINTS = st.lists(st.tuples(*[st.floats(-300, 300)] * 3), min_size=1, max_size=5)


def oblique(angles, spacing_mm, *, mirrored=False, origin=(12.5, -80.0, 33.0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing_mm)
    if mirrored:
        affine[:3, 0] *= -1
    affine[:3, 3] = origin
    return affine


@settings(max_examples=60, deadline=None)
@given(ANGLES, SPACINGS, st.booleans(), POINTS)
def test_voxels_and_world_are_inverse_on_oblique_affines(angles, spacing_mm, mirrored, points):
    affine = oblique(angles, spacing_mm, mirrored=mirrored)
    world = world_from_voxels(points, affine=affine)
    np.testing.assert_allclose(world, nib.affines.apply_affine(affine, np.array(points)), atol=1e-9)
    np.testing.assert_allclose(voxels_from_world(world, affine=affine), points, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(ANGLES, SPACINGS, POINTS)
def test_points_of_an_lps_affine_are_those_of_the_ras_one(angles, spacing_mm, points):
    """A tool that keeps its affine in LPS gives LPS points; flipped, they fall on the same voxels."""
    affine_ras = oblique(angles, spacing_mm)
    affine_lps = np.diag([-1, -1, 1, 1]) @ affine_ras
    lps = world_from_voxels(points, affine=affine_lps)
    np.testing.assert_allclose(voxels_from_world(ras_from_lps(lps), affine=affine_ras), points, atol=1e-9)


def test_flip_by_hand_and_twice():
    np.testing.assert_array_equal(ras_from_lps([[1, 2, 3]]), [[-1, -2, 3]])
    np.testing.assert_array_equal(ras_from_lps(ras_from_lps([[1.5, -2, 3]])), [[1.5, -2, 3]])
    np.testing.assert_array_equal(ras_from_lps([[1, 2]]), [[-1, -2]])


def test_value_by_hand():
    affine = [[0, -2, 0, 10], [3, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(world_from_voxels([[1, 2, 3]], affine=affine), [[6, 23, 42]])
    np.testing.assert_array_equal(voxels_from_world([[6, 23, 42]], affine=affine), [[1, 2, 3]])


@pytest.mark.parametrize("size", [3, 4])
def test_2d_takes_the_last_column_of_either_matrix(size):
    affine = np.eye(size)
    affine[:2, :2] = [[0, 2], [-3, 0]]
    affine[:2, -1] = [5, 7]
    np.testing.assert_array_equal(world_from_voxels([[1, 4]], affine=affine), [[13, 4]])
    np.testing.assert_allclose(voxels_from_world([[13, 4]], affine=affine), [[1, 4]])


def test_no_points_pass_through():
    assert world_from_voxels(np.zeros((0, 3)), affine=np.eye(4)).shape == (0, 3)
    assert voxels_from_world(np.zeros((0, 3)), affine=np.eye(4)).shape == (0, 3)
    assert group_points([], np.zeros((0, 3))) == {}


@pytest.mark.parametrize("points", [[1, 2, 3], [[1.0]], np.zeros((2, 4))])
def test_what_is_no_list_of_points_is_refused(points):
    with pytest.raises(ValueError, match="expected \\(N, 2\\)"):
        world_from_voxels(points, affine=np.eye(4))


def test_a_bad_affine_is_refused():
    with pytest.raises(ValueError, match="no inverse"):
        voxels_from_world([[1, 2, 3]], affine=np.diag([1, 0, 1, 1]))
    with pytest.raises(ValueError, match="at least 4 rows"):
        world_from_voxels([[1, 2, 3]], affine=np.eye(3))


@pytest.mark.parametrize(
    ("label", "parts"),
    [("F", ("F", "")), ("F2", ("F", "2")), (" s12 ", ("S", "12")), ("l", ("L", "")), ("P0", ("P", "0"))],
)
def test_labels_split(label, parts):
    assert object_of(label) == parts


@pytest.mark.parametrize("label", ["", "Q", "F-1", "FF", "2F", "cell", "F2b"])
def test_unknown_labels_are_refused(label):
    with pytest.raises(ValueError, match="is unknown, expected F, L"):
        object_of(label)


def test_groups():
    groups = group_points(["F", "F2", "L", "l2"], [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]])
    assert {name: sorted(clicks) for name, clicks in groups.items()} == {"": ["F", "L"], "2": ["F", "L"]}
    np.testing.assert_array_equal(groups["2"]["L"], [4, 4, 4])


def test_doubled_or_uncounted_labels_are_refused():
    with pytest.raises(ValueError, match="'F2' occurs twice"):
        group_points(["F2", "f2"], [[1, 1, 1], [2, 2, 2]])
    with pytest.raises(ValueError, match="1 labels name 2 positions"):
        group_points(["F"], [[1, 1, 1], [2, 2, 2]])
