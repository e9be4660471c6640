# SPDX-License-Identifier: Apache-2.0
"""What windows of an image look like, as vectors: a network's features of each window or of one map, or stain and
texture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.functional.stain_texture import stain_texture
from monai_ext.networks.encoders import resnet_encoder

STRIDE = 32
"""Pixels of a cell of the map of features."""
KINDS = ("resnet50", "random", "stain_texture", "none")


class PatchFeatures(nn.Module):
    """A ResNet without its last layer: the mean of its last map of features, 2048 numbers of a ResNet-50.

    Images have values from 0 to 1 and are not normalised, and windows keep their size, as in the released code of Lou
    et al., "Which pixel to annotate" (IEEE TMI 2022), which takes torchvision's first ImageNet weights of the
    ResNet-50.

    ``source`` says which features these are: the network, the weights' file name and its SHA-256, or the seed.

    Args:
        weights: a file with torchvision's state dict; None for random numbers, which a ``seed`` repeats: features that
            are not the paper's.
        backbone: ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
        seed: of the random numbers.
    """

    def __init__(self, weights: str | Path | None = None, *, backbone: str = "resnet50", seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = resnet_encoder(backbone, 3, weights=weights)
        self.source: dict[str, Any] = {"network": backbone, "weights": f"random, seed {seed}"}
        if weights is not None:
            digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
            self.source |= {"weights": Path(weights).name, "sha256": digest}
        self.width = encoder.fc.in_features
        self.trunk = nn.Sequential(*list(encoder.children())[:-2])
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, windows: Tensor) -> Tensor:
        """Features (B, D) of windows (B, 3, h, w) with values from 0 to 1."""
        return self.trunk(windows).mean((2, 3)).float()

    @torch.inference_mode()
    def map_of(self, image: Tensor) -> Tensor:
        """Map of features (D, h, w) of a whole image (3, H, W) with values from 0 to 1."""
        height, width = image.shape[1:]
        padded = F.pad(image[None], [0, -width % STRIDE, 0, -height % STRIDE], mode="replicate")
        return self.trunk(padded)[0].float()

    @torch.inference_mode()
    def of_map(self, features: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
        """Features (R, C, D) of a grid of windows, by their means over the one map of their image.

        An approximation: in a map of the whole image a window's features know what lies around it. The map's cells
        count by how much of each lies in the window.

        Args:
            features: what :py:meth:`map_of` gives of the image.
            rows: first rows of the windows, (R,).
            columns: first columns, (C,).
            size: side of the windows.
        """
        down, along = (
            _shares(some, size, cells).to(features)
            for some, cells in zip((rows, columns), features.shape[1:], strict=True)
        )
        return (down @ (features @ along.t())).permute(1, 2, 0).float()


class StainTexture(nn.Module):
    """:func:`~monai_ext.functional.stain_texture.stain_texture` in place of a network: no weights are needed.

    The features are in units of their own, and are scaled before windows are compared.
    """

    source: ClassVar[dict[str, Any]] = {"network": "none", "weights": "none"}

    def forward(self, windows: Tensor) -> Tensor:
        """Features (B, 40) of windows (B, 3, h, w) with values from 0 to 1."""
        pixels = windows.cpu().double().numpy().transpose(0, 2, 3, 1)
        return torch.from_numpy(stain_texture(pixels)).float()


class NoFeatures(nn.Module):
    """Nothing of each window, for choices that do not look at any: (B, 0)."""

    source: ClassVar[dict[str, Any]] = StainTexture.source

    def forward(self, windows: Tensor) -> Tensor:
        """(B, 0)."""
        return torch.zeros(len(windows), 0)

    def map_of(self, image: Tensor) -> Tensor:
        """Nothing."""
        return torch.zeros(0)

    def of_map(self, features: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
        """(R, C, 0), and no window is cut."""
        return torch.zeros(len(rows), len(columns), 0)


def features_or_exit(kind: str, *, weights: str | Path | None = None, mode: str = "exact") -> nn.Module:
    """The features that a configuration names; a fault ends the program with its sentence.

    Args:
        kind: ``"resnet50"``, the paper's, from a file of torchvision's ImageNet weights; ``"random"``, the same network
            with random numbers of seed 0; ``"stain_texture"``; or ``"none"``.
        weights: the file.
        mode: of the inferer.

    Raises:
        SystemExit: an unknown kind, no weights or those of another network, or a mode that the kind does not have.
    """
    if kind not in KINDS:
        raise SystemExit(f"features: found {kind!r}, expected one of {', '.join(KINDS)}.")
    if kind == "stain_texture" and mode != "exact":
        raise SystemExit(f"mode: found {mode!r}, expected 'exact' with the features 'stain_texture'.")
    own = {"random": PatchFeatures, "stain_texture": StainTexture, "none": NoFeatures}
    if kind in own:
        return own[kind]()
    if weights is None:
        expected = "a file of torchvision's ImageNet weights of the ResNet-50 (IMAGENET1K_V1)"
        other = "or set features to 'stain_texture' or 'random', which are not the paper's"
        raise SystemExit(f"feature_weights: found none, expected {expected}; {other}.")
    try:
        return PatchFeatures(weights)
    except ValueError as error:
        raise SystemExit(f"feature_weights: {error}") from None


def _shares(first: Tensor, size: int, cells: int) -> Tensor:
    """What each of a row of cells has of each window, (windows, cells); a window's shares sum to 1."""
    start = torch.arange(cells) * STRIDE
    begin = first.cpu()[:, None]
    return (torch.minimum(start + STRIDE, begin + size) - torch.maximum(start, begin)).clamp_min(0) / size
