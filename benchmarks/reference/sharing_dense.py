# SPDX-License-Identifier: Apache-2.0
"""Knowledge sharing with one map of the whole image for each cell: the plain way, kept as the reference.

Written from Eq. 4 and 6 to 10 and the collapse penalty of Yu (CKS, IEEE TMI): every window is placed in an image of its
own, so that sums and maxima over cells are those over the first axis; autograd does the rest. One image, windows that
touch it, array axes and corner-origin pixels as in ``monai_ext.functional.windows``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_sharing_losses(
    logits: Tensor,
    origin: Tensor,
    locations: Tensor,
    foreground: Tensor,
    border: Tensor,
    *,
    prior_px: float,
    prior_weight: float,
) -> dict[str, Tensor]:
    """L_M, L_S, L_B and L_MC of windows (N, s, s) at ``origin`` (N, 2) in an image (H, W), all with linear sharing."""
    places, probs = origin.tolist(), logits.sigmoid()
    m = _place(probs, places, foreground.shape)
    made = _foreground(logits.detach(), places, locations, foreground.shape, prior_px, prior_weight)
    fixed = foreground.detach()
    first = (1 - fixed) * m + fixed * (1 - m)
    first = first * _place(torch.ones_like(probs), places, foreground.shape)  # a cell answers for its window only
    overlap = m * (m.sum(0) - m)
    edges = _place(_edges(probs), places, foreground.shape).sum(0).tanh()
    means = m.sum((1, 2)) / logits[0].numel()
    return {
        "foreground": ((1 - made) * foreground + made * (1 - foreground)).mean(),
        "instances": (first.sum() + overlap.sum()) / logits.numel(),
        "border": (border - edges).square().mean() / 2,
        "collapse": 0.01 * means.clamp_min(1 / logits[0].numel()).rsqrt().mean(),
    }


def _place(windows: Tensor, places: list[list[int]], shape: torch.Size, fill: float = 0.0) -> Tensor:
    """(N, H, W): each window in an image of its own, ``fill`` elsewhere."""
    height, width = shape
    size = windows.shape[-1]
    maps = [
        F.pad(window, (y, width - y - size, x, height - x - size), value=fill)  # a negative pad cuts
        for window, (x, y) in zip(windows, places, strict=True)
    ]
    return torch.stack(maps)


@torch.no_grad()
def _foreground(
    logits: Tensor, places: list[list[int]], locations: Tensor, shape: torch.Size, prior_px: float, prior_weight: float
) -> Tensor:
    x, y = (torch.arange(n, dtype=logits.dtype) + 0.5 for n in shape)
    first, second = (locations[:, axis].to(logits)[:, None] for axis in (0, 1))
    square = (x - first).square()[:, :, None] + (y - second).square()[:, None, :]
    made = _place(logits, places, shape, fill=-1e6) + prior_weight * torch.exp(-square / (2 * prior_px**2))
    made = made.amax(0).sigmoid()
    made[tuple(locations.floor().long().T)] = 1
    return made


def _edges(probs: Tensor) -> Tensor:
    smooth, slope = probs.new_tensor([1, 2, 1]), probs.new_tensor([-1, 0, 1])
    kernels = torch.stack([slope[:, None] * smooth, smooth[:, None] * slope])[:, None]
    gradient = F.conv2d(F.pad(probs[:, None], (1, 1, 1, 1), mode="reflect"), kernels)
    return (gradient.square().sum(1) / 8).clamp(1e-8, 1).sqrt()
