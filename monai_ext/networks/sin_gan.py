# SPDX-License-Identifier: Apache-2.0
"""A conditional SinGAN: from a mask to an image that looks like one image, over a pyramid of scales.

Source: Lou et al., "Which pixel to annotate: a label-efficient nuclei segmentation framework" (IEEE TMI 2022), section
III-B, Eq. 2 and Fig. 5, with the layers of Shaham et al., "SinGAN" (ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.functional.scales import Size, resize_image, resize_mask

BLOCKS, SLOPE, DOUBLES_EVERY, WIDEST = 5, 0.2, 4, 128
COMPONENTS = ("global", "foreground", "background")


class ConditionalSinGAN(nn.Module):
    r"""Generators of all scales, each of which adds detail to what the coarser one drew.

    .. math:: y_n = \psi_n([m_n, z_n + y_{n-1}]) + y_{n-1}

    Images have values from -1 to 1. Masks are 0 or 1 and reach the networks as -1 and 1, so that the zeros around an
    image belong to neither class.

    Args:
        sizes: heights and widths from the coarsest scale on, see :func:`~monai_ext.functional.scales.scale_sizes`.
        image_channels: of the image.
        channels: of the first four scales; the next four have twice as many, and so on up to 128.
        anchored: the patch itself comes from a noise that is drawn once, as in SinGAN; else from none, as the paper
            writes. The layers' normalisation expects noise at the coarsest scale: without it the generator would draw
            other colours once it is trained than while it was.
    """

    def __init__(
        self, sizes: Sequence[Size], *, image_channels: int = 3, channels: int = 32, anchored: bool = True
    ) -> None:
        super().__init__()
        self.sizes = [(int(height), int(width)) for height, width in sizes]
        self.image_channels = image_channels
        widths = [channels_of(scale, channels) for scale in range(len(self.sizes))]
        self.generators = nn.ModuleList(
            blocks(image_channels + 1, width, image_channels).append(nn.Tanh()) for width in widths
        )
        self.amplitudes: Tensor
        self.register_buffer("amplitudes", torch.ones(len(self.sizes)))
        self.anchor: Tensor
        self.register_buffer("anchor", torch.randn(1, 1, *self.sizes[0]) * anchored)

    def forward(
        self,
        mask: Tensor,
        *,
        scale: int | None = None,
        noises: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Images (B, C, h, w) of a scale.

        Args:
            mask: (B, 1, H, W), 0 or 1, at the finest size.
            scale: n; None is the finest.
            noises: for each scale up to n noise that broadcasts to its image, before it is multiplied with the scale's
                amplitude; None for none.
        """
        scale = len(self.sizes) - 1 if scale is None else scale
        noises = [None] * (scale + 1) if noises is None else noises
        drawn = mask.new_zeros(len(mask), self.image_channels, *self.sizes[0])
        for number in range(scale + 1):
            drawn = resize_image(drawn, self.sizes[number])
            drawn = self.refine(drawn, mask, scale=number, noise=noises[number])
        return drawn

    def anchors(self, scale: int) -> list[Tensor | None]:
        """The noises up to a scale of which the patch itself is drawn."""
        return [self.anchor, *[None] * scale]

    def noises(
        self, mask: Tensor, *, scale: int | None = None, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Gaussian noises for each mask up to a scale: at the coarsest one channel for all of the image's (SinGAN).

        Args:
            mask: as in :py:meth:`forward`.
            scale: n; None is the finest.
            generator: what is drawn from, on whichever device it is; by default torch's own of the mask's device.
        """
        device = mask.device if generator is None else generator.device
        sizes = self.sizes[: None if scale is None else scale + 1]
        shapes = [(len(mask), self.image_channels if number else 1, *size) for number, size in enumerate(sizes)]
        return [torch.randn(shape, generator=generator, device=device).to(mask) for shape in shapes]

    def refine(self, coarser: Tensor, mask: Tensor, *, scale: int, noise: Tensor | None = None) -> Tensor:
        """One scale of :py:meth:`forward`: y_n of y_{n-1}, which has the scale's size already."""
        disturbed = coarser if noise is None else coarser + self.amplitudes[scale] * noise
        condition = 2 * resize_mask(mask, self.sizes[scale]) - 1
        padded = F.pad(torch.cat([disturbed, condition], 1), [BLOCKS] * 4)
        return self.generators[scale](padded) + coarser


class ComponentCritics(nn.Module):
    """Three critics of one scale, which look at the whole image, its foreground and its background.

    They share no weights. What is not a critic's component is 0 for it, the middle of the range.

    Args:
        scale: the pyramid's, on which the width depends.
        image_channels, channels: as in :class:`ConditionalSinGAN`.
        components: which of ``"global"``, ``"foreground"`` and ``"background"`` there are; the paper's ablation has the
            first alone.
        bounded: end in ReLU6 and have it between layers, as the released code; by default a critic is unbounded, as the
            loss asks for.
    """

    def __init__(
        self,
        scale: int,
        *,
        image_channels: int = 3,
        channels: int = 32,
        components: Sequence[str] = COMPONENTS,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        if not components or not set(components) <= set(COMPONENTS):
            raise ValueError(f"components: found {list(components)}, expected some of {', '.join(COMPONENTS)}.")
        width = channels_of(scale, channels)
        self.critics = nn.ModuleDict()
        for name in components:
            critic = blocks(image_channels, width, 1, capped=bounded)
            self.critics[name] = critic.append(nn.ReLU6()) if bounded else critic

    def forward(self, component: str, image: Tensor) -> Tensor:
        """Scores (B, 1, h - 10, w - 10) of what :py:meth:`part` gives."""
        return self.critics[component](image)

    @staticmethod
    def part(component: str, image: Tensor, mask: Tensor) -> Tensor:
        """A component of images (B, C, h, w) by a mask (B, 1, h, w), 0 or 1; gradient passes to the image."""
        if component == "global":
            return image
        return image * (mask if component == "foreground" else 1 - mask)


def channels_of(scale: int, channels: int) -> int:
    """Width of a scale's networks."""
    return min(channels * 2 ** (scale // DOUBLES_EVERY), max(WIDEST, channels))


def blocks(in_channels: int, width: int, out_channels: int, *, capped: bool = False) -> nn.Sequential:
    """Four blocks of 3x3 convolution, batch normalisation and LeakyReLU (ReLU6 where ``capped``), and a convolution.

    Without padding: an image gets 10 pixels shorter and narrower.
    """
    layers: list[nn.Module] = []
    for first, second in pairwise([in_channels] + [width] * (BLOCKS - 1)):
        activation = nn.ReLU6(inplace=True) if capped else nn.LeakyReLU(SLOPE, inplace=True)
        layers += [nn.Conv2d(first, second, 3), nn.BatchNorm2d(second), activation]
    network = nn.Sequential(*layers, nn.Conv2d(width, out_channels, 3))
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return network
