# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.losses.partial import PartialLoss


def random_case(shape=(4, 3, 3), *, batch=2, classes=2, labelled=0.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    seeds = torch.randint(0, classes, (batch, 1, *shape), generator=generator)
    seeds[torch.rand(seeds.shape, generator=generator) >= labelled] = UNLABELLED
    return logits.requires_grad_(), seeds


def reference(logits, seeds, power):
    """Eq. 3-5 with loops over the labelled voxels of one two-class image."""
    cross_entropy, overlap, size, count = 0.0, 0.0, 0.0, 0
    for p, q in zip(logits.softmax(0)[1].flatten().tolist(), seeds.flatten().tolist(), strict=True):
        if q != UNLABELLED:
            cross_entropy -= q * math.log(p) + (1 - q) * math.log(1 - p)
            overlap += p * q
            size += p**power + q**power
            count += 1
    return (cross_entropy / count + 1 - 2 * overlap / size) / 2


def test_one_voxel_by_hand():
    logits = torch.tensor([0.0, math.log(3.0), 5.0, -9.0], dtype=torch.float64).reshape(1, 2, 2).transpose(1, 2)
    seeds = torch.tensor([1, UNLABELLED]).reshape(1, 1, 2)  # p = 3/4 where labelled
    expected = (-math.log(0.75) + 1 - 2 * 0.75 / (0.75**2 + 1)) / 2
    assert PartialLoss(smooth=0)(logits, seeds).item() == pytest.approx(expected)


@pytest.mark.parametrize(("dice", "power"), [("squared", 2), ("linear", 1)])
@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 4)])
def test_equals_the_equations(shape, dice, power):
    logits, seeds = random_case(shape)
    expected = sum(reference(z, q, power) for z, q in zip(logits.detach(), seeds, strict=True)) / 2
    assert PartialLoss(dice=dice, smooth=0)(logits, seeds).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("dice", "background"), [("squared", False), ("linear", True)])
def test_with_every_voxel_labelled_it_is_the_usual_loss(classes, dice, background):
    logits, seeds = random_case(classes=classes, labelled=1.1)
    usual = DiceLoss(
        softmax=True, to_onehot_y=True, squared_pred=dice == "squared", include_background=background, smooth_nr=1e-5
    )
    expected = (F.cross_entropy(logits, seeds[:, 0]) + usual(logits, seeds)) / 2
    found = PartialLoss(dice=dice, include_background=background)(logits, seeds)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_released_form_is_cross_entropy_plus_linear_dice_of_both_classes():
    logits, seeds = random_case(batch=1)
    known = seeds[0, 0] != UNLABELLED
    probs, labels = logits.softmax(1)[0][:, known], seeds[0, 0][known]
    dice = [1 - 2 * probs[c][labels == c].sum() / (probs[c].sum() + (labels == c).sum()) for c in (0, 1)]
    expected = F.cross_entropy(logits[0][:, known].T, labels) + sum(dice) / 2
    found = 2 * PartialLoss(dice="linear", include_background=True, smooth=0)(logits, seeds)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_no_gradient_where_nobody_labelled():
    logits, seeds = random_case()
    PartialLoss()(logits, seeds).backward()
    unlabelled = (seeds == UNLABELLED).expand_as(logits)
    assert logits.grad[unlabelled].abs().max() == 0
    assert logits.grad[~unlabelled].abs().min() > 0


def test_unlabelled_logits_do_not_matter():
    logits, seeds = random_case()
    other = torch.where(seeds == UNLABELLED, 50 * torch.randn_like(logits), logits)
    assert PartialLoss()(logits, seeds).item() == PartialLoss()(other, seeds).item()


def test_no_label_at_all_costs_zero_and_keeps_the_graph():
    logits, seeds = random_case()
    loss = PartialLoss()(logits, torch.full_like(seeds, UNLABELLED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_only_background_is_finite_and_pushes_the_foreground_down():
    logits, seeds = random_case()
    loss = PartialLoss()(logits, torch.zeros_like(seeds))
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad[:, 1] > 0).all()


def test_a_perfect_prediction_costs_nothing():
    _, seeds = random_case(labelled=1.1)
    logits = 200.0 * F.one_hot(seeds[:, 0], 2).movedim(-1, 1).double()
    assert PartialLoss()(logits, seeds).item() == pytest.approx(0, abs=1e-12)


def test_batch_is_the_mean_of_its_images():
    logits, seeds = random_case(batch=3)
    single = [PartialLoss()(logits[i : i + 1], seeds[i : i + 1]).item() for i in range(3)]
    assert PartialLoss()(logits, seeds).item() == pytest.approx(sum(single) / 3, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"dice": "linear", "include_background": True}])
@pytest.mark.parametrize("classes", [2, 3])
def test_gradcheck(classes, options):
    logits, seeds = random_case((3, 4), classes=classes)
    assert torch.autograd.gradcheck(lambda z: PartialLoss(**options)(z, seeds), logits)


def test_float32_inside_under_autocast():
    logits, seeds = random_case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PartialLoss()(logits.bfloat16(), seeds.to(torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == PartialLoss()(logits.bfloat16().float(), seeds).item()


def test_faults_are_named():
    logits, seeds = random_case()
    with pytest.raises(ValueError, match=r"classes 0 to 1 or 255, found .*2"):
        PartialLoss()(logits, torch.full_like(seeds, 2))
    with pytest.raises(ValueError, match=r"seeds \(B, 1, \*S\)"):
        PartialLoss()(logits, seeds[:, 0])
    with pytest.raises(ValueError, match="cubic"):
        PartialLoss(dice="cubic")
