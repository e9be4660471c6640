# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.losses.variance import VarianceLoss


def random_case(shape=(4, 3, 3), *, batch=2, classes=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    image = torch.randn(batch, 1, *shape, generator=generator, dtype=dtype)
    valid = torch.rand(batch, 1, *shape, generator=generator) < 0.7
    return logits.requires_grad_(), image, valid


def class_terms(p, x):
    """Mean, variance and size of a soft class, by Eq. 9 and 10; flat arrays."""
    size = p.sum()
    mean = (x * p).sum() / size
    return mean, ((x - mean) ** 2 * p).sum() / size, size


def test_by_hand():
    image = torch.tensor([0.0, 2.0, 5.0, 5.0], dtype=torch.float64).reshape(1, 1, 4)
    foreground = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4).double()
    logits = 500 * torch.cat([1 - foreground, foreground], 1)
    assert VarianceLoss()(logits, image).item() == pytest.approx(1.0)  # 0 and 2 around 1; 5 and 5 around 5


def test_an_image_of_two_levels_segmented_right_costs_nothing():
    image = torch.zeros(1, 1, 4, 4, 4, dtype=torch.float64)
    image[..., 2:] = 3
    logits = torch.cat([-300 * (image - 1), 300 * (image - 1)], 1)
    assert VarianceLoss()(logits, image).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_equations(masked, shape, classes):
    logits, image, valid = random_case(shape, classes=classes)
    expected = 0.0
    for p, x, m in zip(logits.softmax(1), image, valid, strict=True):
        inside = m[0] if masked else torch.ones_like(m[0])
        expected += sum(class_terms(p[c][inside], x[0][inside])[1].item() for c in range(classes))
    found = VarianceLoss()(logits, image, valid if masked else None)
    assert found.item() == pytest.approx(expected / 2, rel=1e-12)


def test_closed_form_gradient():
    logits, image, _ = random_case(batch=1)
    probs = logits.softmax(1)
    probs.retain_grad()
    # The module starts from logits; the logarithm of probabilities is one set of them.
    VarianceLoss()(probs.log(), image).backward()
    expected = torch.zeros_like(probs)
    for c in (0, 1):
        mean, variance, size = class_terms(probs[0, c].detach(), image[0, 0])
        expected[0, c] = ((image[0, 0] - mean) ** 2 - variance) / size
    # Softmax of the logarithm projects the gradient onto changes that keep the sum at 1.
    expected = expected - (expected * probs.detach()).sum(1, keepdim=True)
    assert torch.allclose(probs.grad, expected, rtol=1e-9, atol=1e-14)


def test_scales_with_the_square_of_contrast_and_ignores_brightness():
    logits, image, valid = random_case()
    expected = 9 * VarianceLoss()(logits, image, valid).item()
    assert VarianceLoss()(logits, 3 * image + 7, valid).item() == pytest.approx(expected, rel=1e-9)


def test_unchanged_when_the_classes_are_exchanged():
    logits, image, valid = random_case()
    found = VarianceLoss()(logits.flip(1), image, valid).item()
    assert found == pytest.approx(VarianceLoss()(logits, image, valid).item(), rel=1e-12)


def test_outside_the_valid_region_nothing_matters():
    logits, image, valid = random_case()
    other = torch.where(valid, image, torch.full_like(image, 100.0))
    loss = VarianceLoss()(logits, other, valid.to(torch.uint8))
    loss.backward()
    assert loss.item() == pytest.approx(VarianceLoss()(logits, image, valid).item(), rel=1e-12)
    assert logits.grad[(~valid).expand_as(logits)].abs().max() == 0


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_empty_class_is_finite_with_a_finite_gradient(sign):
    _, image, _ = random_case(dtype=torch.float32)
    logits = torch.cat([torch.full_like(image, -200.0 * sign), torch.full_like(image, 200.0 * sign)], 1)
    logits.requires_grad_()
    loss = VarianceLoss()(logits, image)
    loss.backward()
    assert loss.item() == pytest.approx(image.flatten(1).var(1, correction=0).mean().item(), rel=1e-4)
    assert torch.isfinite(logits.grad).all()


def test_an_empty_valid_region_costs_zero():
    logits, image, valid = random_case()
    loss = VarianceLoss()(logits, image, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_gradcheck(classes):
    logits, image, valid = random_case((3, 4), classes=classes)
    assert torch.autograd.gradcheck(lambda z: VarianceLoss()(z, image, valid), logits)


def test_float32_inside_under_autocast():
    logits, image, valid = random_case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = VarianceLoss()(logits.bfloat16(), image, valid)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(VarianceLoss()(logits.bfloat16().float(), image, valid).item(), rel=1e-6)


def test_arrays_on_different_grids_are_named():
    logits, image, valid = random_case()
    with pytest.raises(ValueError, match="share batch and grid"):
        VarianceLoss()(logits, image, valid[..., 1:])
