# SPDX-License-Identifier: Apache-2.0
"""Grid targets against a KD-tree, and the way back from offsets to locations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from monai_ext.functional.point_targets import decode, point_targets


def draw(number, *, batch=2, extent=(64, 96), seed=0):
    """Locations a little beyond the image too, and their images in no order."""
    rng = np.random.default_rng(seed)
    locations = rng.uniform((-6, -6), (extent[0] + 6, extent[1] + 6), size=(number, 2))
    return torch.from_numpy(locations), torch.from_numpy(rng.integers(0, batch, number))


def centres(h, w, stride):
    i, j = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    return (np.stack([i, j], -1) + 0.5) * stride


def with_tree(locations, image, *, shape, stride, radius_px):
    nearest, offset = np.full(shape, -1), np.zeros((shape[0], 2, *shape[1:]))
    grid = centres(*shape[1:], stride)
    for b in range(shape[0]):
        mine = np.flatnonzero(image.numpy() == b)
        if not mine.size:
            continue
        distance, which = cKDTree(locations.numpy()[mine]).query(grid)
        near = distance < radius_px
        nearest[b] = np.where(near, mine[which], -1)
        offset[b] = np.where(near, np.moveaxis((locations.numpy()[mine][which] - grid) / stride, -1, 0), 0)
    return nearest, offset


@pytest.mark.parametrize("number", [1, 5, 40, 300])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_equals_a_tree(stride, number):
    locations, image = draw(number, seed=stride + number)
    shape = (2, 64 // stride, 96 // stride)
    nearest, offset = point_targets(locations, image, shape=shape, stride=stride, radius_px=8.0)
    expected = with_tree(locations, image, shape=shape, stride=stride, radius_px=8.0)
    assert nearest.dtype == torch.int64
    np.testing.assert_array_equal(nearest.numpy(), expected[0])
    np.testing.assert_allclose(offset.numpy(), expected[1], atol=1e-6)


@pytest.mark.parametrize("radius_px", [0.5, 3.0, 40.0])
def test_other_radii(radius_px):
    locations, image = draw(12, batch=3, seed=9)
    settings = {"shape": (3, 16, 24), "stride": 4, "radius_px": radius_px}
    nearest, offset = point_targets(locations, image, **settings)
    expected = with_tree(locations, image, **settings)
    np.testing.assert_array_equal(nearest.numpy(), expected[0])
    np.testing.assert_allclose(offset.numpy(), expected[1], atol=1e-6)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_encoded_then_decoded_gives_the_location(stride):
    locations, image = draw(25, seed=3)
    shape = (2, 64 // stride, 96 // stride)
    nearest, offset = point_targets(locations, image, shape=shape, stride=stride, radius_px=8.0)
    back = decode(offset, stride=stride).movedim(1, -1)
    assert (nearest >= 0).any()
    torch.testing.assert_close(back[nearest >= 0].double(), locations[nearest[nearest >= 0]], atol=1e-4, rtol=0)
    centre = torch.from_numpy(centres(*shape[1:], stride)).expand(2, -1, -1, -1)
    torch.testing.assert_close(back[nearest < 0].double(), centre[nearest < 0], atol=1e-5, rtol=0)


def test_decode_by_hand():
    offset = torch.zeros(1, 2, 2, 3)
    offset[0, :, 1, 2] = torch.tensor([0.25, -1.5])
    found = decode(offset, stride=8)
    assert found[0, :, 0, 0].tolist() == [4, 4]
    assert found[0, :, 0, 2].tolist() == [4, 20]  # the first number goes with the first axis
    assert found[0, :, 1, 2].tolist() == [14, 8]


def test_the_radius_itself_is_too_far():
    locations, image = torch.tensor([[10.0, 2.0]]), torch.zeros(1, dtype=torch.int64)
    nearest, offset = point_targets(locations, image, shape=(1, 5, 1), stride=4, radius_px=8.0)
    # centres at 2, 6, 10, 14 and 18; the outer two are 8 px away
    assert nearest[0, :, 0].tolist() == [-1, 0, 0, 0, -1]
    assert offset[0, 0, :, 0].tolist() == [0, 1, 0, -1, 0]
    nearest, _ = point_targets(locations, image, shape=(1, 5, 1), stride=4, radius_px=8.01)
    assert nearest.eq(0).all()


def test_between_two_points_as_near_either_will_do():
    locations = torch.tensor([[2.0, 2.0], [2.0, 10.0], [2.0, 2.0]])  # and one of them twice
    nearest, offset = point_targets(
        locations, torch.zeros(3, dtype=torch.int64), shape=(1, 1, 3), stride=4, radius_px=8.0
    )
    assert nearest[0, 0, 0] in (0, 2)
    assert nearest[0, 0, 1] in (0, 1, 2)
    assert nearest[0, 0, 2] == 1
    middle = locations[nearest[0, 0, 1]]
    assert offset[0, :, 0, 1].tolist() == [0, (middle[1].item() - 6) / 4]


def test_a_point_counts_in_its_own_image_only():
    locations = torch.tensor([[6.0, 6.0], [6.0, 7.0]])
    nearest, offset = point_targets(locations, torch.tensor([2, 0]), shape=(3, 4, 4), stride=4, radius_px=8.0)
    assert nearest[1].eq(-1).all()
    assert offset[1].eq(0).all()
    assert set(nearest[0].unique().tolist()) == {-1, 1}
    assert set(nearest[2].unique().tolist()) == {-1, 0}


def test_no_point():
    nearest, offset = point_targets(
        torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), shape=(2, 3, 4), stride=8, radius_px=8.0
    )
    assert nearest.shape == (2, 3, 4)
    assert nearest.eq(-1).all()
    assert offset.shape == (2, 2, 3, 4)
    assert offset.eq(0).all()
