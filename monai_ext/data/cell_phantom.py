# SPDX-License-Identifier: Apache-2.0
"""Made-up microscopy of cells: stained nuclei in fluorescence, and unstained cells in phase contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as components

from monai_ext.functional.instances import centroids

Field = NDArray[np.float64]

CLICK_ERROR_PX = 2.0
"""Furthest that a click lies from a cell's centre."""
STYLES = ("nuclei", "label_free")

_LEAST_VISIBLE = 0.15
"""A cell of which the border leaves a smaller share, unless it still fills that much of the picture, is not drawn."""


@dataclass(frozen=True)
class Exposure:
    """How one field was grown and taken: what its pictures share.

    Attributes:
        diameter_px: mean diameter of a cell.
        density: share of the picture that cells cover, about.
        clumping: probability that a cell lies at the side of another one.
        light: brightness of a usual cell above the background, in grey values of 255.
        background: brightness between cells.
        haze: share of the light that is scattered over a cell's surroundings.
        blur_px: standard deviation of the blur in focus.
        out_of_focus: probability that a cell is out of focus.
        photons: per grey value; the fewer, the more shot noise.
    """

    diameter_px: float
    density: float
    clumping: float
    light: float
    background: float
    haze: float
    blur_px: float
    out_of_focus: float
    photons: float


@dataclass(frozen=True)
class _Cells:
    """N cells on a canvas: centres (N, 2) in rows and columns, and radii (N,) of their mean outline."""

    centres: Field
    radii: Field
    owner: NDArray[np.int64]
    """(S, S): number of the cell at each pixel, -1 between cells."""
    reach: Field
    """(S, S): distance from the centre of the nearest cell, 1 on its outline; infinite far from all."""
    nearest: NDArray[np.int64]
    """(S, S): that cell."""


def draw_exposure(rng: np.random.Generator, *, diameter_px: float = 18.0) -> Exposure:
    """A field's exposure: size, density, brightness, focus and noise vary as between experiments."""
    return Exposure(
        diameter_px=float(diameter_px * rng.uniform(0.85, 1.15)),
        density=float(rng.uniform(0.14, 0.32)),
        clumping=float(rng.uniform(0.3, 0.7)),
        light=float(np.exp(rng.uniform(np.log(35), np.log(120)))),
        background=float(rng.uniform(4, 18)),
        haze=float(rng.uniform(0.05, 0.25)),
        blur_px=float(rng.uniform(0.6, 1.2)),
        out_of_focus=float(rng.uniform(0.05, 0.2)),
        photons=float(rng.uniform(2, 8)),
    )


