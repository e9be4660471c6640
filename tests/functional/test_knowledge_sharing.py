# SPDX-License-Identifier: Apache-2.0
"""Maps of the image made from windows (Eq. 4 and 9) against one full map for each cell and against scipy's Sobel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.special import expit

from monai_ext.functional.knowledge_sharing import border_of_instances, foreground_of_instances
from monai_ext.functional.windows import Windows

PLACES = [
    *[(0, 3, 4), (0, 3, 4), (0, 5, 7), (1, 4, 6)],
    *[(0, -3, 2), (1, 10, 13), (1, -5, -4), (0, 20, 3), (1, 2, -8)],  # the last two lie outside
]
SIZE, SHAPE = 8, (2, 14, 18)


def make(places=PLACES, *, size=SIZE, shape=SHAPE):
    table = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
    return Windows(image=table[:, 0], origin=table[:, 1:], size=size, shape=shape)


def case(windows, *, seed=0):
    """Logits, and locations near the middle of each window but on no special place of a pixel."""
    generator = torch.Generator().manual_seed(seed)
    number = len(windows.image)
    logits = 2 * torch.randn(number, windows.size, windows.size, generator=generator, dtype=torch.float64)
    shift = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return logits, windows.origin + windows.size / 2 + shift


def full_maps(values, windows, fill):
    """(N, H, W): each window alone in an image that is ``fill`` elsewhere."""
    _, height, width = windows.shape
    maps = np.full((len(values), height, width), fill)
    for n, (x, y) in enumerate(windows.origin.tolist()):
        for i in range(windows.size):
            for j in range(windows.size):
                if 0 <= x + i < height and 0 <= y + j < width:
                    maps[n, x + i, y + j] = values[n, i, j]
    return maps


def plain_foreground(logits, windows, locations, prior_px, prior_weight, force_points):
    maps = full_maps(logits.numpy(), windows, -1e6)
    out = np.full(windows.shape, -1e6)
    _, height, width = windows.shape
    x, y = np.mgrid[:height, :width] + 0.5
    for n, b in enumerate(windows.image.tolist()):
        square = (x - locations[n, 0].item()) ** 2 + (y - locations[n, 1].item()) ** 2
        out[b] = np.maximum(out[b], maps[n] + prior_weight * np.exp(-square / (2 * prior_px[n] ** 2)))
    out = expit(out)
    for n, b in enumerate(windows.image.tolist()):
        i, j = math.floor(locations[n, 0]), math.floor(locations[n, 1])
        if force_points and 0 <= i < height and 0 <= j < width:
            out[b, i, j] = 1
    return out


@pytest.mark.parametrize("force_points", [True, False])
@pytest.mark.parametrize("prior_weight", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("each", [True, False])
def test_foreground_equals_full_maps(each, prior_weight, force_points):
    windows = make()
    logits, locations = case(windows)
    prior_px = torch.linspace(1, 6, len(logits), dtype=torch.float64) if each else 3.0
    found = foreground_of_instances(
        logits,
        windows,
        locations=locations,
        prior_px=prior_px,
        prior_weight=prior_weight,
        force_points=force_points,
    )
    widths = prior_px.tolist() if each else [3.0] * len(logits)
    expected = plain_foreground(logits, windows, locations, widths, prior_weight, force_points)
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert found.min() == 0
    assert (expected == 0).any()


def test_one_prior_for_all_equals_one_each():
    windows = make()
    logits, locations = case(windows)
    settings = {"locations": locations, "prior_weight": 2.0}
    one = foreground_of_instances(logits, windows, prior_px=4.0, **settings)
    each = foreground_of_instances(logits, windows, prior_px=torch.full((len(logits),), 4.0), **settings)
    torch.testing.assert_close(one, each)


def test_the_prior_peaks_at_the_location():
    windows = make([(0, 2, 3)])
    logits, locations = torch.full((1, SIZE, SIZE), -1.0), torch.tensor([[5.5, 8.5]])  # the centre of pixel [5, 8]
    found = foreground_of_instances(
        logits, windows, locations=locations, prior_px=2.0, prior_weight=3.0, force_points=False
    )
    assert found[0, 5, 8].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert found[0, 5, 8] == found.max()
    assert found[0, 7, 8].item() == pytest.approx(torch.tensor(-1 + 3 * math.exp(-0.5)).sigmoid().item())
    assert found[0, 5, 6] == found[0, 5, 10] == found[0, 3, 8]


def test_only_the_pixel_of_a_location_is_forced():
    windows = make([(0, 0, 0), (1, 4, 4)])
    locations = torch.tensor([[3.99, 4.0], [13.2, 17.9]])
    found = foreground_of_instances(
        torch.full((2, SIZE, SIZE), -9.0), windows, locations=locations, prior_px=1.0, prior_weight=0.0
    )
    assert (found == 1).nonzero().tolist() == [[0, 3, 4], [1, 13, 17]]


@pytest.mark.parametrize("location", [(-0.4, 5.0), (5.0, -0.4), (-1.0, -1.0), (14.0, 3.0), (3.0, 18.0), (-90.0, 400.0)])
def test_a_location_off_the_image_forces_no_pixel(location):
    windows = make([(0, 2, 2)])
    found = foreground_of_instances(
        torch.full((1, SIZE, SIZE), -9.0), windows, locations=torch.tensor([location]), prior_px=1.0, prior_weight=0.0
    )
    assert found.max() < 0.5


def test_foreground_has_no_gradient():
    windows = make()
    logits, locations = case(windows)
    found = foreground_of_instances(
        logits.requires_grad_(), windows, locations=locations, prior_px=3.0, prior_weight=2.0
    )
    assert not found.requires_grad


def plain_border(probs, windows):
    out = np.zeros(windows.shape)
    edges = []
    for window in probs.detach().numpy():
        first, second = (ndimage.sobel(window, axis=axis, mode="mirror") for axis in (0, 1))
        edges.append(np.sqrt(np.clip((first**2 + second**2) / 8, 1e-8, 1)))
    for b, edge in zip(windows.image.tolist(), full_maps(np.stack(edges), windows, 0.0), strict=True):
        out[b] += edge
    return np.tanh(out)


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_border_equals_scipy(scale):
    windows = make()
    probs = torch.rand(len(PLACES), SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    probs = scale * probs if scale < 1 else probs.round()  # shallow slopes, and steps that are clipped
    found = border_of_instances(probs, windows)
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.numpy(), plain_border(probs, windows), atol=1e-6)


def test_a_step_gives_the_tangent_of_one_and_a_shared_one_of_two():
    windows = make([(0, 3, 3), (1, 3, 3), (1, 3, 3)])
    probs = torch.zeros(3, SIZE, SIZE)
    probs[:, :, :4] = 1
    probs[2] = 1 - probs[2]
    found = border_of_instances(probs, windows)
    edge = torch.zeros(SHAPE[1:], dtype=torch.bool)
    edge[3:11, 6:8] = True  # the two columns beside the step, up to the window's ends
    assert found[0][edge].numpy() == pytest.approx(math.tanh(1), abs=1e-6)
    assert found[1][edge].numpy() == pytest.approx(math.tanh(2), abs=1e-6)
    assert math.tanh(1) == pytest.approx(0.762, abs=5e-4)
    assert found[0][~edge].max() < 2e-4


def test_where_a_window_ends_is_no_border():
    found = border_of_instances(torch.ones(1, SIZE, SIZE), make([(0, 3, 3)]))
    covered = torch.zeros(SHAPE, dtype=torch.bool)
    covered[0, 3:11, 3:11] = True
    assert found[covered].numpy() == pytest.approx(math.tanh(1e-4), rel=1e-4)
    assert found[~covered].eq(0).all()


def test_border_at_the_edge_of_the_image_reads_what_lies_beyond():
    windows = make([(0, -4, 3)])
    probs = torch.zeros(1, SIZE, SIZE)
    probs[:, :4] = 1  # all of the mask lies off the image, and its edge is the image's
    found = border_of_instances(probs, windows)
    assert found[0, 0, 3:11].numpy() == pytest.approx(math.tanh(1), abs=1e-6)
    assert found[0, 1:].max() < 2e-4


def test_border_gradient():
    windows = make([(0, 1, 1), (0, 2, 3), (0, -2, -2), (0, 9, 9)], size=5, shape=(1, 7, 8))
    generator = torch.Generator().manual_seed(4)
    probs = (0.4 * torch.rand(4, 5, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: border_of_instances(p, windows), probs)
    (gradient,) = torch.autograd.grad(border_of_instances(probs, windows).sum(), probs)
    assert gradient[0].ne(0).any()
    assert gradient[3].eq(0).all()


def test_a_flat_window_has_a_finite_gradient():
    probs = torch.full((1, SIZE, SIZE), 0.3, requires_grad=True)
    border_of_instances(probs, make([(0, 3, 3)])).sum().backward()
    assert probs.grad.isfinite().all()


def test_no_cell():
    windows = make([])
    found = foreground_of_instances(
        torch.zeros(0, SIZE, SIZE), windows, locations=torch.zeros(0, 2), prior_px=3.0, prior_weight=2.0
    )
    assert found.shape == SHAPE
    assert found.eq(0).all()
    border = border_of_instances(torch.zeros(0, SIZE, SIZE), windows)
    assert border.shape == SHAPE
    assert border.eq(0).all()


def test_images_of_a_batch_equal_each_alone():
    windows = make()
    logits, locations = case(windows)
    settings = {"prior_px": 3.0, "prior_weight": 2.0}
    whole = foreground_of_instances(logits, windows, locations=locations, **settings)
    border = border_of_instances(logits.sigmoid(), windows)
    for b in range(2):
        mine = windows.image == b
        alone = Windows(torch.zeros_like(windows.image[mine]), windows.origin[mine], SIZE, (1, *SHAPE[1:]))
        found = foreground_of_instances(logits[mine], alone, locations=locations[mine], **settings)
        torch.testing.assert_close(whole[b], found[0])
        torch.testing.assert_close(border[b], border_of_instances(logits[mine].sigmoid(), alone)[0])
