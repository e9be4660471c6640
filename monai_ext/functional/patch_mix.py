# SPDX-License-Identifier: Apache-2.0
"""Uncertainty-guided mixing: the most uncertain patches of an image are overwritten by its most certain ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_entropy(probs: Tensor, other: Tensor) -> Tensor:
    r"""Entropy of the mean of two predictions, pixel by pixel.

    .. math:: u = -\sum_c \bar p_c \log(\bar p_c + 10^{-6}), \qquad \bar p = (p + p') / 2

    The paper speaks of entropy maps without a formula; this is UCMT's, from which it takes the mixing: the mean of a
    student and the teacher, not the student alone.

    Args:
        probs, other: (B, C, \\*S), softmax.

    Returns:
        (B, \\*S), from 0 (certain) to about log C.
    """
    mean = (probs + other) / 2
    return -(mean * (mean + 1e-6).log()).sum(1)


def patch_sources(uncertainty: Tensor, other: Tensor, *, grid: int, k: int) -> Tensor:
    """For each patch of an image the patch whose content it takes.

    The ``k`` patches that are most uncertain by the first map take the content of the ``k`` most certain by the other;
    then the ``k`` most uncertain by the other map that of the ``k`` most certain by the first, which the first step
    cannot have touched. So it copies within one image, as UCMT's code does; what the paper calls an exchange between
    two students would keep every patch. At most 2k patches change, and the number of a patch counts row by row.

    Args:
        uncertainty, other: (B, H, W), one for each student.
        grid: patches along each side, a divisor of H and W.
        k: patches to overwrite by each map, at most half of all.

    Returns:
        integer (B, grid * grid).

    Raises:
        ValueError: a size that the grid does not divide, or k out of range.
    """
    if not 0 <= k <= grid * grid // 2:
        raise ValueError(f"k: found {k}, expected 0 to half of the {grid * grid} patches.")
    ranked = [_patches(u[:, None], grid).mean(-1)[..., 0].argsort(dim=1, stable=True) for u in (uncertainty, other)]
    sources = torch.arange(grid * grid, device=uncertainty.device).repeat(len(uncertainty), 1)
    for mine, theirs in (ranked, reversed(ranked)):
        certain, uncertain = theirs[:, :k], mine[:, mine.shape[1] - k :].flip(1)
        sources = sources.scatter(1, uncertain, certain)
    return sources


def mix_patches(
    arrays: Sequence[Tensor], uncertainty: Tensor, other: Tensor, *, grid: int = 16, k: int = 2
) -> list[Tensor]:
    """Images and their labels with patches overwritten alike, see :func:`patch_sources`.

    Args:
        arrays: (B, any, H, W) each, of any type, which is kept.
        uncertainty, other: (B, H, W), one for each student.
        grid: patches along each side. The paper's r = 16: at 256 pixels a patch is 16 pixels wide as well.
        k: patches to overwrite by each map; 0 changes nothing.

    Raises:
        ValueError: see :func:`patch_sources`.
    """
    sources = patch_sources(uncertainty, other, grid=grid, k=k)
    return [_image(_take(_patches(array, grid), sources), grid, array.shape) for array in arrays]


def _patches(array: Tensor, grid: int) -> Tensor:
    """(B, A, H, W) to (B, grid * grid, A, pixels of a patch)."""
    batch, channels, height, width = array.shape
    if height % grid or width % grid:
        raise ValueError(f"image: found {height} x {width} pixels, expected sides that {grid} patches divide.")
    split = array.reshape(batch, channels, grid, height // grid, grid, width // grid)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels, -1)


def _take(patches: Tensor, sources: Tensor) -> Tensor:
    return patches.gather(1, sources[..., None, None].expand_as(patches))


def _image(patches: Tensor, grid: int, shape: torch.Size) -> Tensor:
    """The inverse of :func:`_patches`."""
    batch, channels, height, width = shape
    split = patches.reshape(batch, grid, grid, channels, height // grid, width // grid)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(shape)
