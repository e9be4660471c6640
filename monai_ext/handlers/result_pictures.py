# SPDX-License-Identifier: Apache-2.0
"""What somebody opens after the inference on pictures: masks, overlays and how much of each class there is."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.files import write_atomically
from monai_ext.handlers.picture_results import PictureResults

CLASS_RGB = ((0, 0, 0), (255, 140, 0), (64, 180, 255), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""Colour of each class number, background first; they stay apart for colour blindness and begin anew where they end."""

AREAS = "areas.csv"


class ResultPictures(PictureResults):
    """Writes ``<name>_seg.png`` and ``<name>_overlay.png`` for each picture, and ``areas.csv`` for all of them.

    The mask has one byte a pixel, the class number, and a palette, so that programs read numbers and people see
    colours. The overlay is the picture with the classes tinted and outlined. The table has, for each picture, its
    pixels and for each class its pixels and its percentage of the picture; a last row adds up.

    The arguments are those of :class:`~monai_ext.handlers.picture_results.PictureResults`. A picture is 8-bit and
    (3, x, y), a result class numbers (1, x, y).
    """

    table = AREAS

    def save(self, file: Path, picture: NDArray[Any], pred: NDArray[Any]) -> dict[str, Any]:
        """Writes the mask and the overlay."""
        name = str(file.with_suffix(""))
        classes = pred[..., 0].astype(np.uint8)
        write_atomically(self.output_dir / f"{name}_seg.png", palette_png(classes))
        if self.overlays:
            drawn = tint(picture.astype(np.uint8), classes)
            write_atomically(self.output_dir / f"{name}_overlay.png", png_bytes(drawn))
        return {"image": name, **areas(classes, self.names)}

    def total(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pixels of all pictures, and of each class in them."""
        total: dict[str, Any] = {"image": "all", "pixels": sum(row["pixels"] for row in rows)}
        for name in self.names.values():
            count = sum(row[f"{name} (px)"] for row in rows)
            total |= {f"{name} (px)": count, f"{name} (%)": round(100 * count / total["pixels"], 3)}
        return total


def areas(classes: NDArray[np.uint8], names: Mapping[int, str]) -> dict[str, float]:
    """Pixels of a map (H, W), and pixels and percentage of each named class."""
    found: dict[str, float] = {"pixels": classes.size}
    for value, name in names.items():
        count = int(np.count_nonzero(classes == value))
        found |= {f"{name} (px)": count, f"{name} (%)": round(100 * count / classes.size, 3)}
    return found


def palette_png(classes: NDArray[np.uint8]) -> bytes:
    """A PNG whose pixels are class numbers (H, W), shown in :data:`CLASS_RGB`."""
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([channel for value in range(256) for channel in colour_of(value)])
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def tint(picture: NDArray[np.uint8], classes: NDArray[np.uint8], *, share: float = 0.3) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with its classes (H, W) mixed in by ``share`` and outlined one pixel wide within."""
    drawn = picture.copy()
    for value in np.unique(classes[classes > 0]):
        mask, colour = classes == value, np.array(colour_of(int(value)))
        drawn[mask] = np.round((1 - share) * drawn[mask] + share * colour).astype(np.uint8)
        drawn[find_boundaries(mask, mode="inner")] = colour
    return drawn


def colour_of(value: int) -> tuple[int, int, int]:
    """Colour of a class number."""
    return CLASS_RGB[0] if value == 0 else CLASS_RGB[1 + (value - 1) % (len(CLASS_RGB) - 1)]
