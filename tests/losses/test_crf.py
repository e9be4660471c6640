# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.reference.crf_unfold import unfold_crf_loss
from monai_ext.functional.crf import crf_energy
from monai_ext.losses.crf import MultiViewCRFLoss


def random_case(shape, *, batch=1, classes=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    image = 0.15 * torch.randn(batch, 1, *shape, generator=generator, dtype=dtype)
    return logits.requires_grad_(), image


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradient_of_the_plain_unfold_version(batch, classes):
    logits, image = random_case((12, 9, 7), batch=batch, classes=classes)
    (expected,) = torch.autograd.grad(unfold_crf_loss(logits, image), logits)
    (found,) = torch.autograd.grad(MultiViewCRFLoss()(logits, image), logits)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_value_is_the_energy_of_the_softmax():
    logits, image = random_case((5, 6, 4), batch=2)
    settings = {
        "radius": 2,
        "sigma_space": 3.0,
        "sigma_intensity": 0.2,
        "views": ("axial",),
        "spacing": (1.0, 2.0, 3.0),
    }
    found = MultiViewCRFLoss(**settings)(logits, image)
    assert found.item() == crf_energy(logits.softmax(1), image, **settings).item()


@pytest.mark.parametrize(("shape", "mode"), [((8, 6, 5), "trilinear"), ((8, 6), "bilinear")])
def test_downsampling_resizes_logits_then_takes_the_softmax(shape, mode):
    logits, image = random_case(shape)
    small = tuple(round(n / 2) for n in shape)
    resized = [F.interpolate(t, size=small, mode=mode, align_corners=True) for t in (logits, image)]
    expected = crf_energy(resized[0].softmax(1), resized[1], radius=2)
    assert MultiViewCRFLoss(radius=2, downsample=2)(logits, image).item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_factor_per_axis_and_spacing_of_the_resized_grid():
    logits, image = random_case((9, 5, 4))
    resized = [F.interpolate(t, size=(4, 5, 4), mode="trilinear", align_corners=True) for t in (logits, image)]
    expected = crf_energy(resized[0].softmax(1), resized[1], radius=2, spacing=(0.5 * 8 / 3, 1.0, 2.0))
    found = MultiViewCRFLoss(radius=2, downsample=(2, 1, 1), spacing=(0.5, 1.0, 2.0))(logits, image)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 4), (5, 4)])
def test_gradcheck(shape):
    logits, image = random_case(shape, dtype=torch.float64)
    loss = MultiViewCRFLoss(radius=2, downsample=1.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, image), logits)


def test_smoothing_a_speckled_map_lowers_the_loss():
    image = torch.zeros(1, 1, 8, 8, 8)
    image[..., 4:] = 1
    logits = torch.cat([-8 * image + 4, 8 * image - 4], 1)
    speckled = logits.clone()
    speckled[..., 2, 2, 2] *= -1
    loss = MultiViewCRFLoss()
    assert loss(logits, image) < loss(speckled, image)


def test_bfloat16_logits_under_autocast():
    logits, image = random_case((6, 6, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MultiViewCRFLoss()(logits.bfloat16(), image)
    assert found.dtype == torch.float32
    assert found.item() == MultiViewCRFLoss()(logits.bfloat16().float(), image).item()


@pytest.mark.parametrize("downsample", [0.5, (2, 2)])
def test_a_factor_that_does_not_fit_is_named(downsample):
    logits, image = random_case((4, 4, 4))
    with pytest.raises(ValueError, match="3 factors of at least 1"):
        MultiViewCRFLoss(downsample=downsample)(logits, image)