def cell_picture(
    size: int = 128,
    *,
    rng: np.random.Generator,
    style: str = "nuclei",
    diameter_px: float = 18.0,
    exposure: Exposure | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], Field]:
    """One picture, the label map of its cells and a click near the centre of each.

    Cells vary in size, shape and brightness; some touch, some are out of focus and the border cuts some. The
    background is uneven, debris is as bright as cells, and the noise is that of counted photons.

    Args:
        size: height and width in pixels.
        rng: decides everything but the exposure.
        style: ``"nuclei"``, bright on dark, or ``"label_free"``, textured cells as bright as the background, in halos.
        diameter_px: mean diameter, where ``exposure`` is None.
        exposure: of the field; drawn where None.

    Returns:
        Grey uint8 (size, size); label map uint16 (size, size), each cell in one piece; points (N, 2), [x, y] in
        pixels with the centre of the first pixel at 0, one for each of the cells 1, ..., N, at most
        ``CLICK_ERROR_PX`` from the centre of its pixels, and on them. There is at least one cell.

    Raises:
        ValueError: at an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}, expected one of {', '.join(STYLES)}.")
    exposure = draw_exposure(rng, diameter_px=diameter_px) if exposure is None else exposure
    # The canvas is larger than the picture, for cells beyond the border send light into it.
    margin = int(np.ceil(1.5 * exposure.diameter_px))
    cells = _grow(size + 2 * margin, margin, exposure, rng, ruggedness=1.0 if style == "nuclei" else 2.5)
    inside = (slice(margin, margin + size),) * 2
    _prune(cells, inside)
    paint = _nuclei if style == "nuclei" else _label_free
    image = paint(cells, exposure, rng)[inside]
    counted = rng.poisson(np.clip(image, 0, None) * exposure.photons) / exposure.photons
    picture = np.clip(counted + rng.normal(0, 0.6, image.shape), 0, 255).round().astype(np.uint8)
    _, numbers = np.unique(np.append(cells.owner[inside].ravel(), -1), return_inverse=True)
    labels = numbers[:-1].reshape(size, size).astype(np.uint16)
    return picture, labels, _clicks(labels, rng)


def _grow(size: int, margin: int, exposure: Exposure, rng: np.random.Generator, *, ruggedness: float) -> _Cells:
    """Places cells on a canvas, many at the side of another one, and tells each pixel its cell."""
    mean = exposure.diameter_px / 2
    wanted = max(1, round(exposure.density * size**2 / (np.pi * mean**2)))
    centres, radii = [margin + (size - 2 * margin) * rng.uniform(0.25, 0.75, 2)], [mean]  # one well inside the picture
    for _ in range(20 * wanted):
        if len(centres) == wanted:
            break
        radius = mean * np.clip(rng.normal(1, 0.2), 0.5, 1.7) * (0.6 if rng.random() < 0.06 else 1)
        if rng.random() < exposure.clumping:
            beside, angle = rng.integers(len(centres)), rng.uniform(0, 2 * np.pi)
            step = rng.uniform(0.85, 1.0) * (radius + radii[beside])
            centre = centres[beside] + step * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(0, size, 2)
        apart = np.linalg.norm(np.array(centres) - centre, axis=1)
        if np.all(apart > 0.83 * (np.array(radii) + radius)) and np.all((centre > 0) & (centre < size)):
            centres.append(centre)
            radii.append(float(radius))
    return _outlines(size, np.array(centres), np.array(radii), rng, ruggedness=ruggedness)


def _outlines(size: int, centres: Field, radii: Field, rng: np.random.Generator, *, ruggedness: float) -> _Cells:
    reach, nearest = np.full((size, size), np.inf), np.full((size, size), -1)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        first = np.maximum(np.floor(centre - 2.2 * radius).astype(int), 0)
        last = np.minimum(np.ceil(centre + 2.2 * radius).astype(int) + 1, size)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        y, x = np.meshgrid(*(np.arange(a, b) - c for a, b, c in zip(first, last, centre, strict=True)), indexing="ij")
        angle, ratio = np.arctan2(y, x) - rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
        outline = radius / np.sqrt(ratio * np.cos(angle) ** 2 + np.sin(angle) ** 2 / ratio)
        for order in (2, 3, 4, 5):
            outline *= 1 + ruggedness * rng.normal(0, 0.07 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        here = np.hypot(x, y) / outline
        closer = here < reach[box]
        reach[box][closer], nearest[box][closer] = here[closer], number
    return _Cells(centres, radii, np.where(reach < 1, nearest, -1), reach, nearest)


def _prune(cells: _Cells, inside: tuple[slice, slice]) -> None:
    """Takes away what a neighbour or the border has cut off a cell, and cells that the border leaves little of."""
    view = cells.owner[inside]
    for number in np.unique(view[view >= 0]):
        parts, count = components(view == number)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        if sizes.max() >= _LEAST_VISIBLE * min(np.pi * cells.radii[number] ** 2, view.size):
            view[(parts > 0) & (parts != sizes.argmax() + 1)] = -1
        else:
            cells.owner[cells.owner == number] = -1


def _nuclei(cells: _Cells, exposure: Exposure, rng: np.random.Generator) -> Field:
    size, count = len(cells.owner), len(cells.radii)
    small = cells.radii < 0.36 * exposure.diameter_px
    strength = exposure.light * np.exp(rng.normal(0, 0.35, count)) * np.where(small & (rng.random(count) < 0.5), 2.2, 1)
    grain_px = np.clip(0.07 * exposure.diameter_px, 1, None)
    texture = 1 + 0.16 * _smooth(size, grain_px, rng) + 0.1 * _smooth(size, 2.5 * grain_px, rng)
    dome = np.where(cells.owner >= 0, 1 - 0.45 * np.minimum(cells.reach, 1) ** 3, 0)
    light = np.where(cells.owner >= 0, strength[cells.owner], 0) * dome * np.clip(texture, 0.3, None)
    soft = (rng.random(count) < exposure.out_of_focus)[cells.owner] & (cells.owner >= 0)
    defocus_px = exposure.blur_px + rng.uniform(0.08, 0.16) * exposure.diameter_px
    image = gaussian_filter(np.where(soft, 0, light), exposure.blur_px)
    image += gaussian_filter(np.where(soft, 0.75 * light, 0), defocus_px)
    image += exposure.haze * gaussian_filter(light, 0.6 * exposure.diameter_px)
    image += gaussian_filter(_debris(size, exposure, rng), exposure.blur_px)
    uneven = 1 + 0.12 * _smooth(size, 0.4 * size, rng)
    return (image + exposure.background) * np.clip(uneven, 0.6, 1.4)


def _label_free(cells: _Cells, exposure: Exposure, rng: np.random.Generator) -> Field:
    """As bright inside as outside: granules within, a dark rim, and a bright halo around."""
    size = len(cells.owner)
    edge_px = (np.minimum(cells.reach, 3) - 1) * cells.radii[cells.nearest]
    inside = cells.owner >= 0
    depth = np.exp(rng.normal(0, 0.3, len(cells.radii)))[cells.nearest] * (cells.nearest >= 0)
    granules = 0.6 * _smooth(size, 1.0, rng) + 0.4 * _smooth(size, 0.12 * exposure.diameter_px, rng)
    halo = depth * np.exp(-(((edge_px - 2.0) / 1.6) ** 2)) * ~inside
    rim = depth * np.exp(-(((edge_px + 1.0) / 1.3) ** 2)) * inside
    image = 0.14 * inside * depth * granules + 0.45 * halo - 0.3 * rim + 0.015 * _smooth(size, 3.0, rng)
    uneven = 1 + 0.06 * _smooth(size, 0.4 * size, rng)
    return (110 + exposure.light * gaussian_filter(image, exposure.blur_px)) * uneven


def _debris(size: int, exposure: Exposure, rng: np.random.Generator) -> Field:
    """Specks of a few pixels, which are no cells."""
    specks = np.zeros((size, size))
    count = rng.poisson(size**2 / (18 * exposure.diameter_px) ** 2)
    place = rng.integers(0, size, (count, 2))
    specks[tuple(place.T)] = exposure.light * rng.uniform(2, 8, count)
    return gaussian_filter(specks, 0.6)


def _clicks(labels: NDArray[np.uint16], rng: np.random.Generator) -> Field:
    """Points (N, 2), [x, y]: the centres of mass, off by a click's error; nearer where that would miss the cell."""
    numbers, centres = centroids(labels, inside=True)
    angle, far = rng.uniform(0, 2 * np.pi, len(numbers)), CLICK_ERROR_PX * np.sqrt(rng.random(len(numbers)))
    error = far[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    points = centres
    for share in (0.25, 0.5, 1.0):
        moved = centres + share * error
        pixel = np.clip(np.floor(moved + 0.5).astype(int), 0, len(labels) - 1)
        hit = (labels[tuple(pixel.T)] == numbers) & (np.abs(moved - pixel) <= 0.5).all(axis=1)
        points = np.where(hit[:, None], moved, points)
    return points[:, ::-1].copy()


def _smooth(size: int, sigma_px: float, rng: np.random.Generator) -> Field:
    """Random field of unit variance."""
    field = gaussian_filter(rng.normal(size=(size, size)), sigma_px, mode="wrap")
    return (field - field.mean()) / field.std()
