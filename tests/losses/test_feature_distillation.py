# SPDX-License-Identifier: Apache-2.0
"""Mask-guided distillation of features (Eq. 4 of MMT-PSM) against loops over levels, views and pixels."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_ext.functional.distill import masks_of_levels
from monai_ext.losses.feature_distillation import MaskGuidedDistillationLoss

SIZES = [(8, 12), (4, 6), (2, 3)]

LOSS = MaskGuidedDistillationLoss()


def case(students=2, teachers=3, *, batch=2, channels=3, sizes=SIZES, dtype=torch.float64):
    """Features of a student's and a teacher's views on each level, and where there is foreground."""
    generator = torch.Generator().manual_seed(0)

    def draw(views):
        return [torch.randn(views, batch, channels, *s, generator=generator, dtype=torch.float64) for s in sizes]

    student, teacher = ([z.to(dtype) for z in draw(views)] for views in (students, teachers))
    masks = [torch.rand(batch, *s, generator=generator) < 0.4 for s in sizes]
    for mask in masks:
        mask[0, 0, :2] = torch.tensor([True, False])
    return [z.requires_grad_() for z in student], teacher, masks


def plain(student, teacher, masks):
    values = []
    for s, t, mask in zip(student, teacher, masks, strict=True):
        for mine, theirs in itertools.product(s.detach().double().numpy(), t.double().numpy()):
            total = 0.0
            for b, i, j in mask.nonzero().tolist():
                total += ((theirs[b, :, i, j] - mine[b, :, i, j]) ** 2).sum()
            values.append(total / (s.shape[2] * mask.sum().item()) if mask.any() else 0.0)
    return sum(values) / len(values)


def each(change, *sides):
    """The change made to every level of every side."""
    return [[change(z) for z in side] for side in sides]


def test_by_hand():
    student = [torch.zeros(1, 1, 1, 2, 4), torch.zeros(1, 1, 1, 1, 2)]
    teacher = [torch.arange(1.0, 9).reshape(1, 1, 1, 2, 4), torch.tensor([6.0, 7.0]).reshape(1, 1, 1, 1, 2)]
    image = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]], dtype=torch.bool)  # its left half is foreground in 3 of 4
    masks = [image, torch.tensor([[[True, False]]])]
    expected = ((1 + 4 + 25) / 3 + 36) / 2
    assert LOSS(student, teacher, masks).item() == pytest.approx(expected)
    assert LOSS(student, teacher, masks_of_levels(image, [(2, 4), (1, 2)])).item() == pytest.approx(expected)


@pytest.mark.parametrize("students", [1, 2])
@pytest.mark.parametrize("teachers", [1, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_loops(students, teachers, batch):
    inputs = case(students, teachers, batch=batch)
    assert LOSS(*inputs).item() == pytest.approx(plain(*inputs), rel=1e-10)


def test_zero_at_equality_and_only_there():
    student, teacher, masks = case(2, 3)
    same = [z[:1].detach().expand(2, -1, -1, -1, -1).clone().requires_grad_() for z in student]
    value = LOSS(same, [z[:1].expand(3, -1, -1, -1, -1) for z in same], masks)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert all(z.grad.abs().max() < 1e-12 for z in same)
    assert LOSS(student, teacher, masks) > 0.1


def test_only_the_foreground_counts_and_gets_gradient():
    student, teacher, masks = case()
    value = LOSS(student, teacher, masks)
    value.backward()
    for z, mask in zip(student, masks, strict=True):
        assert (z.grad != 0).all(2).equal(mask.expand(2, -1, -1, -1))
        assert (z.grad != 0).any(2).equal(mask.expand(2, -1, -1, -1))
    edited = [
        [z + shift * ~mask[:, None] for z, mask in zip(side, masks, strict=True)]
        for side, shift in ((student, 7), (teacher, -9))
    ]
    torch.testing.assert_close(LOSS(*edited, masks), value)


def test_what_leaves_it_as_it_is():
    student, teacher, masks = case()
    value = LOSS(student, teacher, masks)
    others = {
        "mirrored": LOSS(*each(lambda z: z.flip(-1), student, teacher, masks)),
        "views in another order": LOSS(*each(lambda z: z.flip(0), student, teacher), masks),
        "images in another order": LOSS(*each(lambda z: z.flip(-4), student, teacher), [m.flip(0) for m in masks]),
        "levels in another order": LOSS(student[::-1], teacher[::-1], masks[::-1]),
        "levels twice": LOSS(student * 2, teacher * 2, masks * 2),
        "channels twice": LOSS(*each(lambda z: z.repeat(1, 1, 2, 1, 1), student, teacher), masks),
        "twice the area": LOSS(*each(lambda z: torch.cat([z, z], -1), student, teacher, masks)),
    }
    for other in others.values():
        torch.testing.assert_close(other, value)


def test_it_is_the_mean_over_the_students_views_and_over_the_teachers():
    student, teacher, masks = case(2, 3)
    value = LOSS(student, teacher, masks)
    one = [LOSS([z[i : i + 1] for z in student], teacher, masks) for i in range(2)]
    torch.testing.assert_close(torch.stack(one).mean(), value)
    one = [LOSS(student, [z[i : i + 1] for z in teacher], masks) for i in range(3)]
    torch.testing.assert_close(torch.stack(one).mean(), value)
    torch.testing.assert_close(LOSS(*each(lambda z: 2 * z, student, teacher), masks), 4 * value)


def test_a_level_without_foreground_adds_nothing_and_still_counts():
    student, teacher, masks = case()
    masks = [masks[0], *(torch.zeros_like(mask) for mask in masks[1:])]  # too coarse for a small object
    value = LOSS(student, teacher, masks)
    torch.testing.assert_close(value, LOSS(student[:1], teacher[:1], masks[:1]) / 3)
    value.backward()
    assert student[0].grad.abs().max() > 0
    assert student[1].grad.abs().max() == student[2].grad.abs().max() == 0


def test_no_foreground_costs_nothing_and_keeps_the_graph():
    student, teacher, masks = case()
    value = LOSS(student, teacher, [torch.zeros_like(mask) for mask in masks])
    value.backward()
    assert value.item() == 0
    assert all(torch.equal(z.grad, torch.zeros_like(z)) for z in student)


def test_gradcheck_and_no_gradient_for_the_teacher():
    student, teacher, masks = case(2, 2, channels=1, sizes=SIZES[1:])
    assert torch.autograd.gradcheck(lambda *z: LOSS(z, teacher, masks), tuple(student))
    for z in teacher:
        z.requires_grad_()
    LOSS(student, teacher, masks).backward()
    assert all(z.grad.abs().max() > 0 for z in student)
    assert all(z.grad is None for z in teacher)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    student, teacher, masks = case()
    student, teacher = ([(200 * z.detach()).to(dtype) for z in side] for side in (student, teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSS(student, teacher, masks)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plain(student, teacher, masks), rel=1e-5)
    assert LOSS(*case()).dtype == torch.float64
