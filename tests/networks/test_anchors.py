# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from monai_ext.networks.anchors import near_anchors


def squares(step, size, number):
    """Anchors of one size and of its double at each place of a grid: (n, n, 2, 4)."""
    centre = (torch.arange(number) + 0.5) * step
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    halves = torch.tensor([size / 2, size])
    middle = torch.stack([x, y, x, y], -1)[:, :, None]
    return middle + halves[:, None] * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_equals_a_loop_over_objects_and_anchors():
    levels = [squares(4, 6, 8), squares(8, 12, 4)]
    boxes = [torch.tensor([[3.0, 4, 10, 12], [10, 10, 30, 26]]), torch.tensor([[20.0, 2, 26, 8]])]
    found = near_anchors(boxes, levels)
    for image, some in enumerate(boxes):
        best = [max(iou(box, a) for level in levels for a in level.reshape(-1, 4).tolist()) for box in some.tolist()]
        for level, near in zip(levels, found, strict=True):
            for row, column in torch.cartesian_prod(*map(torch.arange, near.shape[1:])).tolist():
                fits = any(
                    iou(box, anchor) > 0.5 * most
                    for box, most in zip(some.tolist(), best, strict=True)
                    for anchor in level[row, column].tolist()
                )
                assert near[image, row, column] == fits
    assert 0 < found[0].float().mean() < 1


def test_no_object_has_no_place():
    (found,) = near_anchors([torch.zeros(0, 4)], [squares(4, 6, 8)])
    assert found.shape == (1, 8, 8)
    assert not found.any()
