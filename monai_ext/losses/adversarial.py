# SPDX-License-Identifier: Apache-2.0
"""Wasserstein losses of a critic and of a generator, with a gradient penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Critic = Callable[[Tensor], Tensor]
Norm = Literal["pixel", "image"]


class WassersteinCriticLoss(nn.Module):
    r"""What a critic minimises.

    .. math:: E[D(y)] - E[D(x)] + \lambda E[(\|\nabla_{\hat x} D(\hat x)\|_2 - 1)^2]

    Source: Gulrajani et al., "Improved training of Wasserstein GANs" (NeurIPS 2017); Lou et al., "Which pixel to
    annotate" (IEEE TMI 2022), Eq. 4, whose signs are the critic's. The generator minimises -E[D(y)].

    Args:
        penalty: lambda.
        norm: of the gradient: over the channels of each ``"pixel"``, as in SinGAN's code and the released code, or of
            the whole ``"image"``, as Eq. 4 reads.

    Raises:
        ValueError: an unknown norm.
    """

    def __init__(self, *, penalty: float = 0.1, norm: Norm = "pixel") -> None:
        super().__init__()
        if norm not in ("pixel", "image"):
            raise ValueError(f"norm: found {norm!r}, expected 'pixel' or 'image'.")
        self.penalty = penalty
        self.norm = norm

    def forward(self, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar loss. Gradient reaches the critic alone.

        Args:
            critic: D, from images to scores of any shape, whose mean is taken.
            real: x, (B, C, H, W).
            fake: y, likewise.
        """
        real, fake = real.detach(), fake.detach()
        loss = critic(fake).mean() - critic(real).mean()
        return loss + self.penalty * self.gradient_penalty(critic, real, fake) if self.penalty else loss

    def gradient_penalty(self, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        """E[(norm - 1)^2] at images drawn between real and fake ones, one share for each pair."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        norm = gradient.norm(dim=1) if self.norm == "pixel" else gradient.flatten(1).norm(dim=1)
        return ((norm - 1) ** 2).mean()
