# SPDX-License-Identifier: Apache-2.0
"""Made-up immunohistochemistry: cells with brown membranes and blue nuclei, a stand-in for HER2 slides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate
from scipy.spatial import cKDTree
from skimage.color import rgb_from_hed

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Stain:
    """How one slide was stained: what the tiles of one field share.

    Attributes:
        haematoxylin, dab: optical densities of the two stains in red, green and blue, each of length 1.
        strength: factor of the membranes' stain.
        background: optical density of brown that is not of the membrane.
        light: brightness of empty glass in red, green and blue, from 0 to 1.
        blur_px: standard deviation of the microscope's blur.
    """

    haematoxylin: Field
    dab: Field
    strength: float
    background: float
    light: Field
    blur_px: float


def draw_stain(rng: np.random.Generator) -> Stain:
    """A slide's stain: hues, strength, background, white balance and focus vary as between laboratories."""
    vectors = np.clip(rgb_from_hed[[0, 2]] + rng.normal(0, 0.06, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength, background, blur_px = rng.uniform(0.35, 1.2), rng.uniform(0.1, 0.6), rng.uniform(0.6, 1.3)
    light = np.clip(rng.uniform(0.75, 0.97) + rng.normal(0, 0.03, 3), 0.5, 0.99)
    return Stain(vectors[0], vectors[1], float(strength), float(background), light, float(blur_px))


def membrane_tile(
    size: int = 256, *, rng: np.random.Generator, stain: Stain | None = None, cell_px: float = 26.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One tile and the mask of its stained membranes.

    Nests of tumour cells lie in stroma. Neighbouring cells share a membrane; each cell has a staining of its own, from
    none to strong, and membranes break off along their way. Brown that is not membrane (cytoplasm, granules) is not in
    the mask, nor are membranes of cells that hardly stained.

    Args:
        size: height and width in pixels.
        rng: decides everything but the stain.
        stain: of the slide; drawn where None.
        cell_px: mean distance of neighbouring cells.

    Returns:
        RGB uint8 (size, size, 3) and uint8 (size, size), 1 on stained membranes.
    """
    stain = draw_stain(rng) if stain is None else stain
    centres = _centres(size, cell_px, rng)
    tumour = _smooth(size, 40, rng)
    wobble_px = 1.5 * np.stack([_smooth(size, 6, rng), _smooth(size, 6, rng)], -1)
    cell, edge_px, angle, radius = _cells(size, centres, wobble_px)
    inside = np.clip(centres.round().astype(int), 0, size - 1)
    of_tumour = tumour[inside[:, 0], inside[:, 1]] > -0.6
    staining = np.clip(0.55 + 0.35 * _smooth(size, 50, rng)[inside[:, 0], inside[:, 1]], 0, 1)
    staining = np.clip(staining + rng.normal(0, 0.18, len(centres)), 0, 1) * of_tumour
    whole = _completeness(cell, angle, staining, rng)
    width_px = rng.uniform(1.3, 2.2, len(centres))[cell]
    profile = np.exp(-((edge_px / width_px) ** 2)) * whole
    membrane = staining[cell] * profile
    mask = (profile > 0.5) & (staining[cell] > 0.25)
    nuclei = _nuclei(cell, angle, radius, of_tumour, cell_px, rng, size)
    grain = _smooth(size, 1.2, rng)
    cytoplasm = of_tumour[cell] * (0.5 + 0.5 * _smooth(size, 12, rng))
    granules = np.clip(_smooth(size, 2.5, rng) - 1.6, 0, 1.2) * of_tumour[cell]
    fibres = rotate(_smooth(size, (2, 12), rng), rng.uniform(0, 180), reshape=False, mode="grid-wrap", order=1)
    fibres = np.clip(fibres, 0, None) * ~of_tumour[cell]
    dab = (
        stain.strength * 1.5 * membrane * (1 + 0.25 * grain)
        + stain.background * np.clip(cytoplasm, 0, None)
        + 0.8 * granules
    )
    blue = 0.85 * nuclei * (1 + 0.25 * grain) + 0.07 * of_tumour[cell] + 0.12 * fibres
    density = np.clip(blue, 0, None)[..., None] * stain.haematoxylin + np.clip(dab, 0, None)[..., None] * stain.dab
    image = gaussian_filter(stain.light * np.exp(-1.3 * density), (stain.blur_px, stain.blur_px, 0)) + rng.normal(
        0, 0.012, (size, size, 3)
    )
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask.astype(np.uint8)


def _smooth(size: int, sigma_px: float | tuple[float, float], rng: np.random.Generator) -> Field:
    """Random field of unit variance."""
    field = gaussian_filter(rng.normal(size=(size, size)), sigma_px, mode="wrap")
    return (field - field.mean()) / field.std()


def _centres(size: int, cell_px: float, rng: np.random.Generator) -> Field:
    """Jittered hexagonal grid (N, 2), reaching beyond the tile."""
    rows = np.arange(-cell_px, size + cell_px, cell_px * 0.87)
    grid = [
        (y, x + cell_px / 2 * (n % 2)) for n, y in enumerate(rows) for x in np.arange(-cell_px, size + cell_px, cell_px)
    ]
    return np.array(grid) + rng.normal(0, 0.17 * cell_px, (len(grid), 2))


def _cells(size: int, centres: Field, wobble_px: Field) -> tuple[NDArray[np.int64], Field, Field, Field]:
    """For each pixel its cell, its distance from the border to the next one, and its direction and distance there."""
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1) + wobble_px
    distance, nearest = cKDTree(centres).query(pixels, k=2)
    apart = np.linalg.norm(centres[nearest[..., 1]] - centres[nearest[..., 0]], axis=-1)
    edge_px = (distance[..., 1] ** 2 - distance[..., 0] ** 2) / (2 * apart)
    offset = pixels - centres[nearest[..., 0]]
    return nearest[..., 0], edge_px, np.arctan2(offset[..., 0], offset[..., 1]), distance[..., 0]


def _completeness(cell: NDArray[np.int64], angle: Field, staining: Field, rng: np.random.Generator) -> Field:
    """From 0 to 1 along each cell's outline; weakly stained cells have more gaps."""
    wave = np.zeros_like(angle)
    for order in (1, 2, 3, 5):
        phase, height = rng.uniform(0, 2 * np.pi, len(staining)), rng.normal(0, 0.6, len(staining))
        wave += height[cell] * np.cos(order * angle + phase[cell])
    return 1 / (1 + np.exp(-8 * (wave + 2.2 * staining[cell] - 0.5)))


def _nuclei(
    cell: NDArray[np.int64], angle: Field, radius: Field, of_tumour: NDArray[np.bool_], cell_px: float,
    rng: np.random.Generator, size: int,
) -> Field:  # fmt: skip
    """Blue ellipses: large and pale in the tumour, few and thin in the stroma."""
    number = len(of_tumour)
    long_px = cell_px * np.where(of_tumour, rng.uniform(0.24, 0.36, number), rng.uniform(0.15, 0.35, number))
    ratio = np.where(of_tumour, rng.uniform(0.7, 1.0, number), rng.uniform(0.25, 0.5, number))
    there = rng.random(number) < np.where(of_tumour, 0.93, 0.45)
    turn, depth = rng.uniform(0, np.pi, number), rng.uniform(0.45, 1.0, number) * there
    along, across = radius * np.cos(angle - turn[cell]), radius * np.sin(angle - turn[cell])
    far = np.hypot(along / long_px[cell], across / (long_px * ratio)[cell])
    texture = 1 + 0.3 * _smooth(size, 1.8, rng)
    return depth[cell] * texture / (1 + np.exp(12 * (far - 1)))
