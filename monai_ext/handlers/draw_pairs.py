# SPDX-License-Identifier: Apache-2.0
"""Pictures of patches and of what was drawn for synthetic masks, with the outlines of their nuclei."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from monai_ext.handlers.picture_results import rows_and_columns

Picture = NDArray[np.uint8]

TILE_PX = 192


def picture_of(image: Any) -> Picture:
    """An image (3, x, y) from -1 to 1 as a picture (H, W, 3)."""
    scaled = (torch.as_tensor(image).detach().cpu().float().clamp(-1, 1) + 1) * 127.5
    return rows_and_columns(scaled.round()).astype(np.uint8)


def outlined(image: Any, instances: Any | None, colour: tuple[int, int, int]) -> Picture:
    """A tile of an image, enlarged so that outlines are thin, with those of instances (1, x, y); None is none."""
    picture = picture_of(image)
    times = max(1, round(TILE_PX / max(picture.shape[:2])))
    large = picture.repeat(times, 0).repeat(times, 1)
    if instances is not None:
        numbers = rows_and_columns(instances)[..., 0].astype(np.int32)
        places = (((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(large.shape, numbers.shape, strict=False))
        large[find_boundaries(numbers[np.ix_(*places)], mode="inner")] = colour
    return large
