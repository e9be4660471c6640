# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from monai_ext.losses.distillation import SoftLabelDistillationLoss

DIRECTIONS = ("teacher_student", "student_teacher")


def random_case(shape=(3, 2, 4), *, classes=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    student, teacher = (2 * torch.randn(2, classes, *shape, generator=generator, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("teacher_student", 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)),
        ("student_teacher", 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)),
    ],
)
def test_one_voxel_by_hand(direction, expected):
    student = torch.tensor([0.0, 2 * math.log(3.0)], dtype=torch.float64).reshape(1, 2, 1)  # s = 3/4 at T = 2
    loss = SoftLabelDistillationLoss(temperature=2, direction=direction, scale_by_t2=False)
    assert loss(student, torch.zeros_like(student)).item() == pytest.approx(expected)
    loss = SoftLabelDistillationLoss(temperature=2, direction=direction)
    assert loss(student, torch.zeros_like(student)).item() == pytest.approx(4 * expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(3, 2, 4), (5, 3)])
def test_equals_a_loop_over_voxels(shape, direction):
    student, teacher = random_case(shape, classes=3)
    total, count = 0.0, 0
    for s, t in zip(student.movedim(1, -1).reshape(-1, 3), teacher.movedim(1, -1).reshape(-1, 3), strict=True):
        s, t = (v.div(4).exp() / v.div(4).exp().sum() for v in (s, t))
        p, q = (t, s) if direction == "teacher_student" else (s, t)
        total += sum((p[c] * (p[c] / q[c]).log()).item() for c in range(3))
        count += 1
    loss = SoftLabelDistillationLoss(direction=direction)
    assert loss(student, teacher).item() == pytest.approx(16 * total / count, rel=1e-10)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_with_zero_gradient_at_equality_and_positive_elsewhere(direction):
    student, teacher = random_case()
    loss = SoftLabelDistillationLoss(direction=direction)
    equal = loss(student, student.detach() + 5)  # logits differ by a constant: same prediction
    equal.backward()
    assert equal.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12
    assert loss(student, teacher) > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_closed_form_gradient(temperature):
    student, teacher = random_case()
    SoftLabelDistillationLoss(temperature=temperature)(student, teacher).backward()
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    voxels = student.numel() / 2
    assert torch.allclose(student.grad, temperature * difference.detach() / voxels, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_teacher_gets_no_gradient(direction):
    student, teacher = random_case()
    SoftLabelDistillationLoss(direction=direction)(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction):
    student, teacher = random_case((2, 3), classes=3)
    loss = SoftLabelDistillationLoss(direction=direction)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher.detach()), student)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_extreme_logits_are_finite_in_float32_under_autocast(direction):
    student = torch.tensor([1e4, -1e4]).reshape(1, 2, 1).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = SoftLabelDistillationLoss(direction=direction)(student, -student.detach())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_faults_are_named():
    student, teacher = random_case()
    with pytest.raises(ValueError, match="equal shapes"):
        SoftLabelDistillationLoss()(student, teacher[:1])
    with pytest.raises(ValueError, match="sideways"):
        SoftLabelDistillationLoss(direction="sideways")
    with pytest.raises(ValueError, match="positive, found 0"):
        SoftLabelDistillationLoss(temperature=0)
