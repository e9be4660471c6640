# SPDX-License-Identifier: Apache-2.0
"""The sizes that a single image is learned at, and images and masks at these sizes.

Source: Shaham et al., "SinGAN: learning a generative model from a single natural image" (ICCV 2019), as the released
code of Lou et al., "Which pixel to annotate" (IEEE TMI 2022) sets it.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def scale_sizes(size: Size, *, smallest_px: int = 128, factor: float = 0.75) -> list[Size]:
    """Heights and widths from the coarsest scale to the image's own.

    The factor between scales is made to fit: the shorter side of the coarsest is ``smallest_px``. An image of that size
    has one scale (SinGAN's rule gives two equal ones).

    Args:
        size: H, W of the image.
        smallest_px: shorter side at the coarsest scale.
        factor: between neighbouring scales, in (0, 1), before it is made to fit.

    Raises:
        ValueError: an image smaller than ``smallest_px``, or a factor out of range.
    """
    shorter = min(size)
    if not 1 <= smallest_px <= shorter:
        raise ValueError(f"smallest_px: found {smallest_px}, expected 1 to {shorter}, the image's shorter side.")
    if not 0 < factor < 1:
        raise ValueError(f"factor: found {factor}, expected a number between 0 and 1.")
    if smallest_px == shorter:
        return [size]
    steps = math.ceil(math.log(smallest_px / shorter) / math.log(factor) - 1e-9) + 1
    fitted = (smallest_px / shorter) ** (1 / steps)
    found = [_scaled(size, fitted ** (steps - step)) for step in range(steps + 1)]
    return list(dict.fromkeys(found))


def resize_image(image: Tensor, size: Size) -> Tensor:
    """An image (B, C, H, W) at another size: bicubic and without aliasing, on its device, with gradient.

    The released code goes through 8 bits on the host.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)


def resize_mask(mask: Tensor, size: Size) -> Tensor:
    """A binary mask (B, 1, H, W) at another size, 0 or 1: where it covers at least half of a pixel.

    Always from the full size: the released code shrinks a synthetic mask and enlarges it again from scale to scale, so
    that at the finest one 9 % of its pixels are others.
    """
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return (F.interpolate(mask, size, mode="area") >= 0.5).to(mask.dtype)


def _scaled(size: Size, factor: float) -> Size:
    height, width = (math.ceil(side * factor - 1e-6) for side in size)
    return height, width
