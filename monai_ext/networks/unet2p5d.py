# SPDX-License-Identifier: Apache-2.0
"""A U-Net for volumes whose slices are thicker than their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _convolutions(in_channels: int, out_channels: int, *, flat: bool) -> nn.Sequential:
    kernel, padding = ((3, 3, 1), (1, 1, 0)) if flat else ((3, 3, 3), (1, 1, 1))
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv3d(channels, out_channels, kernel, padding=padding, bias=False),
            nn.InstanceNorm3d(out_channels, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet2p5d(nn.Module):
    """2.5-D U-Net: flat 3x3x1 kernels at the finest levels, 3x3x3 below (Wang et al., MICCAI 2019).

    The network that PA-Seg uses for vestibular schwannoma (0.5 x 0.5 x 1.5 mm), without the spatial attention of the
    cited paper, as in PA-Seg's released code. Two convolutions a level, instance normalisation, LeakyReLU 0.01, max
    pooling by 2 along every axis, trilinear upsampling, skip connections by concatenation, He initialisation, no
    dropout. The paper writes channels doubling from 16 to 256, which is the default; the released code has
    ``channels=(16, 32, 64, 128, 128), decoder_channels=(16, 16, 32, 64)``: 2.47 million parameters.

    Args:
        in_channels: channels of the image.
        out_channels: classes C, background included.
        channels: features of every level, finest first.
        flat_levels: how many of the finest levels use 3x3x1 kernels in the encoder; in the decoder one fewer does
            (the released code's decoder has them in its last block only).
        decoder_channels: features of the decoder's levels, finest first; by default those of the encoder.

    Shapes: (B, in_channels, H, W, D) to (B, C, H, W, D); H, W and D are multiples of 2^(levels - 1).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        flat_levels: int = 2,
        decoder_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        rising = [*(decoder_channels or channels[:-1]), channels[-1]]
        self.encoder = nn.ModuleList(
            _convolutions(widths[i], widths[i + 1], flat=i < flat_levels) for i in range(len(channels))
        )
        self.decoder = nn.ModuleList(
            _convolutions(channels[i] + rising[i + 1], rising[i], flat=i < flat_levels - 1)
            for i in reversed(range(len(channels) - 1))
        )
        self.pool = nn.MaxPool3d(2)
        self.up = nn.Upsample(scale_factor=2.0, mode="trilinear", align_corners=True)
        self.head = nn.Conv3d(rising[0], out_channels, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H, W, D) of an image (B, in_channels, H, W, D)."""
        skips: list[Tensor] = []
        features = image
        for level, block in enumerate(self.encoder):
            features = block(self.pool(features) if level > 0 else features)
            skips.append(features)
        for level, block in enumerate(self.decoder):
            features = block(torch.cat([skips[len(skips) - 2 - level], self.up(features)], dim=1))
        return self.head(features)
