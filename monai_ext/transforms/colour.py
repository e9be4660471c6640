# SPDX-License-Identifier: Apache-2.0
"""Pictures as red, green and blue."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor


class ToRGBd(MapTransform):
    """Bring 8-bit pictures (K, H, W) to three channels: one is repeated, a fourth, the opacity, is dropped.

    Args:
        keys: pictures with values from 0 to 255, as read from a file.

    Raises:
        ValueError: another number of channels, or values beyond 8 bits.
    """

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the pictures as uint8."""
        out = dict(data)
        for key in self.key_iterator(out):
            image: Tensor = out[key]
            if image.ndim != 3 or len(image) not in (1, 3, 4) or image.min() < 0 or image.max() > 255:
                found = f"shape {tuple(image.shape)}, values from {float(image.min()):g} to {float(image.max()):g}"
                raise ValueError(f"{key}: found {found}, expected an 8-bit picture of 1, 3 or 4 channels.")
            rgb = image.repeat(3, 1, 1) if len(image) == 1 else image[:3]
            out[key] = rgb.to(torch.uint8)
        return out


class ThreeChannelsd(MapTransform):
    """Bring pictures (K, X, Y) of any type to three channels: one is repeated, two get a third of zeros, a fourth goes.

    Args:
        keys: pictures.

    Raises:
        ValueError: another number of channels.
    """

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the pictures."""
        out = dict(data)
        for key in self.key_iterator(out):
            image: Tensor = out[key]
            if image.ndim != 3 or not 1 <= len(image) <= 4:
                raise ValueError(f"{key}: found shape {tuple(image.shape)}, expected a picture of 1 to 4 channels.")
            if len(image) == 1:
                image = image.repeat(3, 1, 1)
            elif len(image) == 2:
                image = torch.cat([image, torch.zeros_like(image[:1])])
            out[key] = image[:3]
        return out
