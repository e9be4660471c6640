# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.losses import MaskedConsistencyLoss


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.rand(2, 4, 5, generator=generator) > 0.5


@pytest.mark.parametrize("space", ["prob", "logit"])
def test_equals_a_loop_over_pixels(inputs, space):
    student, teacher, mask = inputs
    total, number = 0.0, 0
    for b, i, j in mask.nonzero().tolist():
        s, t = student[b, :, i, j], teacher[b, :, i, j]
        if space == "prob":
            s, t = s.exp() / s.exp().sum(), t.exp() / t.exp().sum()
        total, number = total + ((s - t) ** 2).sum().item(), number + 1
    assert MaskedConsistencyLoss(space)(*inputs).item() == pytest.approx(total / number, rel=1e-12)


def test_the_whole_image_is_classes_times_the_mean_square(inputs):
    student, teacher, mask = inputs
    found = MaskedConsistencyLoss("logit")(student, teacher, torch.ones_like(mask))
    assert found.item() == pytest.approx(3 * torch.nn.functional.mse_loss(student, teacher).item())
    # AC-MT repeats the mask for each class in the denominator: half of this at two classes
    pair = MaskedConsistencyLoss()(student[:, :2], teacher[:, :2], mask)
    squares = (student[:, :2].softmax(1) - teacher[:, :2].softmax(1)).square() * mask[:, None]
    assert (squares.sum() / (2 * mask.sum())).item() == pytest.approx(pair.item() / 2)


def test_pixels_outside_the_mask_do_not_count(inputs):
    student, teacher, mask = inputs
    loss = MaskedConsistencyLoss()
    other = torch.where(mask[:, None], teacher, teacher + 7)
    assert torch.equal(loss(student, teacher, mask), loss(student, other, mask))
    loss(student, teacher, mask).backward()
    assert (student.grad.abs().sum(1) > 0).equal(mask)


def test_an_empty_mask_costs_nothing(inputs):
    student, teacher, mask = inputs
    value = MaskedConsistencyLoss()(student, teacher, torch.zeros_like(mask))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("space", ["prob", "logit"])
def test_gradient(inputs, space):
    student, teacher, mask = inputs
    teacher.requires_grad_()
    loss = MaskedConsistencyLoss(space)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, mask), student)
    loss(student, teacher, mask).backward()
    assert teacher.grad is None
    assert loss(teacher, teacher, mask).item() == 0


def test_half_precision_is_widened(inputs):
    student, teacher, mask = inputs
    found = MaskedConsistencyLoss()(student.half(), teacher.half(), mask)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(MaskedConsistencyLoss()(*inputs).item(), rel=1e-2)


def test_what_does_not_fit(inputs):
    student, teacher, mask = inputs
    with pytest.raises(ValueError, match="space"):
        MaskedConsistencyLoss("both")
    with pytest.raises(ValueError, match="mask"):
        MaskedConsistencyLoss()(student, teacher, mask[:1])
