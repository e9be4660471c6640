# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from monai_ext.losses.consistency import CoTeachingLoss, CrossPseudoLoss, small_loss_selection


def random_case(shape=(3, 2, 4), *, classes=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)
    first, second = (torch.randn(2, classes, *shape, generator=generator, dtype=dtype) for _ in range(2))
    labels = torch.randint(0, classes, (2, 1, *shape), generator=generator)
    return first.requires_grad_(), second.requires_grad_(), labels


def test_cross_pseudo_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64).T[None]  # p = 1/4, 3/4
    other = torch.tensor([[5.0, 4.0], [-1.0, 0.0]], dtype=torch.float64).T[None]  # says 0, then 1
    assert CrossPseudoLoss()(logits, other).item() == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2)


def test_cross_pseudo_is_lowest_where_both_agree():
    logits, other, _ = random_case()
    assert CrossPseudoLoss()(50 * other.detach(), other) < CrossPseudoLoss()(logits, other)
    assert CrossPseudoLoss()(logits, other).item() == CrossPseudoLoss()(logits, 7 * other + 1).item()


def test_selection_by_hand():
    losses = torch.tensor([[0.3, 0.1], [0.9, 0.2]])
    assert small_loss_selection(losses, keep_fraction=0.5).tolist() == [[False, True], [False, True]]
    assert small_loss_selection(losses, keep_fraction=1.0).all()
    assert small_loss_selection(losses, keep_fraction=1e-9).nonzero().tolist() == [[0, 1]]


def test_selection_keeps_exactly_its_share_of_equal_losses():
    assert small_loss_selection(torch.zeros(5, 8), keep_fraction=0.3).sum() == 12


def test_co_teaching_by_hand():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    other = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 2.0], [2.0, 0.0]], dtype=torch.float64).T[None]
    logits = torch.tensor([[0.0, math.log(3)]] * 4, dtype=torch.float64).T[None]
    # The other network agrees with voxels 0 and 2, where this one gives the label 1/4 and 3/4.
    expected = -(math.log(0.25) + math.log(0.75)) / 2
    assert CoTeachingLoss(keep_fraction=0.5)(logits, other, labels).item() == pytest.approx(expected)
    assert CoTeachingLoss()(logits, other, labels, keep_fraction=0.5).item() == pytest.approx(expected)
    # Ranked by itself this network would have taken two voxels of label 1.
    assert CoTeachingLoss(keep_fraction=0.5)(logits, logits, labels).item() == pytest.approx(-math.log(0.75))


def test_co_teaching_of_all_voxels_is_plain_cross_entropy():
    logits, other, labels = random_case(classes=3)
    expected = F.cross_entropy(logits, labels[:, 0])
    assert CoTeachingLoss(keep_fraction=1.0)(logits, other, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_voxels_left_out_get_no_gradient():
    logits, other, labels = random_case()
    CoTeachingLoss(keep_fraction=0.25)(logits, other, labels).backward()
    assert (logits.grad != 0).any(1).sum() == 12


def calls():
    return {"cross_pseudo": lambda a, b, y: CrossPseudoLoss()(a, b), "co_teaching": CoTeachingLoss(keep_fraction=0.5)}


@pytest.mark.parametrize("name", list(calls()))
@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 4)])
def test_only_the_learning_network_gets_a_gradient(shape, name):
    logits, other, labels = random_case(shape)
    calls()[name](logits, other, labels).backward()
    assert logits.grad.abs().max() > 0
    assert other.grad is None


@pytest.mark.parametrize("name", list(calls()))
def test_gradcheck(name):
    logits, other, labels = random_case((2, 3), classes=3)
    assert torch.autograd.gradcheck(lambda z: calls()[name](z, other.detach(), labels), logits)


@pytest.mark.parametrize("name", list(calls()))
def test_float32_inside_under_autocast(name):
    logits, other, labels = random_case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = calls()[name](logits.bfloat16(), other, labels.to(torch.uint8))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(calls()[name](logits.bfloat16().float(), other, labels).item(), rel=1e-6)


def test_faults_are_named():
    logits, other, labels = random_case()
    with pytest.raises(ValueError, match="equal shapes"):
        CrossPseudoLoss()(logits, other[:1])
    with pytest.raises(ValueError, match="Pseudo labels must have shape"):
        CoTeachingLoss()(logits, other, labels[:, 0])
    with pytest.raises(ValueError, match="found 0"):
        small_loss_selection(torch.zeros(3), keep_fraction=0)
    with pytest.raises(ValueError, match=r"found 1\.5"):
        CoTeachingLoss(keep_fraction=1.5)
