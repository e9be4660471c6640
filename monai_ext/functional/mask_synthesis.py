# SPDX-License-Identifier: Apache-2.0
"""New instance maps of the nuclei of an annotated one, set down where they do not touch.

Source: Lou et al., "Which pixel to annotate: a label-efficient nuclei segmentation framework" (IEEE TMI 2022), section
III-B, Fig. 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, find_objects

Mask = NDArray[np.bool_]


class Nucleus(NamedTuple):
    """A nucleus to be set down."""

    offsets: NDArray[np.int64]
    """(n, 2) rows and columns of its pixels, from its centre on."""
    radius_px: float
    """R_q, from the centre's pixel to its farthest one."""


class SynthesizedMask(NamedTuple):
    """A synthetic instance map."""

    instances: NDArray[np.int32]
    """(h, w): 0 for background, 1, 2, ... for what shows of the nuclei."""
    placed: int
    """Nuclei set down before the map was cropped; those that found no room are left out."""
    wanted: int
    """Q, how many were asked for."""


def nuclei_of(instances: ArrayLike, *, border_px: int = 0, least_px: int = 5) -> list[Nucleus]:
    """The nuclei of an instance map (H, W), as they are, by number; what lies at the border is cut and left out.

    The centre is the centroid, rounded to a pixel.

    Args:
        instances: 0 for background.
        border_px: nuclei that come within so many pixels of the border are left out.
        least_px: smaller ones are left out.
    """
    numbers = np.asarray(instances)
    found = []
    for number, box in enumerate(find_objects(numbers.astype(np.int32)), start=1):
        if box is None:
            continue
        near = min(box[0].start, box[1].start, numbers.shape[0] - box[0].stop, numbers.shape[1] - box[1].stop)
        mask = numbers[box] == number
        if near >= border_px and mask.sum() >= least_px:
            found.append(_nucleus(mask))
    return found


def turned(nuclei: Sequence[Nucleus]) -> list[Nucleus]:
    """Each in its eight flips and quarter turns; shapes and radii stay what they are."""
    pixels = [np.array([[a, b], [c, d]]) for a, b, c, d in _TURNS]
    return [nucleus._replace(offsets=nucleus.offsets @ turn) for nucleus in nuclei for turn in pixels]


def synthesize_mask(
    nuclei: Sequence[Nucleus],
    *,
    number: int,
    size: tuple[int, int],
    margin_px: int = 22,
    gap_px: float = math.sqrt(2),
    rng: np.random.Generator,
) -> SynthesizedMask:
    """Set nuclei down at random until there are Q of them, and cut the margin off, so that some are incomplete.

    Each is drawn with replacement, and its centre is a random pixel farther than R_q and the gap from all before it.
    That is the paper's dilation of the map by R_q, exact and with one distance transform around each nucleus. The
    released code dilates by about half of R_q, so that its nuclei overlap.

    Args:
        nuclei: E, for example :func:`turned` ones of :func:`nuclei_of` a patch.
        number: Q.
        size: height and width of the map.
        margin_px: how far the canvas goes beyond the map on each side.
        gap_px: kept between nuclei; below the root of 2 they may touch at a corner, and be one to whoever counts
            components.
        rng: what is drawn from.

    Raises:
        ValueError: no nuclei, or a negative number.
    """
    if not nuclei or number < 0:
        raise ValueError(f"found {len(nuclei)} nuclei of which to set down {number}, expected some, and 0 or more.")
    canvas = np.zeros((size[0] + 2 * margin_px, size[1] + 2 * margin_px), np.int32)
    distance = np.full(canvas.shape, np.inf)
    reach = math.ceil(max(nucleus.radius_px for nucleus in nuclei) + gap_px) + 1
    placed = 0
    for nucleus in (nuclei[n] for n in rng.integers(len(nuclei), size=number)):
        places = np.flatnonzero(distance > nucleus.radius_px + gap_px)
        if not len(places):
            continue
        centre = np.array(np.unravel_index(rng.choice(places), canvas.shape))
        rows, columns = (centre + nucleus.offsets).T
        inside = (rows >= 0) & (rows < canvas.shape[0]) & (columns >= 0) & (columns < canvas.shape[1])
        placed += 1
        canvas[rows[inside], columns[inside]] = placed
        _come_nearer(distance, rows[inside], columns[inside], reach)
    shown = canvas[margin_px : margin_px + size[0], margin_px : margin_px + size[1]]
    names, numbers = np.unique(shown, return_inverse=True)
    relabelled = numbers.reshape(size) + (1 if names[0] else 0)
    return SynthesizedMask(relabelled.astype(np.int32), placed, number)


def synthesize_masks(
    instances: ArrayLike,
    *,
    number: int = 50,
    density: tuple[float, float] = (0.8, 1.2),
    margin_px: int = 22,
    border_px: int = 1,
    rng: np.random.Generator,
) -> list[SynthesizedMask]:
    """Synthetic maps of the size of an annotated patch's, of about as many nuclei.

    Fewer maps are the first ones of more. Q is drawn for each map: the patch's own number, for the larger canvas, times
    a random factor. (The released code draws it by a flag that somebody set for each patch.) Nuclei are those that the
    border does not cut.

    Args:
        instances: of the patch (H, W), 0 for background.
        number: of maps.
        density: least and largest factor.
        margin_px: see :func:`synthesize_mask`.
        border_px: see :func:`nuclei_of`; the released code has 6.
        rng: what is drawn from.

    Raises:
        ValueError: no nucleus is left that the border does not cut.
    """
    numbers = np.asarray(instances)
    nuclei = turned(nuclei_of(numbers, border_px=border_px))
    if not nuclei:
        raise ValueError(f"instances: found no nucleus farther than {border_px} px from the border, expected some.")
    height, width = numbers.shape
    own = len(np.unique(numbers[numbers > 0]))
    usual = own * (height + 2 * margin_px) * (width + 2 * margin_px) / (height * width)
    shape: dict[str, Any] = {"size": (height, width), "margin_px": margin_px, "rng": rng}
    return [synthesize_mask(nuclei, number=round(usual * rng.uniform(*density)), **shape) for _ in range(number)]


_TURNS = [
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


def _nucleus(mask: Mask) -> Nucleus:
    pixels = np.argwhere(mask)
    offsets = pixels - np.floor(pixels.mean(0) + 0.5).astype(np.int64)
    return Nucleus(offsets, float(np.sqrt((offsets**2).sum(1).max())))


def _come_nearer(
    distance: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], reach: int
) -> None:
    """Lowers each pixel's distance to the nearest nucleus for a new one, as far as ``reach``; beyond, nobody asks."""
    if not len(rows):
        return
    top, left = max(0, rows.min() - reach), max(0, columns.min() - reach)
    window = distance[top : rows.max() + reach + 1, left : columns.max() + reach + 1]
    free = np.ones(window.shape, bool)
    free[rows - top, columns - left] = False
    np.minimum(window, distance_transform_edt(free), out=window)
