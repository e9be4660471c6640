# SPDX-License-Identifier: Apache-2.0
"""Relations against slow loops over instances, pairs and groups, and on duplicates that only a relation can tell."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.networks.instance_relation import (
    DuplicateRemoval,
    InstanceRelation,
    overlap_targets,
    relative_geometry,
    sinusoids,
)

LABELS = torch.tensor([1, 2, 1, 1, 2, 1, 1, 2])
IMAGE = torch.tensor([0, 0, 0, 1, 0, 1, 0, 1])  # three, two, two and one alone


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def relation(*, gamma=0.7):
    module = InstanceRelation(6, 3, embedding=4)
    nn.init.constant_(module.gamma, gamma)
    return module


def instances(number=8):
    return torch.randn(number, 6, 4, 4, requires_grad=True), torch.randn(number, 8, 8, requires_grad=True)


def refine_slowly(module, pooled, masks, labels, image):
    """One instance after the other, each with a loop over those of its class and image."""
    x = module.mix(torch.cat([pooled, F.max_pool2d(masks.sigmoid()[:, None], 2)], 1))
    f, refined = module.embed(x), []
    for i in range(len(x)):
        same = [j for j in range(len(x)) if labels[j] == labels[i] and image[j] == image[i]]
        energies = torch.stack([-sum((a * b).sum() for a, b in zip(f[i], f[j], strict=True)) / 4 for j in same])
        weights = (energies - energies.max()).exp()
        seen = sum(w * x[j] for w, j in zip(weights / weights.sum(), same, strict=True))
        refined.append(module.predictor((x[i] + module.gamma * seen)[None])[0, labels[i]])
    return torch.stack(refined)


def random_boxes(*shape):
    corner, size = 80 * torch.rand(*shape, 2), 5 + 30 * torch.rand(*shape, 2)
    return torch.cat([corner, corner + size], -1)


def removal(*, std=0.4, hidden=5, **kwargs):
    """Small, with weights so large that all its parts matter."""
    module = DuplicateRemoval(hidden, **({"embedding": 12, "groups": 3, "geometry": 16} | kwargs))
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


def judge_slowly(module, hidden, boxes):
    """Hu et al., Eq. 2 to 5, for one class, box and group after the other."""
    width, answers = module.embedding // module.groups, torch.zeros(boxes.shape[:2])
    for g in range(boxes.shape[0]):
        ranks = [sinusoids(torch.tensor(float(n)), module.embedding) for n in range(boxes.shape[1])]
        f = [module.embed(h) + module.rank(r) for h, r in zip(hidden[g], ranks, strict=True)]
        query, key, value = zip(*(module.attend(x).split(module.embedding) for x in f), strict=True)
        pairs = relative_geometry(boxes[g : g + 1])[0]
        for n in range(len(f)):
            heads = []
            for head in range(module.groups):
                part, energies = slice(head * width, (head + 1) * width), []
                for m in range(len(f)):
                    code = torch.cat([sinusoids(x, module.geometry // 4) for x in pairs[n, m]])
                    near = module.place(code)[head].clamp_min(1e-6).log()
                    energies.append(float(near + query[n][part] @ key[m][part] / math.sqrt(width)))
                most = sorted(range(len(f)), key=lambda m: -energies[m])[: module.neighbours]
                weights = [math.exp(energies[m]) for m in most]
                heads.append(sum(w * value[m][part] for w, m in zip(weights, most, strict=True)) / sum(weights))
            answers[g, n] = module.judge((f[n] + torch.cat(heads)).relu())
    return answers


# Masks refined by the others


def test_relation_and_its_gradients_equal_a_slow_loop():
    module, (pooled, masks) = relation(), instances()
    found, slow = (run(pooled, masks, LABELS, IMAGE) for run in (module, lambda *x: refine_slowly(module, *x)))
    assert found.shape == (8, 8, 8)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)
    weight, inputs = torch.randn_like(found), [pooled, masks, *module.parameters()]
    mine, theirs = (torch.autograd.grad((x * weight).sum(), inputs) for x in (found, slow))
    for a, b in zip(mine, theirs, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@torch.no_grad()
def test_at_first_an_instance_does_not_see_the_others():
    fresh, (pooled, masks) = InstanceRelation(6, 3, embedding=4), instances()
    assert fresh.gamma == 0
    for module, alike in ((fresh, True), (relation(), False)):
        found = module(pooled, masks, LABELS, IMAGE)
        alone = torch.cat([module(pooled[n, None], masks[n, None], LABELS[n, None], IMAGE[n, None]) for n in range(7)])
        assert torch.allclose(found[:7], alone, atol=1e-5) == alike
        x = fresh.mix(torch.cat([pooled, F.max_pool2d(masks.sigmoid()[:, None], 2)], 1))
        if alike:
            torch.testing.assert_close(found, fresh.predictor(x)[torch.arange(8), LABELS])


@torch.no_grad()
def test_other_classes_other_images_and_the_order_do_not_matter():
    module, (pooled, masks) = relation(), instances()
    found = module(pooled, masks, LABELS, IMAGE)
    mine = (LABELS == 1) & (IMAGE == 0)
    other = instances()
    for new, old in zip(other, (pooled, masks), strict=True):
        new[mine] = old[mine]
    changed = module(*other, LABELS, IMAGE)
    torch.testing.assert_close(changed[mine], found[mine])
    assert (changed - found)[~mine].abs().amax((1, 2)).min() > 1e-3
    order = torch.randperm(8)
    torch.testing.assert_close(module(pooled[order], masks[order], LABELS[order], IMAGE[order]), found[order])
    copies = [x[:1].expand(5, *x.shape[1:]) for x in (pooled, masks)]
    alone = module(pooled[:1], masks[:1], LABELS[:1], IMAGE[:1])
    torch.testing.assert_close(module(*copies, LABELS[:1].expand(5), IMAGE[:1].expand(5)), alone.expand(5, 8, 8))


def test_without_instances_there_is_a_graph():
    module, (pooled, masks) = relation(), instances(0)
    found = module(pooled, masks, LABELS[:0], IMAGE[:0])
    assert found.shape == (0, 8, 8)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


@torch.no_grad()
def test_relation_scripted_and_in_lower_precision():
    module = relation()
    scripted = torch.jit.script(module)
    for number in (8, 1, 0):
        pooled, masks = instances(number)
        found = module(pooled, masks, LABELS[:number], IMAGE[:number])
        torch.testing.assert_close(scripted(pooled, masks, LABELS[:number], IMAGE[:number]), found)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = module(pooled.bfloat16(), masks, LABELS[:number], IMAGE[:number])
        assert coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, found, rtol=0.1, atol=0.1)


# Places of boxes


def test_sinusoids_by_hand():
    values = torch.tensor([[0.0, 1.0, -2.5], [30.0, 700.0, -690.0]])
    found = sinusoids(values, 6)
    assert found.shape == (2, 3, 6)
    for value, row in zip(values.flatten().tolist(), found.reshape(6, 6), strict=True):
        angles = [value / 1000 ** (k / 3) for k in range(3)]
        expected = [math.sin(x) for x in angles] + [math.cos(x) for x in angles]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_geometry_equals_a_double_loop():
    boxes = random_boxes(2, 5)
    found = relative_geometry(boxes)
    assert found.shape == (2, 5, 5, 4)
    for g in range(2):
        for n, a in enumerate(boxes[g].tolist()):
            for m, b in enumerate(boxes[g].tolist()):
                sizes = [(a[2] - a[0], b[2] - b[0]), (a[3] - a[1], b[3] - b[1])]
                away = [abs(a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)]
                expected = [100 * math.log(second / first) for first, second in sizes]
                torch.testing.assert_close(found[g, n, m, 2:], torch.tensor(expected), rtol=1e-4, atol=1e-3)
                if n != m:
                    expected = [100 * math.log(d / first) for d, (first, _) in zip(away, sizes, strict=True)]
                    torch.testing.assert_close(found[g, n, m, :2], torch.tensor(expected), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(relative_geometry(2 * boxes), found)


def test_equal_centres_are_finite():
    boxes = torch.tensor([[[2.0, 2.0, 6.0, 6.0], [3.0, 1.0, 5.0, 7.0], [2.0, 2.0, 6.0, 6.0]]], requires_grad=True)
    found = relative_geometry(boxes)
    assert found.isfinite().all()
    assert not torch.autograd.grad(found[..., :2].sum(), boxes)[0].any()


# Duplicates


@pytest.mark.parametrize("neighbours", [1, 3, 40])
@torch.no_grad()
def test_removal_equals_a_slow_loop(neighbours):
    module, hidden, boxes = removal(neighbours=neighbours), torch.randn(2, 7, 5), random_boxes(2, 7)
    boxes[0, 4] = boxes[0, 1]
    found = module(hidden, boxes)
    torch.testing.assert_close(found, judge_slowly(module, hidden, boxes), rtol=1e-3, atol=1e-4)
    assert found.std() > 0.1
    torch.testing.assert_close(module(hidden, boxes * 2 + 30), found, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(module(hidden[1:], boxes[1:]), found[1:])


@pytest.mark.parametrize(("neighbours", "reached"), [(1, 2), (3, 4), (8, 8), (40, 8)])
def test_a_box_attends_to_its_neighbours_only(neighbours, reached):
    module = removal(neighbours=neighbours, groups=1)
    hidden, boxes = torch.randn(1, 8, 5, requires_grad=True), random_boxes(1, 8)
    found = module(hidden, boxes)[0]
    counts = [int(torch.autograd.grad(x, hidden, retain_graph=True)[0].any(2).sum()) for x in found]
    assert max(counts) == reached
    assert min(counts) >= min(neighbours, 8)


def test_gradient_reaches_all_of_the_removal_but_no_box():
    module = removal()
    hidden, boxes = torch.randn(2, 6, 5, requires_grad=True), random_boxes(2, 6).requires_grad_()
    module(hidden, boxes).sum().backward()
    assert boxes.grad is None
    assert hidden.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


@torch.no_grad()
def test_the_most_probable_boxes_of_each_class():
    module = removal(boxes=4)
    scripted = torch.jit.script(module)
    hidden, boxes, probs = torch.randn(6, 5), random_boxes(6, 3), torch.randn(6, 3).softmax(1)
    for number in (6, 3, 1):
        found = module.ranked(hidden[:number], boxes[:number], probs[:number])
        for c in (1, 2):
            order = sorted(range(number), key=lambda n, c=c: -float(probs[n, c]))[:4]
            expected = boxes[order, c], probs[order, c], module(hidden[order][None], boxes[order, c][None])[0]
            for mine, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(mine[c - 1], theirs)
        for mine, theirs in zip(scripted.ranked(hidden[:number], boxes[:number], probs[:number]), found, strict=True):
            torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_removal_scripted():
    module = removal(neighbours=3)
    scripted = torch.jit.script(module)
    for number in (7, 1):
        hidden, boxes = torch.randn(2, number, 5), random_boxes(2, number)
        torch.testing.assert_close(scripted(hidden, boxes), module(hidden, boxes))


@pytest.mark.parametrize("scripted", [False, True])
def test_no_boxes(scripted):
    module = torch.jit.script(removal()) if scripted else removal()
    found = module(torch.zeros(2, 0, 5), torch.zeros(2, 0, 4))
    assert found.shape == (2, 0)
    found.sum().backward()
    ranked = module.ranked(torch.zeros(0, 5), torch.zeros(0, 3, 4), torch.zeros(0, 3))
    assert [tuple(x.shape) for x in ranked] == [(2, 0, 4), (2, 0), (2, 0)]


def test_scores_lie_between_0_and_1():
    module, answers = removal(), torch.tensor([[1.7, 0.5, -0.3, 0.9]])
    ranked = (
        torch.tensor([[[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]]]),
        answers * 0 + 0.5,
        answers,
    )
    _, scores, labels = module.detections(ranked, least_score=0.1, nms_iou=0.5, most=9)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.9, 0.5]))
    assert labels.tolist() == [1, 1, 1]


def test_it_learns_which_of_two_identical_boxes_is_the_first():
    module = DuplicateRemoval(8, embedding=32, groups=4, geometry=32)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=3e-3), []
    for _ in range(400):
        order = torch.rand(16, 6).argsort(1) // 2  # three objects, twice each, in any order
        place = order[..., None]
        hidden = torch.randn(16, 3, 8).gather(1, place.expand(-1, -1, 8))
        truth = random_boxes(16, 3)
        boxes = truth.gather(1, place.expand(-1, -1, 4))
        target = torch.tensor([[float(n not in row[:i]) for i, n in enumerate(row)] for row in order.tolist()])
        loss = F.mse_loss(module(hidden, boxes), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])


# What to answer


def test_targets_by_hand():
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 5],  # half of the first
            [0, 0, 10, 10],  # all of it, but later
            [19, 0, 20, 10],  # touches the second
            [20, 0, 30, 0.5],  # too little of it
            [20, 0, 29, 10],
            [70, 0, 80, 10],
            [21, 0, 30, 10],
        ]
    )
    boxes.requires_grad_()
    found = overlap_targets(boxes, truth)
    torch.testing.assert_close(found, torch.tensor([0.5, 0, 0, 0, 0.9, 0, 0]))
    assert not found.requires_grad
    torch.testing.assert_close(overlap_targets(boxes, truth, least_iou=0.5), torch.tensor([0, 1.0, 0, 0, 0.9, 0, 0]))
    assert torch.equal(overlap_targets(boxes, truth[:0]), torch.zeros(7))
    assert torch.equal(overlap_targets(boxes[:0], truth), torch.zeros(0))
    stacked = torch.tensor([[0.0, 7, 10, 20], [0, 0, 10, 10]])  # a box over both belongs to the second
    torch.testing.assert_close(overlap_targets(torch.tensor([[0.0, 0, 10, 14]]), stacked), torch.tensor([10 / 14]))


def test_targets_equal_a_slow_loop():
    for number in (1, 3, 6):
        boxes, truth = random_boxes(200), random_boxes(number)
        expected, taken = [], set()
        for a in boxes.tolist():
            overlaps = []
            for b in truth.tolist():
                both = math.prod(max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0) for k in (0, 1))
                areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
                overlaps.append(both / (areas - both))
            best = overlaps.index(max(overlaps))
            first = overlaps[best] > 0.1 and best not in taken
            expected.append(overlaps[best] if first else 0.0)
            taken |= {best} if first else set()
        assert len(taken) > number // 2
        torch.testing.assert_close(overlap_targets(boxes, truth), torch.tensor(expected))
