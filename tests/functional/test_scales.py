# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from monai_ext.functional.scales import resize_image, resize_mask, scale_sizes


def test_sizes_of_the_released_code():
    assert scale_sizes((256, 256)) == [(n, n) for n in (128, 153, 182, 216, 256)]
    assert len(scale_sizes((250, 250), smallest_px=25)) == 11


def test_one_scale_where_the_image_is_as_small_and_oblong_images():
    assert scale_sizes((128, 128)) == [(128, 128)]
    assert scale_sizes((128, 300)) == [(128, 300)]
    sizes = scale_sizes((96, 192), smallest_px=32)
    assert sizes[0] == (32, 64)
    assert sizes[-1] == (96, 192)
    assert all(a < b for a, b in pairwise(sizes))


@pytest.mark.parametrize("side", [64, 100, 127, 129, 250, 256, 500])
@pytest.mark.parametrize("smallest", [16, 25, 48])
def test_the_ends_are_exact_and_no_step_is_larger_than_the_factor(side, smallest):
    sizes = [height for height, _ in scale_sizes((side, side), smallest_px=smallest)]
    assert (sizes[0], sizes[-1]) == (smallest, side)
    assert sizes == sorted(set(sizes))
    assert all(a >= 0.75 * b - 1e-9 for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"smallest_px": 300}, "smallest_px: found 300, expected 1 to 256"), ({"factor": 1.0}, "factor: found 1.0")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        scale_sizes((256, 256), **options)


def test_masks_are_where_at_least_half_of_a_pixel_is_covered():
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 0, :2], mask[0, 0, 2:, 2:], mask[0, 0, 3, 0] = 1, 1, 1
    assert resize_mask(mask, (2, 2))[0, 0].tolist() == [[1, 0], [0, 1]]
    assert resize_mask(mask, (4, 4)) is mask
    assert resize_mask(mask, (3, 3)).unique().tolist() == [0, 1]


def test_every_scale_is_made_of_the_full_size():
    """Once down and up again it is another mask."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, 64, 64, generator=generator) > 0.5).float()
    small = resize_mask(mask, (32, 32))
    assert not torch.equal(resize_mask(small, (64, 64)), resize_mask(mask, (64, 64)))
    assert small.mean() == pytest.approx(mask.mean().item() + 0.19, abs=0.05)  # of four, two are enough


def test_images_keep_their_mean_and_pass_gradient():
    image = torch.rand(2, 3, 40, 60, dtype=torch.float64, requires_grad=True)
    small = resize_image(image, (17, 23))
    assert small.shape == (2, 3, 17, 23)
    assert small.mean().item() == pytest.approx(image.mean().item(), abs=0.01)
    small.sum().backward()
    assert (image.grad != 0).all()
    assert resize_image(image, (40, 60)) is image
    constant = resize_image(torch.full((1, 1, 9, 9), 0.3), (20, 5))
    torch.testing.assert_close(constant, torch.full((1, 1, 20, 5), 0.3))
