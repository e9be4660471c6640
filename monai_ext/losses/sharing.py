# SPDX-License-Identifier: Apache-2.0
"""Two networks that share what they know: one of single cells, one of the image's foreground and borders.

Source: Yu, "Point-supervised single-cell segmentation via collaborative knowledge sharing", section III.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.functional.knowledge_sharing import border_of_instances
from monai_ext.functional.windows import Windows, gather_windows, inside, scatter_sum, sum_of_chunks


class ForegroundSharingLoss(nn.Module):
    r"""What the collaborator learns of the foreground from the cells' masks.

    .. math:: L_M = \frac{1}{H W} \sum (1 - M_p) M_c + M_p (1 - M_c)

    Source: Eq. 6. Its gradient is :math:`(1 - 2 M_p) / H W`, so pixels that the masks are sure of pull most.

    Args:
        mode: ``"linear"``, or ``"entropy"`` for Eq. 5: cross-entropy against :math:`M_p \ge 0.5` (Table V).

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, mode: Literal["linear", "entropy"] = "linear") -> None:
        super().__init__()
        self.mode = _one_of(mode, ("linear", "entropy"))

    def forward(self, foreground: Tensor, target: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            foreground: M_c, (B, H, W) from 0 to 1.
            target: M_p, likewise; no gradient passes.
        """
        foreground, target = _wide(foreground), _wide(target.detach())
        if self.mode == "entropy":
            return F.binary_cross_entropy(foreground, (target >= 0.5).to(foreground.dtype))
        return (foreground + target - 2 * foreground * target).mean()


class InstanceSharingLoss(nn.Module):
    r"""What the cells' masks learn from the collaborator's foreground, and from each other: not to overlap.

    .. math::
        L_S = \frac{1}{K} \sum_i \Big[ (1 - M_c) m_i + M_c (1 - m_i) + m_i \sum_{j \ne i} m_j \Big], \qquad K = N s^2

    Source: Eq. 8. With the sum S of all masks at a pixel, the overlap is :math:`S^2 - \sum_i m_i^2`, so no pair of
    cells is ever looked at. Pixels off the image count nowhere; the released code counts them as background.

    Args:
        mode: ``"linear"``; ``"entropy"`` with the cross-entropy of :math:`m_i` against :math:`M_c \ge 0.5` in the place
            of the first two terms (Table V); ``"warm_up"``, the released code's first phase: hard :math:`M_c > 0.5`,
            and :math:`-\log(1 - m_j)` in the place of the second factor of the overlap.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, mode: Literal["linear", "entropy", "warm_up"] = "linear") -> None:
        super().__init__()
        self.mode = _one_of(mode, ("linear", "entropy", "warm_up"))

    def forward(self, logits: Tensor, windows: Windows, foreground: Tensor) -> Tensor:
        """Scalar loss; 0 without a cell.

        Args:
            logits: (N, size, size), one mask a cell.
            windows: where they lie.
            foreground: M_c, (B, H, W) from 0 to 1; no gradient passes.
        """
        if len(logits) == 0:
            return _wide(logits).sum()
        logits, target = _wide(logits), _wide(foreground.detach())
        if self.mode != "linear":
            target = (target > 0.5 if self.mode == "warm_up" else target >= 0.5).to(logits.dtype)
        total, squares, covered, extra = sum_of_chunks(partial(self._sums, target=target), windows, logits)
        shared = (total * (1 - 2 * target) + target * covered).sum() if self.mode != "entropy" else extra.sum()
        overlap = (total * (extra if self.mode == "warm_up" else total)).sum() - squares
        return (shared + overlap) / logits.numel()

    def _sums(self, windows: Windows, logits: Tensor, *, target: Tensor) -> tuple[Tensor, ...]:
        """Of some cells: their masks' sum S (B, H, W), what cells would count of their own in the overlap, how many
        windows reach each pixel (B, H, W), and what the mode needs besides."""
        within = inside(windows).to(logits.dtype)
        probs = logits.sigmoid() * within
        own, extra = probs, logits.new_zeros(())
        if self.mode == "warm_up":
            own = F.softplus(logits) * within
            extra = scatter_sum(own, windows)
        elif self.mode == "entropy":
            shown = gather_windows(target[:, None], windows)[:, 0]
            extra = F.binary_cross_entropy_with_logits(logits, shown, weight=within, reduction="sum")
        return scatter_sum(probs, windows), (probs * own).sum(), scatter_sum(within, windows), extra


class BorderSharingLoss(nn.Module):
    r"""Both networks' cell borders are to agree.

    .. math:: L_B = \frac{1}{2 H W} \sum (B_c - B_p)^2

    Source: Eq. 10, which prints a norm; half of the mean square is the released code's. Gradient reaches both.
    """

    def forward(self, border: Tensor, probs: Tensor, windows: Windows) -> Tensor:
        """Scalar loss.

        Args:
            border: B_c, (B, H, W) from 0 to 1.
            probs: (N, size, size), one mask a cell.
            windows: where they lie.
        """
        return (_wide(border) - border_of_instances(_wide(probs), windows)).square().mean() / 2


class CollapseLoss(nn.Module):
    r"""A cost of empty masks, which are the easiest thing for two networks to agree on.

    .. math:: L_{MC} = \frac{\delta}{N} \sum_i \bar m_i^{-e}

    Source: the unnumbered equation of "Preventing Model Collapse", which prints e = 1 without a value of
    :math:`\delta`; the released code has e = 1/2 and 0.01. The mean is over the window, pixels off the image count as
    0, and it is taken as one pixel's worth where it is less, so that an empty mask has a finite cost, and a gradient.

    Args:
        delta: :math:`\delta`.
        exponent: e.

    Raises:
        ValueError: a negative argument.
    """

    def __init__(self, delta: float = 0.01, exponent: float = 0.5) -> None:
        super().__init__()
        if delta < 0 or exponent < 0:
            raise ValueError(f"delta and exponent: found {delta} and {exponent}, expected 0 or more.")
        self.delta = delta
        self.exponent = exponent

    def forward(self, probs: Tensor, windows: Windows) -> Tensor:
        """Scalar loss; 0 without a cell.

        Args:
            probs: (N, size, size), one mask a cell.
            windows: where they lie.
        """
        probs = _wide(probs)
        if len(probs) == 0:
            return probs.sum()
        (cost,) = sum_of_chunks(self._costs, windows, probs)
        return self.delta * cost / len(probs)

    def _costs(self, windows: Windows, probs: Tensor) -> tuple[Tensor]:
        mean = (probs * inside(windows)).mean((1, 2))
        floored = mean + (mean.clamp_min(1 / windows.size**2) - mean).detach()  # an empty mask too is pushed up
        return (floored.pow(-self.exponent).sum(),)


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _one_of(mode: str, modes: tuple[str, ...]) -> str:
    if mode not in modes:
        raise ValueError(f"mode: found {mode!r}, expected one of {', '.join(modes)}.")
    return mode
