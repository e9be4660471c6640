# SPDX-License-Identifier: Apache-2.0
"""What the masks of single cells say of the whole image: its foreground and its cell borders."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ext.functional.windows import Windows, scatter_max, scatter_sum, sum_of_chunks

NOWHERE = -1e6
"""Logit of a pixel that no window reaches."""

_SMALLEST_EDGE = 1e-8


@torch.no_grad()
def foreground_of_instances(
    logits: Tensor,
    windows: Windows,
    *,
    locations: Tensor,
    prior_px: Tensor | float,
    prior_weight: float,
    force_points: bool = True,
) -> Tensor:
    r"""The image's foreground as the cells' masks and the clicked points have it.

    .. math:: M_p(x) = \max_i \sigma\left( \ell_i(x) + \pi \exp\frac{-|x - r_i|^2}{2 d^2} \right)

    Source: Yu, "Point-supervised single-cell segmentation via collaborative knowledge sharing", Eq. 4. The released
    code centres the prior in the window, up to several pixels off the location; here it is at the location, as printed.

    Args:
        logits: (N, size, size), one mask a cell.
        windows: where they lie.
        locations: r, (N, 2) in px, corner origin.
        prior_px: d, expected size of the cells: one number or one for each of them (N,).
        prior_weight: :math:`\pi`; 0 leaves the prior out.
        force_points: the pixels of the locations are foreground whatever the masks say, as in the released code; a
            location off the image has none.

    Returns:
        (B, H, W) from 0 to 1, without gradient; 0 where no window reaches.
    """
    shifted = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if prior_weight:
        shifted = shifted + prior_weight * _prior(windows, locations.to(shifted.dtype), prior_px)
    foreground = scatter_max(shifted, windows, fill=NOWHERE).sigmoid()
    if force_points:
        pixels = locations.floor().long()
        limits = torch.tensor(windows.shape[1:], device=pixels.device)
        there = ((pixels >= 0) & (pixels < limits)).all(1)
        foreground[windows.image[there], pixels[there, 0], pixels[there, 1]] = 1.0
    return foreground


def border_of_instances(probs: Tensor, windows: Windows) -> Tensor:
    r"""The image's cell borders as the cells' masks have them.

    .. math::
        B_p = \tanh \sum_i \varphi(m_i), \qquad
        \varphi(m) = \sqrt{\mathrm{clip}\left((g_x^2 + g_y^2) / 8, 10^{-8}, 1\right)}

    with the Sobel filters g. Source: Eq. 9; the scale and the clip are the released code's: a step from 0 to 1 gives
    tanh(1) = 0.76, a border that two cells share 0.96. Steps steeper than the clip's bound carry no gradient.

    Args:
        probs: (N, size, size). Gradient passes. Windows are mirrored at their edges.
        windows: where they lie.

    Returns:
        (B, H, W), from 0 to below 1.
    """
    with torch.autocast(probs.device.type, enabled=False):  # whose products would be narrow
        (edges,) = sum_of_chunks(lambda some, values: (scatter_sum(_edges(values), some),), windows, probs)
    return edges.tanh()


def _prior(windows: Windows, locations: Tensor, prior_px: Tensor | float) -> Tensor:
    """(N, size, size), 1 at the location; a product of two one-dimensional Gaussians."""
    steps = torch.arange(windows.size, device=locations.device)
    away = windows.origin[..., None] + steps + 0.5 - locations[..., None]  # (N, 2, size)
    width = torch.as_tensor(prior_px, dtype=locations.dtype, device=locations.device).reshape(-1, 1, 1)
    first, second = (-away.square() / (2 * width.square())).exp().unbind(1)
    return first[:, :, None] * second[:, None, :]


def _edges(probs: Tensor) -> Tensor:
    """phi of (n, size, size). A filter along an axis is a product with a banded matrix, quick as is its gradient."""
    step, smooth = (_filter(taps, probs) for taps in ((-1.0, 0.0, 1.0), (1.0, 2.0, 1.0)))
    first, second = step @ (probs @ smooth.T), smooth @ (probs @ step.T)
    return ((first.square() + second.square()) / 8).clamp(_SMALLEST_EDGE, 1.0).sqrt()


def _filter(taps: tuple[float, float, float], like: Tensor) -> Tensor:
    """Matrix (size, size) of a filter of three taps over a row that is mirrored at its ends."""
    rows = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    rows = torch.cat([rows[1:2], rows, rows[-2:-1]])
    return taps[0] * rows[:-2] + taps[1] * rows[1:-1] + taps[2] * rows[2:]
