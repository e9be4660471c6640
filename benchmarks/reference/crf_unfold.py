# SPDX-License-Identifier: Apache-2.0
"""Multi-view CRF loss with unfolded neighbourhoods: the plain way, kept as the reference for speed and gradient.

Written from Eq. 7 and 8 of Zhai et al., IEEE TMI 2023: every slice of every view is a 2-D image, whose windows are
unfolded into a tensor of (2r + 1)^2 neighbours per voxel; autograd does the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_crf_loss(
    logits: Tensor, image: Tensor, *, radius: int = 5, sigma_space: float = 6.0, sigma_intensity: float = 0.1
) -> Tensor:
    """Mean over the three views of sum over pairs of K_ij (1 - p_i . p_j) / 2, per voxel; arrays (B, C, X, Y, Z)."""
    probs = logits.softmax(1)
    total = logits.new_zeros(())
    for normal in (2, 3, 4):
        p, x = (t.movedim(normal, 1).flatten(0, 1) for t in (probs, image))
        total = total + _slices(p, x, radius, sigma_space, sigma_intensity)
    return total / 3 / (probs.numel() // probs.shape[1])


def _slices(p: Tensor, x: Tensor, radius: int, sigma_space: float, sigma_intensity: float) -> Tensor:
    width = 2 * radius + 1

    def windows(t: Tensor) -> Tensor:
        return F.unfold(t, width, padding=radius).unflatten(1, (t.shape[1], width * width))

    steps = torch.arange(-radius, radius + 1, dtype=p.dtype, device=p.device)
    distance = (steps[:, None] ** 2 + steps[None] ** 2).flatten()
    contrast = (windows(x) - x.flatten(2)[:, :, None]).square().sum(1)
    kernel = torch.exp(-distance[:, None] / (2 * sigma_space**2) - contrast / (2 * sigma_intensity**2))
    kernel = kernel * windows(torch.ones_like(x[:, :1]))[:, 0]  # neighbours outside the slice are no pixels
    kernel = kernel * (distance > 0)[:, None]
    agreement = (windows(p) * p.flatten(2)[:, :, None]).sum(1)
    return (kernel * (1 - agreement)).sum() / 2
