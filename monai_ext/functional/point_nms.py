# SPDX-License-Identifier: Apache-2.0
"""One location a cell: suppression by distance, and proposals that stand in for clicked points."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_nms(locations: Tensor, scores: Tensor, radius_px: float, block: int = 256) -> Tensor:
    """Greedy non-maximum suppression: the best location stays and takes out all that are closer than a radius.

    Exact and scriptable: blocks of the best locations are resolved with one distance matrix each, whose greedy solution
    is the fixed point of "kept is who has no better kept neighbour", and take out their neighbours among the rest.

    Args:
        locations: (N, 2) in px.
        scores: (N,).
        radius_px: locations closer than this are one cell.
        block: locations compared with each other at once.

    Returns:
        int64 indices of those kept, by falling score, the first of equal ones first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    chosen = [order[:0]]
    while len(order) > 0:
        best, rest = order[:block], order[block:]
        near = _closer(locations[best], locations[best], radius_px).triu(1)
        kept = torch.ones_like(best, dtype=torch.bool)
        while True:
            again = ~(near & kept[:, None]).any(0)
            if torch.equal(again, kept):
                break
            kept = again
        best = best[kept]
        chosen.append(best)
        order = rest[~_closer(locations[best], locations[rest], radius_px).any(0)]
    return torch.cat(chosen)


def replace_by_proposals(
    points: Tensor, image: Tensor, proposals: Tensor, proposal_image: Tensor, scores: Tensor, *, radius_px: float
) -> Tensor:
    """Where the detector sees the clicked cells: each point becomes the best proposal that belongs to it.

    A proposal belongs to the nearest point of its image, if that is closer than the radius. The paper segments at the
    clicked points during training; its code at these, so that the segmentation meets in training what it meets later.

    Args:
        points: (N, 2) in px.
        image: int64 (N,), which image of the batch; likewise ``proposal_image`` (M,).
        proposals: (M, 2) in px.
        scores: (M,) of the proposals.
        radius_px: the radius.

    Returns:
        (N, 2), detached; points without a proposal stay.
    """
    points = points.detach()
    if len(points) == 0 or len(proposals) == 0:
        return points
    distance = torch.cdist(proposals.detach().to(points.dtype), points, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(proposal_image[:, None] != image, torch.inf)
    nearest, owner = distance.min(1)
    order = torch.argsort(scores, stable=True)  # rising, so that of several writers the best comes last
    order = order[nearest[order] < radius_px]
    best = torch.full_like(image, -1)
    rank = torch.full_like(image, -1).scatter_reduce_(
        0, owner[order], torch.arange(len(order), device=order.device), "amax"
    )
    best = torch.where(rank >= 0, order[rank.clamp_min(0)], best) if len(order) else best
    return torch.where(best[:, None] >= 0, proposals.detach().to(points.dtype)[best.clamp_min(0)], points)


def _closer(locations: Tensor, others: Tensor, radius_px: float) -> Tensor:
    """bool (n, m)."""
    first = locations[:, None, 0] - others[:, 0]
    second = locations[:, None, 1] - others[:, 1]
    return first * first + second * second < radius_px * radius_px
