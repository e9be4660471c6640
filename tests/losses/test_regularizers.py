# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import pytest
import torch

from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.losses.regularizers import EntropyLoss, MumfordShahLoss, SizeLoss, TotalVariationLoss


def random_case(shape=(4, 3, 3), *, batch=2, classes=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    image = torch.randn(batch, 1, *shape, generator=generator, dtype=dtype)
    seeds = torch.randint(0, 2, (batch, 1, *shape), generator=generator)
    seeds[torch.rand(seeds.shape, generator=generator) < 0.6] = UNLABELLED
    return logits.requires_grad_(), image, seeds


def step_sum(probs, counted=None):
    """Absolute steps of (C, *S) between neighbouring voxels, voxel by voxel."""
    total = 0.0
    for index in itertools.product(*(range(n) for n in probs.shape[1:])):
        for axis in range(len(index)):
            neighbour = tuple(i + (a == axis) for a, i in enumerate(index))
            if neighbour[axis] < probs.shape[1 + axis] and (counted is None or (counted[index] and counted[neighbour])):
                total += (probs[(slice(None), *neighbour)] - probs[(slice(None), *index)]).abs().sum().item()
    return total


@pytest.mark.parametrize(
    ("size", "expected"), [(40, (32 - 36) ** 2), (30, 0.0), (32, 0.0), (20, (32 - 22) ** 2), (0, 32**2)]
)
def test_size_loss_by_hand(size, expected):
    logits = torch.zeros(1, 2, 4, 4, 4, dtype=torch.float64)  # p = 1/2 everywhere: 32 voxels
    assert SizeLoss()(logits, torch.tensor([size])).item() == pytest.approx(expected / 64**2)


def test_size_loss_is_the_mean_over_images_and_counts_all_foreground_classes():
    logits = torch.zeros(2, 4, 4, 4, dtype=torch.float64)  # 12 of 16 voxels are foreground
    found = SizeLoss(lower=1.0, upper=1.0)(logits, torch.tensor([[10], [15]]))
    assert found.item() == pytest.approx((2**2 + 3**2) / 2 / 16**2)


def test_size_loss_pushes_towards_the_bounds():
    logits, _, _ = random_case()
    for size, sign in ((0, 1), (36, -1)):
        (gradient,) = torch.autograd.grad(SizeLoss()(logits, torch.full((2,), size)), logits)
        assert (sign * gradient[:, 1] > 0).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 4)])
def test_mumford_shah_equals_its_equation(shape, classes):
    logits, image, _ = random_case(shape, classes=classes)
    expected = 0.0
    for p, x in zip(logits.detach().softmax(1), image, strict=True):
        for c in range(classes):
            mean = (x[0] * p[c]).sum() / p[c].sum()
            expected += ((x[0] - mean) ** 2 * p[c]).sum().item()
        expected += 0.3 * step_sum(p)
    found = MumfordShahLoss(tv_weight=0.3)(logits, image)
    assert found.item() == pytest.approx(expected / 2 / image[0].numel(), rel=1e-10)


def test_mumford_shah_of_two_levels_costs_only_the_border():
    image = torch.zeros(1, 1, 4, 4, 4, dtype=torch.float64)
    image[..., 2:] = 3
    logits = torch.cat([-300 * (image - 1), 300 * (image - 1)], 1)
    assert MumfordShahLoss(tv_weight=0.0)(logits, image).item() == pytest.approx(0, abs=1e-12)
    assert MumfordShahLoss(tv_weight=1.0)(logits, image).item() == pytest.approx(2 * 16 / 64)  # 16 faces, two classes


def test_mumford_shah_with_an_empty_class_is_finite():
    image = torch.randn(1, 1, 4, 4)
    logits = torch.cat([torch.full_like(image, 300.0), torch.full_like(image, -300.0)], 1).requires_grad_()
    loss = MumfordShahLoss()(logits, image)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [900.0, -900.0]], dtype=torch.float64).T[None]
    three_to_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert EntropyLoss()(logits).item() == pytest.approx((math.log(2) + three_to_one) / 3)
    seeds = torch.tensor([[[0, UNLABELLED, 1]]])
    assert EntropyLoss()(logits, seeds).item() == pytest.approx(three_to_one)
    assert EntropyLoss(unlabelled_only=False)(logits, seeds).item() == EntropyLoss()(logits).item()


@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 4)])
def test_total_variation_counts_steps(shape):
    logits, _, seeds = random_case(shape)
    probs = logits.detach().softmax(1)
    expected = sum(step_sum(p) for p in probs) / seeds.numel()
    assert TotalVariationLoss()(logits, seeds).item() == pytest.approx(expected, rel=1e-10)
    counted = seeds == UNLABELLED
    expected = sum(step_sum(p, c[0]) for p, c in zip(probs, counted, strict=True)) / counted.sum().item()
    assert TotalVariationLoss(unlabelled_only=True)(logits, seeds).item() == pytest.approx(expected, rel=1e-10)


def test_total_variation_of_a_constant_map_is_zero():
    assert TotalVariationLoss()(torch.ones(1, 2, 4, 4, 4)).item() == 0


@pytest.mark.parametrize("loss", [EntropyLoss(), TotalVariationLoss(unlabelled_only=True)])
def test_labelled_voxels_get_no_gradient(loss):
    logits, _, seeds = random_case()
    loss(logits, seeds).backward()
    labelled = (seeds != UNLABELLED).expand_as(logits)
    assert logits.grad[labelled].abs().max() == 0
    assert logits.grad[~labelled].abs().max() > 0


@pytest.mark.parametrize("loss", [EntropyLoss(), TotalVariationLoss(unlabelled_only=True)])
def test_with_every_voxel_labelled_the_loss_is_zero_and_keeps_the_graph(loss):
    logits, _, seeds = random_case()
    value = loss(logits, torch.zeros_like(seeds))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def calls():
    size = torch.tensor([3.0, 30.0], dtype=torch.float64)
    return {
        "size": lambda z, x, q: SizeLoss()(z, size),
        "mumford_shah": lambda z, x, q: MumfordShahLoss()(z, x),
        "entropy": lambda z, x, q: EntropyLoss()(z, q),
        "total_variation": lambda z, x, q: TotalVariationLoss()(z),
    }


@pytest.mark.parametrize("name", list(calls()))
def test_gradcheck(name):
    logits, image, seeds = random_case((3, 4))
    assert torch.autograd.gradcheck(lambda z: calls()[name](z, image, seeds), logits)


@pytest.mark.parametrize("name", list(calls()))
def test_float32_inside_under_autocast(name):
    logits, image, seeds = random_case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = calls()[name](logits.bfloat16(), image, seeds)
    expected = calls()[name](logits.bfloat16().float(), image, seeds)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_faults_are_named():
    logits, image, seeds = random_case()
    with pytest.raises(ValueError, match="one size per image, found 1 for 2"):
        SizeLoss()(logits, torch.ones(1))
    with pytest.raises(ValueError, match="lower <= upper"):
        SizeLoss(lower=1.2)
    with pytest.raises(ValueError, match="share batch and grid"):
        MumfordShahLoss()(logits, image[..., 1:])
    with pytest.raises(ValueError, match="seeds must be"):
        EntropyLoss()(logits, seeds[:, 0])
