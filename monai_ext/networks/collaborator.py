# SPDX-License-Identifier: Apache-2.0
"""CKS's collaborator: two very small networks that see the image's foreground and its cell borders, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Collaborator(nn.Module):
    """Foreground by a shallow U-Net and cell borders by a few convolutions; dropped after training.

    It is small on purpose: wider ones agree with the principal network without being right (Table VII). Source: Yu,
    "Point-supervised single-cell segmentation via collaborative knowledge sharing", sections III-B and IV-E.

    Args:
        in_channels: of the image.
        foreground: channels of the U-Net at each scale: (16, 32, 64) is the paper's a1, with 128 more a2, with 256 a3.
        border: channels of the convolutions: (32, 32) and an output layer are b1.
        border_unet: the border by a U-Net of these channels in the place of ``border``, as the paper's b2.
        foreground_logit: what the foreground's last layer adds to begin with. Above 0 all of the image begins as
            foreground: cells' masks grow, and the empty ground is what the collaborator learns to leave out. Where all
            begins as background, masks vanish before either network has learned what a cell looks like.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        foreground: Sequence[int] = (16, 32, 64),
        border: Sequence[int] = (32, 32),
        border_unet: Sequence[int] | None = None,
        foreground_logit: float = 1.0,
    ) -> None:
        super().__init__()
        self.foreground = SmallUNet(in_channels, foreground)
        assert self.foreground.last.bias is not None
        nn.init.constant_(self.foreground.last.bias, foreground_logit)
        self.border = SmallUNet(in_channels, border_unet) if border_unet else _plain(in_channels, border)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, C, H, W) to logits (B, 2, H, W): foreground and border."""
        return torch.cat([self.foreground(image), self.border(image)], 1)


class SmallUNet(nn.Module):
    """U-Net with two convolutions a scale, strides for going down and bilinear resizing for going up; one channel out.

    Args:
        in_channels: of the image.
        channels: of each scale, finest first.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        inputs = (in_channels, *channels[:-1])
        self.down = nn.ModuleList(
            [
                nn.Sequential(_conv(before, width, stride=1 + (number > 0)), _conv(width, width))
                for number, (before, width) in enumerate(zip(inputs, channels, strict=True))
            ]
        )
        self.up = nn.ModuleList(
            [
                nn.Sequential(_conv(coarse + fine, fine), _conv(fine, fine))
                for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
            ]
        )
        self.last = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) of any size to logits (B, 1, H, W)."""
        x, kept = image, []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
        for layer, finer in zip(self.up, kept[-2::-1], strict=True):
            x = F.interpolate(x, size=finer.shape[2:], mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, finer], 1))
        return self.last(x)


def _plain(in_channels: int, channels: Sequence[int]) -> nn.Sequential:
    inputs = (in_channels, *channels[:-1])
    layers = [_conv(before, width) for before, width in zip(inputs, channels, strict=True)]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """The released code's normalisation has a shift for each channel and no scale, as ReLU follows."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        ShiftedInstanceNorm(out_channels),
        nn.ReLU(),
    )


class ShiftedInstanceNorm(nn.Module):
    """Each channel to mean 0 and variance 1 over the image, plus a learned shift; (B, C, *S) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.scale, bias=self.shift, eps=1e-6)
