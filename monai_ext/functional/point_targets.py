# SPDX-License-Identifier: Apache-2.0
"""What a detection grid should say of a set of points, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def point_targets(
    locations: Tensor, image: Tensor, *, shape: tuple[int, int, int], stride: int, radius_px: float
) -> tuple[Tensor, Tensor]:
    r"""For each cell of a grid the nearest point, where it is close, and the way to it.

    .. math:: o = (r - c) / s, \qquad c = (k + \tfrac12) s

    for the location r of the point and the centre c of the grid cell k. Yu, "Point-supervised single-cell segmentation
    via collaborative knowledge sharing", section III-A: grid locations within a small distance are positive too. Only
    grid cells around the points are looked at, so memory grows with the number of points.

    Args:
        locations: (N, 2) in px, corner origin.
        image: int64 (N,), which image of the batch.
        shape: (B, h, w) of the grid.
        stride: pixels along a grid cell.
        radius_px: a point that is closer than this makes a grid cell positive.

    Returns:
        int64 (B, h, w), the number of the nearest point (the first of equally near ones), -1 where none is close; and
        offsets (B, 2, h, w) in grid cells, 0 where none is close.
    """
    batch, height, width = shape
    reach = torch.arange(math.ceil(2 * radius_px / stride) + 2, device=locations.device)
    first = ((locations - radius_px) / stride - 0.5).floor().long()
    rows, columns = (first[:, None, :] + reach[:, None]).unbind(-1)  # (N, reach) each
    rows, columns = torch.broadcast_tensors(rows[:, :, None], columns[:, None, :])
    centres = (torch.stack([rows, columns], -1) + 0.5) * stride
    distance = (centres - locations[:, None, None]).square().sum(-1).sqrt()
    near = (distance < radius_px) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cells = ((image[:, None, None] * height + rows) * width + columns)[near]
    points = torch.arange(len(locations), device=near.device)[:, None, None].expand_as(near)[near]
    closest = distance.new_full((batch * height * width,), torch.inf).scatter_reduce_(0, cells, distance[near], "amin")
    wins = distance[near] == closest[cells]
    none = len(locations)
    nearest = cells.new_full((batch * height * width,), none)
    nearest.scatter_reduce_(0, cells[wins], points[wins], "amin")
    nearest = torch.where(nearest == none, -1, nearest).view(shape)
    return nearest, _offsets(locations, nearest, stride)


def decode(offset: Tensor, *, stride: int) -> Tensor:
    """Offsets (B, 2, h, w) in grid cells to locations (B, 2, h, w) in px, corner origin."""
    height, width = offset.shape[2:]
    return (_indices(height, width, offset) + 0.5 + offset) * stride


def _offsets(locations: Tensor, nearest: Tensor, stride: int) -> Tensor:
    batch, height, width = nearest.shape
    grid = _indices(height, width, locations) + 0.5
    if len(locations) == 0:
        return torch.zeros(batch, 2, height, width, dtype=locations.dtype, device=locations.device)
    offset = locations[nearest.clamp_min(0)].permute(0, 3, 1, 2) / stride - grid
    return torch.where(nearest[:, None] >= 0, offset, 0)


def _indices(height: int, width: int, like: Tensor) -> Tensor:
    """(2, h, w)."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack([rows[:, None].expand(height, width), columns[None, :].expand(height, width)])
