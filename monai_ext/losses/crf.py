# SPDX-License-Identifier: Apache-2.0
"""Multi-view CRF loss (Zhai et al., IEEE TMI 2023, Eq. 6-8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.functional.crf import VIEWS, crf_energy


class MultiViewCRFLoss(nn.Module):
    """Voxels that lie close and look alike shall get the same label, in axial, sagittal and coronal planes.

    The energy of :py:func:`monai_ext.functional.crf.crf_energy` on the softmax of the logits, divided by the number
    of voxels.

    Args:
        radius: half width of the square window, in voxels of the resized grid.
        sigma_space: spatial standard deviation, in voxels of the resized grid, or in mm where ``spacing`` is given.
        sigma_intensity: standard deviation of intensity, in the image's unit (z-scored in the paper).
        views: planes to use, for arrays in RAS order; ``("axial",)`` is the 2-D row of Table I.
        spacing: voxel size in mm of the full grid, one number per axis; None counts in voxels, as released.
        downsample: resize logits and image by one over this first, one factor or one per axis. The released code does
            (``align_corners``; 2, but 1 across the slices of the schwannoma data); the paper does not mention it.

    Raises:
        ValueError: a factor below 1, or not one per axis; and all that ``crf_energy`` raises.
    """

    def __init__(
        self,
        *,
        radius: int = 5,
        sigma_space: float = 6.0,
        sigma_intensity: float = 0.1,
        views: Sequence[str] = VIEWS,
        spacing: Sequence[float] | None = None,
        downsample: float | Sequence[float] = 1,
    ) -> None:
        super().__init__()
        self.radius = radius
        self.sigma_space = sigma_space
        self.sigma_intensity = sigma_intensity
        self.views = tuple(views)
        self.spacing = None if spacing is None else tuple(spacing)
        self.downsample = downsample

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Energy per voxel of logits (B, C, *S) on an image (B, M, *S), which gets no gradient."""
        full = logits.shape[2:]
        logits, image = logits.to(torch.promote_types(logits.dtype, torch.float32)), image.detach()
        shape = self._resized(tuple(full))
        if shape != tuple(full):
            mode = "trilinear" if len(shape) == 3 else "bilinear"
            logits = F.interpolate(logits, size=shape, mode=mode, align_corners=True)
            image = F.interpolate(image.to(logits.dtype), size=shape, mode=mode, align_corners=True)
        spacing = self.spacing
        if spacing is not None and len(spacing) == len(shape):
            # With aligned corners the first and last voxel centres stay where they are.
            spacing = tuple(
                s * (n - 1) / max(m - 1, 1) if n > m else s for s, n, m in zip(spacing, full, shape, strict=True)
            )
        return crf_energy(
            logits.softmax(1),
            image,
            radius=self.radius,
            sigma_space=self.sigma_space,
            sigma_intensity=self.sigma_intensity,
            views=self.views,
            spacing=spacing,
        )

    def _resized(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        factors = self.downsample if isinstance(self.downsample, Sequence) else (self.downsample,) * len(shape)
        if len(factors) != len(shape) or min(factors) < 1:
            raise ValueError(f"downsample must be {len(shape)} factors of at least 1, found {self.downsample}.")
        return tuple(max(1, round(n / factor)) for n, factor in zip(shape, factors, strict=True))
