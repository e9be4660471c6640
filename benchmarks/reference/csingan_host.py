# SPDX-License-Identifier: Apache-2.0
"""CSinGAN that resizes and masks images on the host, in 8 bits, as the released code does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from monai_ext.networks import ComponentCritics

Size = tuple[int, int]


def to_host(image: Tensor) -> np.ndarray:
    """Images (B, C, H, W) from -1 to 1 as 8-bit arrays (B, H, W, C)."""
    scaled = (image.detach().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_device(pictures: np.ndarray, like: Tensor) -> Tensor:
    """And back."""
    return (torch.from_numpy(pictures).to(like.device).permute(0, 3, 1, 2).to(like.dtype) / 127.5 - 1).contiguous()


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Bicubic and without aliasing, by PIL."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    height, width = size
    small = [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in to_host(image)
    ]
    return to_device(np.stack(small), image)


def resize_mask(mask: Tensor, size: Size) -> Tensor:
    """Of the nearest pixel."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    small = [
        np.asarray(Image.fromarray(one[0].cpu().numpy()).resize(size[::-1], Image.Resampling.NEAREST)) for one in mask
    ]
    return torch.from_numpy(np.stack(small)[:, None]).to(mask)


def part(component: str, image: Tensor, mask: Tensor) -> Tensor:
    """A component; gradient passes to it as if nothing had happened, so that both sides compute as much."""
    if component == "global":
        return image
    kept = mask if component == "foreground" else 1 - mask
    pictures = to_host(image) * kept.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    live = image * kept
    return live + (to_device(pictures, image) - live).detach()


@contextmanager
def on_host() -> Iterator[None]:
    """Within, CSinGAN's step works so."""
    with (
        patch("monai_ext.engines.csingan.resize_image", resize_image),
        patch("monai_ext.engines.csingan.resize_mask", resize_mask),
        patch("monai_ext.networks.sin_gan.resize_image", resize_image),
        patch("monai_ext.networks.sin_gan.resize_mask", resize_mask),
        patch.object(ComponentCritics, "part", staticmethod(part)),
    ):
        yield
