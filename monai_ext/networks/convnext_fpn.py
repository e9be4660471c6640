# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt and the feature pyramid of CKS: what cells look like, at several scales."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ConvNeXt
from torchvision.models.convnext import CNBlockConfig

from monai_ext.networks.encoders import load_file

SIZES = {
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "micro": ((1, 1, 2, 1), (24, 48, 96, 192)),
}
"""Blocks and channels of the four stages; the paper uses small, and micro is for two CPU cores."""

STRIDES = (4, 8, 16, 32)


class ConvNeXtFPN(nn.Module):
    """Torchvision's ConvNeXt with the paper's top-down path: features at strides 4, 8, 16 and 32.

    The path is not torchvision's ``FeaturePyramidNetwork``: each finer level adds the coarser *output*, and the
    coarsest has no 3x3 convolution. Source: Yu, "Point-supervised single-cell segmentation via collaborative knowledge
    sharing", section III-A, and its released code.

    Args:
        in_channels: of the image; the stem is made for it.
        size: a key of :data:`SIZES`.
        channels: of every level.
        stochastic_depth: probability of leaving out the last block in training; earlier ones less.
        weights: file with torchvision's state dict of the same ConvNeXt (``torch.save``d); None for random numbers. A
            stem for other than three channels keeps its random numbers.

    Raises:
        ValueError: an unknown size, or weights of another network.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        size: str = "small",
        channels: int = 256,
        stochastic_depth: float = 0.4,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size: found {size!r}, expected one of {', '.join(SIZES)}.")
        depths, widths = SIZES[size]
        settings = [
            CNBlockConfig(width, following, depth)
            for width, following, depth in zip(widths, (*widths[1:], None), depths, strict=True)
        ]
        whole = ConvNeXt(settings, stochastic_depth_prob=stochastic_depth)
        if weights is not None:
            load_file(whole, weights, of="torchvision's ConvNeXt of this size")
        self.body = whole.features
        if in_channels != 3:
            self.body[0][0] = nn.Conv2d(in_channels, widths[0], 4, 4)
        self.lateral = nn.ModuleList([nn.Sequential(nn.Conv2d(width, channels, 1), nn.ReLU()) for width in widths])
        self.smooth = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in widths[:-1]]
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features (B, channels, H / s, W / s), finest first; the image (B, C, H, W) has sides that 32 divides."""
        found: list[Tensor] = []
        x = image
        for number, layer in enumerate(self.body):
            x = layer(x)
            if number % 2 == 1:
                found.append(x)
        levels: list[Tensor] = []
        for number, lateral in enumerate(self.lateral):
            levels.append(lateral(found[number]))
        above = levels[-1]
        outputs = [above]
        for back, smooth in enumerate(self.smooth):
            level = levels[len(levels) - 2 - back]
            above = smooth(level + F.interpolate(above, scale_factor=2.0, mode="nearest"))
            outputs.append(above)
        return outputs[::-1]
