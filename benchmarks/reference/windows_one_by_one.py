# SPDX-License-Identifier: Apache-2.0
"""Features of windows as a plain program makes them: each window an image file, one after another through a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def features_one_by_one(
    image: NDArray[np.uint8],
    corners: Iterable[tuple[int, int]],
    *,
    size: int,
    network: Callable[[Tensor], Tensor],
    folder: Path,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Features (N, D) of windows of an image (H, W, 3), and (N, 4, D) of their quarters.

    Args:
        image: 8 bits.
        corners: first row and column of each window.
        size: side of the windows in px.
        network: takes (1, 3, h, w), values from 0 to 1, to (1, D).
        folder: where the windows are written.
        device: where the network is.
    """
    files = [folder / f"{row}_{column}.png" for row, column in corners]
    for file, (row, column) in zip(files, corners, strict=True):
        Image.fromarray(image[row : row + size, column : column + size]).save(file)
    features, regions = [], []
    for file in files:
        with Image.open(file) as opened:
            window = np.asarray(opened)
        half = size // 2
        quarters = [window[i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
        found = [network(_tensor(pixels, device))[0].cpu() for pixels in (window, *quarters)]
        features.append(found[0])
        regions.append(torch.stack(found[1:]))
    return torch.stack(features), torch.stack(regions)


def _tensor(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))[None].to(device)
