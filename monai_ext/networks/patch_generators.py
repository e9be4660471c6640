# SPDX-License-Identifier: Apache-2.0
"""A conditional SinGAN for each of several patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_ext.functional.scales import Size, scale_sizes
from monai_ext.networks.sin_gan import ComponentCritics, ConditionalSinGAN


class PatchGenerators(nn.Module):
    """The trained generators of several patches, to draw for masks of any of them.

    Args:
        generators: of each patch.
        noisy: draw with noise, else all that a mask has no say in is as in the patch.
    """

    def __init__(self, generators: Sequence[ConditionalSinGAN], *, noisy: bool = True) -> None:
        super().__init__()
        self.generators = nn.ModuleList(generators)
        self.noisy = noisy

    def forward(self, mask: Tensor, *, patch: Sequence[int], seed: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) for masks (B, 1, H, W), 0 or 1, in [-1, 1].

        Args:
            mask: all of one size.
            patch: of each mask the place of the patch that it belongs to.
            seed: of each mask's noise, which is the same on each device and in whatever company.
        """
        drawn = []
        for one, place, number in zip(mask, patch, seed, strict=True):
            network: Any = self.generators[int(place)]
            noises = network.noises(one[None], generator=torch.Generator().manual_seed(int(number)))
            drawn.append(network(one[None], noises=noises if self.noisy else network.anchors(len(noises) - 1)))
        return torch.cat(drawn).clamp(-1, 1)


def make_generators(
    sizes: Sequence[Size], *, smallest_px: int = 128, factor: float = 0.75, **options: Any
) -> list[ConditionalSinGAN]:
    """A generator for each patch of these heights and widths; see there and ``scale_sizes`` for the options."""
    scales = [scale_sizes(size, smallest_px=smallest_px, factor=factor) for size in sizes]
    return [ConditionalSinGAN(some, **options) for some in scales]


def make_critics(generators: Sequence[ConditionalSinGAN], **options: Any) -> list[list[ComponentCritics]]:
    """The critics of each scale of each generator; see :class:`ComponentCritics` for the options."""
    scales = [(len(network.sizes), network.image_channels) for network in generators]
    return [[ComponentCritics(n, image_channels=image, **options) for n in range(number)] for number, image in scales]
