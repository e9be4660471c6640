# SPDX-License-Identifier: Apache-2.0
"""Soft cross-entropy on mined samples (Eq. 1 to 3 of MMT-PSM) against a loop over samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import entr, softmax
from torch.nn import functional as F

from monai_ext.losses.sensitivity import SensitiveSampleLoss

CODE = {"mean_of": "logits", "measure": "deviation", "background_share": 0.5}
OPTIONS = {
    "paper": {},
    "code": CODE,
    "all": {"background_share": None},
    "none": {"background_share": 0},
    "many": {"background_share": 1e6, "background_weight": 0.25},
    "mild": {"temperature": 2.0, "mean_of": "logits"},
    "flat": {"temperature": 1.0, "background_weight": 3.0, "measure": "deviation"},
}


def case(students=2, teachers=4, samples=40, classes=3, *, background=1.5, dtype=torch.float64):
    """Logits of a student's views and of a teacher's, most of whose samples are background."""
    generator = torch.Generator().manual_seed(3)
    base = 2 * torch.randn(samples, classes, generator=generator, dtype=dtype)
    base[:, 0] += background
    student, teacher = (
        base + torch.randn(views, samples, classes, generator=generator, dtype=dtype) for views in (students, teachers)
    )
    return student.requires_grad_(), teacher


def plain_targets(teacher, *, temperature, background_weight, background_share, mean_of, measure):
    """Soft labels, and the weight of each sample: None for one that is left out."""
    teacher = teacher.numpy()
    probs = softmax(teacher, axis=-1)
    labels, weights, scores = [], [], []
    for r in range(teacher.shape[1]):
        mean = probs[:, r].mean(0) if mean_of == "probs" else softmax(teacher[:, r].mean(0))
        labels.append(mean ** (1 / temperature) / (mean ** (1 / temperature)).sum())
        weights.append(background_weight if max(range(len(mean)), key=lambda c: mean[c]) == 0 else 1.0)
        squares = ((probs[:, r] - probs[:, r].mean(0)) ** 2).sum(0)
        variance, deviation = squares / len(teacher), np.sqrt(squares / max(len(teacher) - 1, 1))
        scores.append((variance if measure == "variance" else deviation).sum())
    hard = [max(range(len(label)), key=lambda c: label[c]) for label in labels]
    background = sorted((r for r in range(len(hard)) if hard[r] == 0), key=lambda r: -scores[r])
    if background_share is not None:
        for r in background[math.floor(background_share * (len(hard) - len(background))) :]:
            weights[r] = None
    return labels, weights


def plain(student, teacher, **options):
    defaults = {"temperature": 0.5, "background_weight": 1.5, "background_share": 1.0}
    settings = {**defaults, "mean_of": "probs", "measure": "variance", **options}
    labels, weights = plain_targets(teacher, **settings)
    total, number = 0.0, 0
    for view in student.detach().numpy():
        for logits, label, weight in zip(view, labels, weights, strict=True):
            if weight is not None:
                total += weight * sum(-label[c] * math.log(softmax(logits)[c]) for c in range(len(label)))
                number += 1
    return total / number if number else 0.0


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("views", [(1, 2), (3, 5)])
def test_equals_a_loop_over_samples(name, views):
    student, teacher = case(*views)
    expected = plain(student, teacher, **OPTIONS[name])
    assert expected > 0.01
    assert SensitiveSampleLoss(**OPTIONS[name])(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_the_options_differ():
    student, teacher = case()
    values = [SensitiveSampleLoss(**options)(student, teacher).item() for options in OPTIONS.values()]
    values += [SensitiveSampleLoss(**{name: value})(student, teacher).item() for name, value in CODE.items()]
    assert len({round(value, 6) for value in values}) >= len(OPTIONS) + 2  # the two measures may rank alike


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("background", [-40, 0, 1.5, 40])
def test_of_mined_samples_alone_it_is_the_same(name, background):
    student, teacher = case(background=background)
    loss = SensitiveSampleLoss(**OPTIONS[name])
    kept = loss.mined(teacher)
    assert kept.equal(loss.targets(teacher)[2])
    torch.testing.assert_close(loss(student[:, kept], teacher[:, kept]), loss(student, teacher))


THREE = torch.tensor(
    [  # two views of a cell, of a background that is unsure (mean 0.8, 0.2) and of one that is not
        [[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]],
        [[0.2, 0.8], [0.7, 0.3], [0.6, 0.4]],
    ],
    dtype=torch.float64,
).log()


def test_three_samples_by_hand():
    even = torch.zeros(1, 3, 2, dtype=torch.float64)
    assert SensitiveSampleLoss()(even, THREE).item() == pytest.approx((1 + 1.5) / 2 * math.log(2))
    everything = SensitiveSampleLoss(background_share=None)(even, THREE)
    assert everything.item() == pytest.approx((1 + 1.5 + 1.5) / 3 * math.log(2))
    student = torch.tensor([0.25, 0.75], dtype=torch.float64).log().expand(1, 3, 2)
    cell = -(4 * math.log(0.25) + 64 * math.log(0.75)) / 68
    unsure = -(64 * math.log(0.25) + 4 * math.log(0.75)) / 68
    assert SensitiveSampleLoss()(student, THREE).item() == pytest.approx((cell + 1.5 * unsure) / 2)
    assert SensitiveSampleLoss(background_share=0.5)(student, THREE).item() == pytest.approx(cell)


def test_targets_by_hand():
    labels, weights, mined = SensitiveSampleLoss().targets(THREE.clone().requires_grad_())
    expected = np.array([[4 / 68, 64 / 68], [64 / 68, 4 / 68], [36 / 52, 16 / 52]])
    np.testing.assert_allclose(labels, expected, rtol=1e-10)
    assert weights[:2].tolist() == [1, 1.5]
    assert mined.tolist() == [True, True, False]
    assert SensitiveSampleLoss(background_share=None).targets(THREE)[2].all()
    assert not labels.requires_grad
    assert not weights.requires_grad


def test_certain_labels_give_cross_entropy():
    student, _ = case(1)
    hard = torch.arange(40) % 3
    teacher = 500 * F.one_hot(hard, 3).double().expand(2, -1, -1)
    found = SensitiveSampleLoss(background_share=None, background_weight=1)(student, teacher)
    torch.testing.assert_close(found, F.cross_entropy(student[0], hard))
    found = SensitiveSampleLoss(background_share=None)(student, teacher)  # over their number, not their weights
    each = F.cross_entropy(student[0], hard, weight=torch.tensor([1.5, 1, 1]).double(), reduction="none")
    torch.testing.assert_close(found, each.mean())


def test_the_weight_scales_the_background_alone():
    student, teacher = case()
    values = {w: SensitiveSampleLoss(background_weight=w)(student, teacher).item() for w in (0.5, 1, 1.5)}
    half = values[1] - values[0.5]
    assert half > 0.01
    assert values[1.5] == pytest.approx(values[1] + half)
    cells = SensitiveSampleLoss(background_share=0)(student, teacher).item()
    assert values[1] - 2 * half == pytest.approx(cells / 2)  # the other half of the mined samples


def test_background_of_no_weight_is_still_counted():
    student, teacher = case()
    found = SensitiveSampleLoss(background_weight=0)(student, teacher).item()
    assert found == pytest.approx(plain(student, teacher, background_weight=0))
    assert found == pytest.approx(SensitiveSampleLoss(background_weight=1e-12)(student, teacher).item())


def test_the_released_codes_value_is_a_third():
    student, teacher = case(1)
    target = (2 * teacher.mean(0)).softmax(-1)
    cell = target.argmax(-1) > 0
    score = np.std(softmax(teacher.numpy(), axis=-1), axis=0, ddof=1).sum(-1)
    unsure = sorted(np.flatnonzero(~cell), key=lambda r: -score[r])[: int(cell.sum()) // 2]
    weight = cell.double()
    weight[torch.tensor(unsure)] = 1.5
    each = -(target * student[0].log_softmax(-1)).sum(-1)
    value = (weight * each).sum() / (weight > 0).sum() / 3
    torch.testing.assert_close(SensitiveSampleLoss(**CODE)(student, teacher) / 3, value)


def test_no_gradient_at_the_target_nor_at_samples_left_out():
    student, teacher = case()
    labels, weights, kept = SensitiveSampleLoss().targets(teacher)
    weights = weights * kept
    at_target = (labels.log() + 3).expand(2, -1, -1).clone().requires_grad_()
    value = SensitiveSampleLoss()(at_target, teacher)
    value.backward()
    assert at_target.grad.abs().max() < 1e-12
    entropies = entr(labels.numpy()).sum(-1) * weights.numpy()
    assert value.item() == pytest.approx(entropies.sum() / kept.sum().item())
    assert value < SensitiveSampleLoss()(student, teacher)
    SensitiveSampleLoss()(student, teacher).backward()
    assert 0 < kept.sum() < 40
    assert (student.grad.abs().sum(-1) > 0).equal(kept.expand(2, -1))
    expected = weights[:, None] * (student.detach().softmax(-1) - labels) / (2 * kept.sum())
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_order_of_views_samples_and_classes_and_the_level_of_the_logits(name):
    student, teacher = case()
    loss = SensitiveSampleLoss(**OPTIONS[name])
    value = loss(student, teacher)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    others = [
        loss(student.flip(0), teacher.flip(0)),
        loss(student[:, order], teacher[:, order]),
        loss(student[..., [0, 2, 1]], teacher[..., [0, 2, 1]]),
        loss(student + 5, teacher - 9),
        torch.stack([loss(view[None], teacher) for view in student]).mean(),
    ]
    for other in others:
        torch.testing.assert_close(other, value)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck_and_no_gradient_for_the_teacher(name):
    student, teacher = case(2, 3, 8, background=0)
    loss = SensitiveSampleLoss(**OPTIONS[name])
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), student)
    loss(student, teacher.requires_grad_()).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", ["paper", "code", "none", "many"])
def test_a_batch_of_background_costs_nothing_and_keeps_the_graph(name):
    student, teacher = case(background=40)
    value = SensitiveSampleLoss(**OPTIONS[name])(student, teacher)
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("name", OPTIONS)
def test_no_sample_one_sample_and_no_background(name):
    loss = SensitiveSampleLoss(**OPTIONS[name])
    student, teacher = case(samples=0)
    value = loss(student, teacher)
    value.backward()
    assert value.item() == 0
    assert student.grad.shape == student.shape
    for samples in (1, 40):
        student, teacher = case(samples=samples, background=-40)
        assert loss(student, teacher).item() == pytest.approx(plain(student, teacher, **OPTIONS[name]))


def test_all_samples_of_background_count_where_none_is_mined():
    student, teacher = case(background=40)
    found = SensitiveSampleLoss(background_share=None)(student, teacher)
    assert found.item() == pytest.approx(plain(student, teacher, background_share=None))
    assert found > 0


def test_one_view_of_the_teacher_and_ties_take_the_earlier():
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [3.0, 0.0]]])
    student = torch.zeros(1, 4, 2, requires_grad=True)
    SensitiveSampleLoss()(student, teacher).backward()
    assert (student.grad.abs().sum(-1) > 0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    student, teacher = (z.detach().to(dtype) for z in case())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SensitiveSampleLoss()(student.requires_grad_(), teacher)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(plain(student.double(), teacher.double()), rel=1e-5)
    assert student.grad.dtype == dtype
    assert SensitiveSampleLoss()(*case()).dtype == torch.float64


def test_extreme_logits_are_finite():
    teacher = torch.tensor([[[6e4, -6e4], [-6e4, 6e4]], [[-6e4, 6e4], [-6e4, 6e4]]], dtype=torch.float16)
    student = (-teacher).requires_grad_()
    value = SensitiveSampleLoss(background_share=None)(student, teacher)
    value.backward()
    assert value.isfinite()
    assert value > 1e4
    assert student.grad.isfinite().all()


def test_faults_are_named():
    student, teacher = case()
    with pytest.raises(ValueError, match="background_weight"):
        SensitiveSampleLoss(background_weight=-1)
    for options, message in [
        ({"temperature": 0}, "temperature"),
        ({"temperature": -0.5}, "temperature"),
        ({"background_share": -0.5}, "share"),
        ({"mean_of": "votes"}, "votes"),
        ({"measure": "range"}, "range"),
    ]:
        with pytest.raises(ValueError, match=message):
            SensitiveSampleLoss(**options)(student, teacher)
    with pytest.raises(ValueError, match="2"):
        SensitiveSampleLoss(measure="deviation")(student, teacher[:1])
    with pytest.raises(ValueError, match="view"):
        SensitiveSampleLoss()(student, teacher[:0])
