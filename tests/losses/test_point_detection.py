# SPDX-License-Identifier: Apache-2.0
"""Detection by points (Eq. 3) against torchvision's and MONAI's focal loss, torch's Huber loss and a KD-tree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from scipy.spatial import cKDTree
from torchvision.ops import sigmoid_focal_loss

from monai_ext.losses import PointDetectionLoss

EXTENT, BATCH = (48, 64), 2


def levels_of(*strides, seed=0, dtype=torch.float64, batch=BATCH, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride in strides:
        shape = tuple(side // stride for side in EXTENT)
        scores = scale * torch.randn(batch, 1, *shape, generator=generator, dtype=dtype)
        offset = 2 * torch.randn(batch, 2, *shape, generator=generator, dtype=dtype)  # both branches of the Huber loss
        levels.append((scores.requires_grad_(), offset.requires_grad_(), stride))
    return levels


def points_of(number, *, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0, EXTENT, (number, 2))), torch.from_numpy(rng.integers(0, batch, number))


def flat_targets(levels, locations, image, radius_px):
    """Scores, labels, offsets and their targets, all levels and images one after the other."""
    scores, labels, offsets, wanted = [], [], [], []
    for score, offset, stride in levels:
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in score.shape[2:]), indexing="ij"), -1) + 0.5
        for b in range(len(score)):
            mine = locations[image == b].numpy()
            distance, which = cKDTree(mine).query(grid * stride)
            labels.append(torch.from_numpy(distance < radius_px).flatten())
            wanted.append(torch.from_numpy(mine[which] / stride - grid).flatten(0, 1))
            scores.append(score[b].flatten())
            offsets.append(offset[b].flatten(1).T)
    return torch.cat(scores), torch.cat(labels).double(), torch.cat(offsets), torch.cat(wanted)


@pytest.mark.parametrize("strides", [(4,), (4, 8, 16)])
@pytest.mark.parametrize(("radius_px", "gamma"), [(8.0, 2.0), (5.0, 2.0), (8.0, 0.0), (12.0, 3.0)])
def test_equals_the_libraries(strides, radius_px, gamma):
    levels, (locations, image) = levels_of(*strides), points_of(14)
    found = PointDetectionLoss(radius_px=radius_px, gamma=gamma)(levels, locations, image)
    scores, labels, offsets, wanted = flat_targets(levels, locations, image, radius_px)
    focal = sigmoid_focal_loss(scores, labels, alpha=-1, gamma=gamma, reduction="sum") / len(scores)
    monai = FocalLoss(gamma=gamma, alpha=None, reduction="mean")(scores.view(1, 1, -1), labels.view(1, 1, -1))
    huber = F.huber_loss(offsets, wanted, reduction="none", delta=1.0).mean(1)[labels > 0].sum() / labels.sum()
    assert found.keys() == {"detection", "offset"}
    assert found["detection"].item() == pytest.approx(focal.item(), rel=1e-6)
    assert found["detection"].item() == pytest.approx(monai.item(), rel=1e-6)
    assert found["offset"].item() == pytest.approx(huber.item(), rel=1e-6)
    leaves = [t for level in levels for t in level[:2]]
    mine = torch.autograd.grad(found["detection"] + found["offset"], leaves)
    for ours, theirs in zip(mine, torch.autograd.grad(focal + huber, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def test_defaults_are_those_of_the_method():
    levels, (locations, image) = levels_of(4, 8), points_of(9)
    default = PointDetectionLoss()(levels, locations, image)
    named = PointDetectionLoss(radius_px=8.0, gamma=2.0)(levels, locations, image)
    assert {k: v.item() for k, v in default.items()} == {k: v.item() for k, v in named.items()}


def test_one_point_by_hand():
    scores, offset = torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 1, 2)
    location = torch.tensor([[8.0, 4.0]])  # the first cell's centre is [8, 8], the second's [8, 24]
    found = PointDetectionLoss()([(scores, offset, 16)], location, torch.zeros(1, dtype=torch.int64))
    assert found["detection"].item() == pytest.approx(0.25 * math.log(2))
    assert found["offset"].item() == pytest.approx(0.5 * 0.25**2 / 2)


def test_only_positives_teach_the_offset():
    levels, (locations, image) = levels_of(4), points_of(6)
    PointDetectionLoss()(levels, locations, image)["offset"].backward()
    _, labels, _, _ = flat_targets(levels, locations, image, 8.0)
    taught = levels[0][1].grad.ne(0).any(1).flatten()
    assert torch.equal(taught, labels > 0)
    assert levels[0][0].grad is None


def test_an_image_without_points_beside_one_with():
    levels, (locations, _) = levels_of(4, 8), points_of(5)
    losses = PointDetectionLoss()(levels, locations, torch.ones(5, dtype=torch.int64))
    sum(losses.values()).backward()
    for scores, offset, _ in levels:
        assert scores.grad[0].gt(0).all()  # everything there is background
        assert scores.grad[1].lt(0).any()
        assert offset.grad[0].eq(0).all()


def test_no_point():
    levels = levels_of(4, 8, 16)
    losses = PointDetectionLoss()(levels, torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert losses["offset"].item() == 0
    scores = torch.cat([s.flatten() for s, _, _ in levels])
    expected = sigmoid_focal_loss(scores, torch.zeros_like(scores), alpha=-1, reduction="mean")
    assert losses["detection"].item() == pytest.approx(expected.item(), rel=1e-6)
    sum(losses.values()).backward()
    assert all(s.grad.gt(0).all() for s, _, _ in levels)
    assert all(o.grad is None or o.grad.eq(0).all() for _, o, _ in levels)


def test_points_that_no_cell_is_near_to():
    levels = levels_of(16)
    losses = PointDetectionLoss(radius_px=1.0)(levels, torch.tensor([[16.0, 16.0]]), torch.tensor([1]))
    assert losses["offset"].item() == 0
    assert losses["detection"].isfinite()


@pytest.mark.parametrize("key", ["detection", "offset"])
def test_gradcheck(key):
    (scores, offset, stride), (locations, image) = levels_of(16, seed=5)[0], points_of(7)
    loss = PointDetectionLoss()
    for leaf, make in ((scores, lambda s: (s, offset, stride)), (offset, lambda o: (scores, o, stride))):
        assert torch.autograd.gradcheck(lambda t, make=make: loss([make(t)], locations, image)[key], leaf)


def test_sure_scores_cost_a_finite_amount():
    levels = levels_of(4, dtype=torch.float32, scale=200.0)
    losses = PointDetectionLoss()(levels, *points_of(9))
    sum(losses.values()).backward()
    assert losses["detection"].isfinite()
    assert levels[0][0].grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    half = [(s.detach().to(dtype), o.detach().to(dtype), stride) for s, o, stride in levels_of(4, 8)]
    locations, image = points_of(9)
    expected = PointDetectionLoss()([(s.float(), o.float(), n) for s, o, n in half], locations.float(), image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = PointDetectionLoss()(half, locations.float(), image)
    for key, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[key].item(), rel=1e-4)
