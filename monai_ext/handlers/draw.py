# SPDX-License-Identifier: Apache-2.0
"""Pictures of a segmentation over its image: contours of the prediction and the reference, as an RGB array."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import label as components
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.transform import resize

PREDICTION_RGB = (255, 140, 0)
REFERENCE_RGB = (64, 180, 255)
"""Orange and blue stay apart for all common kinds of colour blindness."""

_PLANES = ((2, "R", "A"), (1, "R", "S"), (0, "A", "S"))
"""Axis cut, letter at the left and at the top of the panel: axial, coronal, sagittal."""
_GAP_PX = 6
_MAX_SIDE_PX = 1000


def draw_overlay(
    image: NDArray[Any],
    pred: NDArray[np.integer],
    label: NDArray[np.integer] | None = None,
    *,
    spacing_mm: NDArray[np.floating],
    letters: bool = False,
    context: float | None = 1.0,
    side_px: int = 320,
) -> NDArray[np.uint8]:
    """Draws three orthogonal planes of a volume side by side, or one image, with contours.

    The planes go through the centre of mass of the reference's (else the prediction's) largest connected part, or
    through the voxel of that part that is nearest to it.
    Images are windowed from their 1st to their 99th percentile; the aspect respects the spacing.

    Args:
        image: (K, *S); three channels in 2-D are red, green and blue, otherwise the first channel is shown. For
            ``letters`` a volume's axes must run towards left, posterior and inferior.
        pred: label map (*S), 0 is background.
        label: the reference's label map (*S), if there is one.
        spacing_mm: voxel size along each axis.
        letters: write R, A and S at the panels' sides.
        context: margin around the objects, in multiples of their largest extent; ``None`` shows the whole image.
        side_px: length of the longest side shown; no panel's longer side is below 200 pixels.

    Returns:
        Picture (H, W, 3), uint8.
    """
    masks = [mask for mask in (label, pred) if mask is not None]
    box = _view_box(masks, spacing_mm, context)
    image = window(image, rgb=pred.ndim == 2 and len(image) == 3)[(slice(None), *box)]
    masks = [mask[box] for mask in masks]
    colours = [REFERENCE_RGB, PREDICTION_RGB][-len(masks) :]
    extent = np.array(masks[0].shape) * spacing_mm
    scale = min(max(side_px / extent.max(), 200 / np.sort(extent)[-2]), _MAX_SIDE_PX / extent.max())
    sizes = np.maximum(1, np.round(extent * scale)).astype(int)
    if pred.ndim == 2:
        return _panel(image, masks, colours, sizes)
    centre = _centre(masks)
    panels = []
    for axis, left, top in _PLANES:
        cut = [np.take(mask, centre[axis], axis=axis) for mask in masks]
        panel = _panel(np.take(image, centre[axis], axis=axis + 1), cut, colours, np.delete(sizes, axis))
        panels.append(_with_letters(panel, left, top) if letters else panel)
    return _side_by_side(panels)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Encodes a picture (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def window(image: NDArray[Any], *, rgb: bool) -> NDArray[np.float32]:
    """Channels shown, (1 or 3, *S), of an image (K, *S): its 1st to 99th percentile scaled to 0..1."""
    image = np.nan_to_num(image[:3] if rgb else image[:1]).astype(np.float32)
    low, high = np.percentile(image, [1, 99])
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1)


def _view_box(
    masks: list[NDArray[np.integer]], spacing_mm: NDArray[np.floating], context: float | None
) -> tuple[slice, ...]:
    shape = np.array(masks[0].shape)
    voxels = np.argwhere(np.any([mask != 0 for mask in masks], axis=0))
    if context is None or len(voxels) == 0:
        return tuple(slice(0, int(n)) for n in shape)
    first, last = voxels.min(0), voxels.max(0) + 1
    margin = np.ceil(context * ((last - first) * spacing_mm).max() / spacing_mm).astype(int)
    first, last = np.maximum(first - margin, 0), np.minimum(last + margin, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def _centre(masks: list[NDArray[np.integer]]) -> NDArray[np.integer]:
    for mask in masks:
        parts, count = components(mask != 0)
        if count:
            voxels = np.argwhere(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
            return voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()]
    return np.array(masks[0].shape) // 2


def _panel(
    image: NDArray[np.float32],
    masks: list[NDArray[np.integer]],
    colours: list[tuple[int, int, int]],
    sizes: NDArray[np.integer],
) -> NDArray[np.uint8]:
    """One plane: image (K, X, Y) and masks (X, Y) to a picture (rows along Y, columns along X)."""
    width, height = (int(n) for n in sizes)
    shown = resize(image, (len(image), width, height), order=1, mode="edge", anti_aliasing=width < image.shape[1])
    picture = np.round(255 * np.broadcast_to(shown, (3, width, height)).transpose(2, 1, 0)).astype(np.uint8)
    rows, columns = (((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(image.shape[1:], sizes, strict=True))
    # The first contour, the reference's, is wider: it stays visible where the other runs over it.
    for mask, colour, width_px in zip(masks, colours, [4, 2][-len(masks) :], strict=True):
        big = mask[np.ix_(rows, columns)].T
        reach = 2 * width_px + 1
        picture[(big != 0) & (maximum_filter(big, reach) != minimum_filter(big, reach))] = colour
    return picture


def _with_letters(panel: NDArray[np.uint8], left: str, top: str) -> NDArray[np.uint8]:
    canvas = Image.fromarray(panel)
    pen = ImageDraw.Draw(canvas)
    height, width = panel.shape[:2]
    for place, letter in (((4, height // 2 - 7), left), ((width // 2 - 4, 2), top)):
        pen.text(place, letter, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0), font_size=14)
    return np.asarray(canvas)


def _side_by_side(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] + _GAP_PX for panel in panels) - _GAP_PX
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    x = 0
    for panel in panels:
        y = (height - panel.shape[0]) // 2
        picture[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
        x += panel.shape[1] + _GAP_PX
    return picture


def sheet(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Tiles beside each other, row below row, on white."""
    height = max(tile.shape[0] for row in rows for tile in row) + _GAP_PX
    width = max(tile.shape[1] for row in rows for tile in row) + _GAP_PX
    canvas = np.full((len(rows) * height - _GAP_PX, max(map(len, rows)) * width - _GAP_PX, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        for place, tile in enumerate(row):
            canvas[number * height :, place * width :][: tile.shape[0], : tile.shape[1]] = tile
    return canvas
