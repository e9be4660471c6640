# SPDX-License-Identifier: Apache-2.0
"""Windows against slices of a padded array and loops; no pixel crosses a border or reaches another image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.functional.windows import Windows, gather_windows, inside, scatter_max, scatter_sum

PLACES = [
    *[(0, 2, 3), (0, 2, 3), (1, 2, 3)],  # twice the same window, and once in another image
    *[(0, -2, 4), (0, 7, 4), (0, 3, -3), (0, 3, 9)],  # one border each
    *[(2, -4, -4), (2, 8, 11), (2, -1, 10), (2, 7, -2)],  # corners, some by one pixel
    *[(1, 0, 0), (1, 4, 7)],  # flush with the corners
    *[(1, -5, 3), (1, 9, 3), (1, 3, -5), (1, 3, 12), (1, -40, -40), (1, 40, 2), (1, 2, 40)],  # wholly outside
]
SIZE, SHAPE = 5, (3, 9, 12)


def make(places=PLACES, *, size=SIZE, shape=SHAPE):
    table = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
    return Windows(image=table[:, 0], origin=table[:, 1:], size=size, shape=shape)


def values_of(windows, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(windows.image), windows.size, windows.size, generator=generator, dtype=dtype)


def pixels(windows):
    """Every pixel of every window that lies in its image: cell, place in the window, image, place in the image."""
    _, height, width = windows.shape
    for n, (b, (x, y)) in enumerate(zip(windows.image.tolist(), windows.origin.tolist(), strict=True)):
        for i in range(windows.size):
            for j in range(windows.size):
                if 0 <= x + i < height and 0 <= y + j < width:
                    yield (n, i, j), (b, x + i, y + j)


def summed(values, windows):
    out = np.zeros(windows.shape)
    for here, there in pixels(windows):
        out[there] += values.numpy()[here]
    return out


def highest(values, windows, fill):
    out = np.full(windows.shape, -np.inf)
    for here, there in pixels(windows):
        out[there] = max(out[there], values.numpy()[here])
    return np.where(np.isinf(out), fill, out)


def test_inside_names_the_pixels_in_the_image():
    windows = make()
    expected = np.zeros((len(PLACES), SIZE, SIZE), dtype=bool)
    for here, _ in pixels(windows):
        expected[here] = True
    found = inside(windows)
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_gather_equals_slices_of_a_padded_array(channels):
    windows = make()
    maps = torch.randn(SHAPE[0], channels, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (50, 50), (50, 50)))
    found = gather_windows(maps, windows)
    assert found.shape == (len(PLACES), channels, SIZE, SIZE)
    for n, (b, x, y) in enumerate(PLACES):
        expected = padded[b, :, 50 + x : 50 + x + SIZE, 50 + y : 50 + y + SIZE]
        np.testing.assert_array_equal(found[n].numpy(), expected)


def test_scatter_sum_equals_a_loop():
    windows = make()
    values = values_of(windows)
    np.testing.assert_allclose(scatter_sum(values, windows).numpy(), summed(values, windows), atol=1e-12)


@pytest.mark.parametrize("fill", [-1e6, 0.0, 50.0])
def test_scatter_max_equals_a_loop(fill):
    windows = make()
    values = values_of(windows) - 1  # mostly below a fill of 0, which may not hide them
    np.testing.assert_array_equal(scatter_max(values, windows, fill=fill).numpy(), highest(values, windows, fill))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "shape"), [(1, (1, 1, 1)), (6, (2, 3, 4)), (3, (2, 8, 5)), (4, (1, 1, 9))])
def test_random_places_and_sizes(size, shape, seed):
    rng = np.random.default_rng(seed)
    low, high = (0, -size - 2, -size - 2), (shape[0], shape[1] + 3, shape[2] + 3)
    windows = make(rng.integers(low, high, size=(15, 3)).tolist(), size=size, shape=shape)
    values = values_of(windows, seed=seed)
    np.testing.assert_allclose(scatter_sum(values, windows).numpy(), summed(values, windows), atol=1e-12)
    np.testing.assert_array_equal(scatter_max(values, windows, fill=-9.0).numpy(), highest(values, windows, -9.0))
    maps = torch.from_numpy(rng.normal(size=(shape[0], 1, *shape[1:])))
    # what scatter_sum adds up is what gather_windows reads
    read, written = gather_windows(maps, windows)[:, 0], scatter_sum(values, windows)
    assert (read * values).sum().item() == pytest.approx((maps[:, 0] * written).sum().item(), abs=1e-10)


@pytest.mark.parametrize(("place", "column"), [((0, 3, 9), 0), ((0, 3, -3), 11)])
def test_nothing_comes_back_at_the_opposite_border(place, column):
    windows = make([place])
    total = scatter_sum(torch.ones(1, SIZE, SIZE), windows)
    assert total[0, :, column].eq(0).all()
    assert total.sum() == inside(windows).sum()
    maps = torch.zeros(3, 1, *SHAPE[1:])
    maps[..., column] = 1
    assert gather_windows(maps, windows).eq(0).all()


def test_the_edge_of_an_image_does_not_reach_the_next_one():
    windows = make([(1, -3, 2), (1, 7, 2), (1, -3, -3), (1, 7, 10)])
    total = scatter_sum(torch.ones(4, SIZE, SIZE), windows)
    assert total[0].eq(0).all()
    assert total[2].eq(0).all()
    maps = torch.ones(3, 1, *SHAPE[1:])
    maps[1] = 0
    assert gather_windows(maps, windows).eq(0).all()


def test_a_window_far_away_touches_nothing():
    windows = make([(0, 10**6, 0), (2, -(10**6), -(10**6)), (1, 0, -(10**6)), (2, 3, 10**6)])
    values = values_of(windows)
    assert not inside(windows).any()
    assert scatter_sum(values, windows).eq(0).all()
    assert scatter_max(values, windows, fill=-7.0).eq(-7).all()
    assert gather_windows(torch.ones(3, 2, *SHAPE[1:]), windows).eq(0).all()


def test_no_window():
    windows = make([])
    values = torch.zeros(0, SIZE, SIZE, requires_grad=True)
    assert inside(windows).shape == (0, SIZE, SIZE)
    assert gather_windows(torch.ones(3, 2, *SHAPE[1:]), windows).shape == (0, 2, SIZE, SIZE)
    total = scatter_sum(values, windows)
    assert total.shape == SHAPE
    assert total.eq(0).all()
    total.sum().backward()
    assert scatter_max(values, windows, fill=2.0).eq(2).all()


def test_gradients():
    windows = make(PLACES[:9] + PLACES[-4:-2], size=3, shape=(3, 5, 6))
    values = values_of(windows).requires_grad_()
    maps = torch.randn(3, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: scatter_sum(v, windows), values)
    assert torch.autograd.gradcheck(lambda m: gather_windows(m, windows), maps)
    scatter_sum(values, windows).sum().backward()
    assert torch.equal(values.grad, inside(windows).double())  # off the image there is nothing to learn


def test_the_maximum_has_no_gradient():
    windows = make()
    assert not scatter_max(values_of(windows).requires_grad_(), windows, fill=0.0).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_stay_and_arguments_are_not_written_to(dtype):
    windows = make()
    values = values_of(windows, dtype=dtype)
    kept, origin = values.clone(), windows.origin.clone()
    assert scatter_sum(values, windows).dtype == dtype
    assert scatter_max(values, windows, fill=-1.0).dtype == dtype
    assert gather_windows(torch.ones(3, 1, *SHAPE[1:], dtype=dtype), windows).dtype == dtype
    assert torch.equal(values, kept)
    assert torch.equal(windows.origin, origin)
