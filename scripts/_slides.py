# SPDX-License-Identifier: Apache-2.0
"""Pictures and slides, read by region."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import WSIReader
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image

TIFFS = (".tif", ".tiff")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
BACKENDS = ("openslide", "cucim", "tifffile")
INSTALL = "pip install openslide-python openslide-bin"

PLAIN_PX = 2**26
"""TIFFs with more pixels are read as slides."""
OVERVIEW_PX = 16
"""Side of a slide's tile, in pixels of the overview on which tissue is sought."""
BLOCK_PX = 4096
"""Side of the regions from which the overview of a slide is put together."""

Corner = tuple[int, int]


class Plain:
    """A picture that PIL reads whole."""

    def __init__(self, path: Path) -> None:
        try:
            with Image.open(path) as image:
                if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr"):
                    raise SystemExit(f"{path}: found a picture of mode {image.mode}, expected 8 bits a channel.")
                self.pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a picture.") from None
        self.shape = self.pixels.shape[:2]

    def region(self, corner: Corner, size: Corner) -> NDArray[np.uint8]:
        return self.pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]

    def overview(self, tile: int) -> NDArray[np.uint8]:
        stride = math.ceil(math.sqrt(math.prod(self.shape) / 2**24))
        return self.pixels[::stride, ::stride]


class Slide:
    """A slide, read by region through MONAI; with tifffile each level is read once, whole."""

    def __init__(self, path: Path, *, level: int) -> None:
        self.path, self.level = path, level
        self.reader, self.slide = _open_slide(path)
        self.levels = [self.reader.get_size(self.slide, n) for n in range(self.reader.get_level_count(self.slide))]
        self.whole: tuple[int, Any] = (-1, None)
        if self.reader.backend == "tifffile":  # whose pages are levels, thumbnails and labels alike
            series = self.slide.series[0]
            if series.axes != "YXS" or series.dtype != np.uint8:
                found = f"{series.dtype} values with the axes {series.axes}"
                raise SystemExit(f"{path}: found {found}, expected an RGB slide of 8 bits a channel.")
            self.levels = [each.shape[:2] for each in series.levels][: len(self.levels)]
        if level >= len(self.levels):
            raise SystemExit(f"{path}: found {len(self.levels)} level(s), expected one of number {level} (--level).")
        self.shape = self.levels[level]

    def region(self, corner: Corner, size: Corner, *, level: int | None = None) -> NDArray[np.uint8]:
        """Read a region (H, W, 3); ``corner`` and ``size`` count in the pixels of ``level``."""
        level = self.level if level is None else level
        if self.reader.backend == "tifffile":
            if self.whole[0] != level:
                self.whole = level, self._read((0, 0), self.levels[level], level)
            return self.whole[1][corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        ratio = self.reader.get_downsample_ratio(self.slide, level)
        return self._read((round(corner[0] * ratio), round(corner[1] * ratio)), size, level)

    def overview(self, tile: int) -> NDArray[np.uint8]:
        """The slide on which a tile of ``tile`` pixels has about ``OVERVIEW_PX``."""
        wanted = max(1.0, tile / OVERVIEW_PX)
        ratios = {n: self.shape[0] / self.levels[n][0] for n in range(self.level, len(self.levels))}
        level = max((n for n, ratio in ratios.items() if ratio <= wanted), key=ratios.__getitem__)
        stride = max(1, int(wanted / ratios[level]))
        block, (height, width) = BLOCK_PX // stride * stride or stride, self.levels[level]
        rows = []
        for top in range(0, height, block):
            size = [(min(block, height - top), min(block, width - left)) for left in range(0, width, block)]
            parts = [self.region((top, n * block), part, level=level) for n, part in enumerate(size)]
            rows.append(np.concatenate([part[::stride, ::stride] for part in parts], axis=1))
        return np.concatenate(rows)

    def _read(self, location: Corner, size: Corner, level: int) -> NDArray[np.uint8]:
        try:
            return np.moveaxis(self.reader.get_data(self.slide, location=location, size=size, level=level)[0], 0, -1)
        except Exception as error:  # the backends raise whatever their libraries raise
            found = f"a region that {self.reader.backend} cannot read ({error})"
            raise SystemExit(f"{self.path}: found {found}, expected a whole slide, or openslide: {INSTALL}.") from None


def _open_slide(path: Path) -> tuple[WSIReader, Any]:
    reasons = []
    for backend in BACKENDS:
        if not optional_import(backend)[1]:
            continue
        try:
            reader = WSIReader(backend)
            return reader, reader.read(path)
        except Exception as error:
            reasons.append(f"{backend}: {error}")
    found = "; ".join(reasons) or "nothing installed that reads slides"
    raise SystemExit(f"{path}: found no reader for it ({found}), expected a slide and openslide: {INSTALL}.")


def open_picture(path: Path, *, level: int = 0) -> Plain | Slide:
    """Open a slide, or read a picture.

    A TIFF is a slide where it has several pages or sub-directories or more than ``PLAIN_PX`` pixels.
    """
    slide = path.suffix.lower() in SLIDES
    if path.suffix.lower() in TIFFS:
        try:
            with Image.open(path) as image:
                pages, tags = getattr(image, "n_frames", 1), getattr(image, "tag_v2", {})
                slide = pages > 1 or 330 in tags or math.prod(image.size) > PLAIN_PX
        except (OSError, Image.DecompressionBombError):
            slide = True
    if slide:
        return Slide(path, level=level)
    if level:
        raise SystemExit(f"{path}: found a plain picture, expected a slide with level {level} (--level).")
    return Plain(path)
