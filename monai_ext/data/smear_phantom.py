# SPDX-License-Identifier: Apache-2.0
"""Made-up cervical smears: translucent cells in clumps that overlap, each with its nucleus, in Papanicolaou's stain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.special import expit

Field = NDArray[np.float64]
Instances = list[tuple[int, NDArray[np.bool_]]]

CYTOPLASM, NUCLEUS = 1, 2
"""Class numbers of :func:`smear_field`."""

_LEAST_CELL, _LEAST_NUCLEUS = 0.2, 0.015
"""A cell or nucleus that the border leaves less of, in squares of the cell's radius, is not drawn."""
_STAINS = np.array([[0.85, 0.42, 0.31], [0.16, 0.65, 0.74], [0.62, 0.66, 0.43]])
"""Optical densities in red, green and blue of blue-green and of orange cytoplasm, and of nuclei."""


@dataclass(frozen=True)
class SmearStain:
    """How one field was stained and taken: what its pictures share.

    Attributes:
        cyanophilic, orangeophilic, haematoxylin: optical densities in red, green and blue, each of length 1, of
            blue-green cytoplasm, of pink to orange cytoplasm, and of nuclei.
        orange: share of cells that are orangeophilic.
        strength: factor of all stains.
        light: brightness of empty glass in red, green and blue, from 0 to 1.
        shading: relative standard deviation of that brightness over the field.
        cover: area of the cells together in areas of the picture, about; overlaps count twice.
        dirt: how much mucus, debris and how many white blood cells there are; 1 is usual.
        blur_px: standard deviation of the blur in focus.
    """

    cyanophilic: Field
    orangeophilic: Field
    haematoxylin: Field
    orange: float
    strength: float
    light: Field
    shading: float
    cover: float
    dirt: float
    blur_px: float


def draw_smear_stain(rng: np.random.Generator, *, spread: float = 1.0) -> SmearStain:
    """A field's stain: hues, strength, crowding, dirt, illumination and focus vary as between slides.

    Args:
        rng: decides all.
        spread: how much hues, strength, dirt, light and focus vary, in units of one laboratory's slides; 3 is like
            many laboratories'.
    """

    def within(low: float, high: float, *, least: float = 0.0, most: float = 9.0) -> float:
        middle, reach = (low + high) / 2, (high - low) / 2 * spread
        return float(rng.uniform(max(middle - reach, least), min(middle + reach, most)))

    vectors = np.clip(_STAINS + rng.normal(0, 0.05 * spread, (3, 3)), 0.05, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SmearStain(
        cyanophilic=vectors[0],
        orangeophilic=vectors[1],
        haematoxylin=vectors[2],
        orange=within(0, 0.5, most=1),
        strength=within(0.75, 1.25, least=0.4),
        light=np.clip(within(0.8, 0.95, most=0.97) + rng.normal(0, 0.02 * spread, 3), 0.6, 0.98),
        shading=float(rng.uniform(0.05, 0.1)),
        cover=float(rng.uniform(0.5, 1.0)),
        dirt=within(0.3, 1.8),
        blur_px=within(0.5, 1.0, least=0.3),
    )


def smear_field(
    size: int = 256, *, rng: np.random.Generator, stain: SmearStain | None = None, diameter_px: float = 56.0
) -> tuple[NDArray[np.uint8], Instances]:
    """One picture and the masks of its cells.

    Light that passes several cells is weakened by each (law of Beer and Lambert: their absorbances add), so that
    overlaps are darker. Cells are polygonal to round, some folded, a few out of focus; each has one nucleus, rarely
    two, and rarely a nucleus is naked. Mucus, debris and white blood cells, small, dark and lobed, are not annotated.

    Args:
        size: height and width in pixels.
        rng: decides everything but the stain.
        stain: of the field; drawn where None.
        diameter_px: mean diameter of a cell.

    Returns:
        RGB uint8 (size, size, 3), and for each instance its class, ``CYTOPLASM`` or ``NUCLEUS``, and its mask (size,
        size), not empty. Cytoplasm holds its nuclei, which follow it; masks of different cells may overlap, and the
        border cuts cells. Unless cells are only a few pixels wide, there is at least one with a nucleus.
    """
    stain = draw_smear_stain(rng) if stain is None else stain
    textures = _textures(size, rng)
    absorbance = np.zeros((2, size, size, 3))  # of what is in focus, and of what is not
    instances: Instances = []
    for number, (centre, radius) in enumerate(_places(size, diameter_px / 2, stain.cover, rng)):
        soft = int(number > 0 and rng.random() < 0.12)
        naked = number > 0 and rng.random() < 0.03
        _draw_cell(absorbance[soft], instances, centre, radius, naked=naked, stain=stain, textures=textures, rng=rng)
    _draw_white_cells(absorbance[0], diameter_px, stain, rng)
    absorbance[1] = gaussian_filter(absorbance[1], (0.05 * diameter_px, 0.05 * diameter_px, 0))
    dirt = _dirt(size, diameter_px, stain.dirt, rng)
    total = absorbance.sum(axis=0) + dirt[..., None] * (stain.cyanophilic + stain.haematoxylin) / 2
    light = stain.light * (1 + stain.shading * _smooth(size, 0.25 * size, rng))[..., None]
    image = light * 10 ** (-stain.strength * np.clip(total, 0, None))
    image = gaussian_filter(image, (stain.blur_px, stain.blur_px, 0)) + rng.normal(0, 0.012, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), instances


def _places(size: int, radius: float, cover: float, rng: np.random.Generator) -> list[tuple[Field, float]]:
    """Centres and radii of the cells, most at the side of another one and over its edge; the first well inside."""
    wanted = max(2, round(cover * (size + radius) ** 2 / (np.pi * radius**2)))
    placed = [(size * rng.uniform(0.3, 0.7, 2), radius)]
    for _ in range(20 * wanted):
        if len(placed) == wanted:
            break
        own = radius * float(np.clip(rng.normal(1, 0.2), 0.5, 1.5))
        if rng.random() < 0.7:
            beside, angle = placed[rng.integers(len(placed))], rng.uniform(0, 2 * np.pi)
            step = rng.uniform(0.4, 0.95) * (own + beside[1])
            centre = beside[0] + step * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(-radius, size + radius, 2)
        apart = all(np.linalg.norm(centre - other) > 0.39 * (own + its) for other, its in placed)
        if apart and np.all((centre > -0.6 * own) & (centre < size + 0.6 * own)):
            placed.append((centre, own))
    return placed


def _draw_cell(
    absorbance: Field, instances: Instances, centre: Field, radius: float, *, naked: bool, stain: SmearStain,
    textures: Field, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Adds a cell's absorbance (H, W, 3) and its masks, each only where enough of it is in view."""
    size = len(absorbance)
    box, y, x = _around(centre, 1.7 * radius, size)
    angle = np.arctan2(y, x)
    depth_px = _outline(angle, radius, rng) - np.hypot(y, x)
    shift = rng.integers(0, size, 2)
    rows, columns = ((np.arange(part.start, part.stop) + s) % size for part, s in zip(box, shift, strict=True))
    grain, cloud = textures[:, rows[:, None], columns]
    inside = (depth_px > 0) | naked
    if not naked and inside.sum() < _LEAST_CELL * radius**2:
        return
    thickness = expit(1.6 * depth_px) * _thickness(depth_px, angle, y, x, radius, rng) * (1 + 0.13 * cloud)
    nuclei = [_nucleus(y, x, radius, grain, rng) for _ in range(2 if rng.random() < 0.06 else 1)]
    if rng.random() < 0.15:  # a pale ring around the nucleus
        thickness *= np.prod([1 - 0.6 * np.exp(-(((far - 1.4) / 0.5) ** 2)) for far, _ in nuclei], axis=0)
    speckled = thickness * (1 + 0.12 * grain) + (depth_px > 1) * 0.25 * np.clip(grain - 2.2, 0, 1)
    if not naked:
        colour = stain.orangeophilic if rng.random() < stain.orange else stain.cyanophilic
        instances.append((CYTOPLASM, _on_picture(inside, box, size)))
        absorbance[box] += np.exp(rng.uniform(np.log(0.05), np.log(0.32))) * speckled[..., None] * colour
    for far, dye in nuclei:
        mask = (far < 1) & inside
        if mask.sum() >= _LEAST_NUCLEUS * radius**2:
            instances.append((NUCLEUS, _on_picture(mask, box, size)))
            absorbance[box] += (dye * inside)[..., None] * stain.haematoxylin


def _outline(angle: Field, radius: float, rng: np.random.Generator) -> Field:
    """Distance of the outline from the centre in each direction: a polygon of five to eight corners, cut round."""
    corners = int(rng.integers(5, 9))
    turns = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) / corners
    points = rng.uniform(0.85, 1.2, corners) * np.exp(1j * turns)
    edges = np.linspace(points, np.roll(points, -1), 24, endpoint=False, axis=1).ravel()
    both = gaussian_filter1d(np.stack([edges.real, edges.imag]), rng.uniform(1, 12), mode="wrap")
    ragged = 1 + 0.02 * gaussian_filter1d(rng.normal(size=edges.size), 1, mode="wrap")
    length, turned = np.hypot(*both) * ragged, np.arctan2(both[1], both[0] * rng.uniform(0.7, 1)) + rng.uniform(0, 7)
    return radius * np.interp(angle, turned, length, period=2 * np.pi)


def _thickness(depth_px: Field, angle: Field, y: Field, x: Field, radius: float, rng: np.random.Generator) -> Field:
    """Relative thickness of a cell: thin at its edge, which is rolled up in part, and double along a fold."""
    thickness = 0.7 + 0.45 * np.clip(depth_px / radius, 0, 1)
    rolled = np.clip(np.cos(angle - rng.uniform(0, 2 * np.pi)) - rng.uniform(0, 1), 0, 1)
    thickness += rng.uniform(0.5, 3) * rolled * np.exp(-(((depth_px - 1.5) / 1.5) ** 2))
    if rng.random() < 0.4:
        turn, near = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * radius
        across_px = y * np.sin(turn) + x * np.cos(turn) - near - 0.1 * (y * np.cos(turn) - x * np.sin(turn))
        thickness += 0.8 * expit(2 * across_px) * expit(-0.6 * (across_px - rng.uniform(0.05, 0.3) * radius))
    return thickness


def _nucleus(y: Field, x: Field, radius: float, grain: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Distance from a nucleus's centre, 1 on its outline, and its absorbance; the larger the paler."""
    share = float(np.clip(rng.lognormal(np.log(0.2), 0.28), 0.12, 0.42))
    turn, ratio, place = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1), 0.2 * radius * rng.uniform(-1, 1, 2)
    y, x = y - place[0], x - place[1]
    along, across = y * np.sin(turn) + x * np.cos(turn), y * np.cos(turn) - x * np.sin(turn)
    angle = np.arctan2(across, along)
    wobble = 1 + 0.08 * np.cos(2 * angle + rng.uniform(0, 7)) + 0.05 * np.cos(3 * angle + rng.uniform(0, 7))
    far = np.hypot(along, across / ratio) / (share * radius * wobble)
    dark = rng.uniform(0.4, 0.85) * np.sqrt(0.2 / share)
    rim = 1 + 0.2 * np.exp(-(((far - 0.85) / 0.15) ** 2))
    return far, dark * expit(1.6 * (1 - far) * share * radius) * rim * np.clip(1 + 0.25 * grain, 0.3, None)


def _draw_white_cells(absorbance: Field, diameter_px: float, stain: SmearStain, rng: np.random.Generator) -> None:
    """Small cells of two to four dark lobes, alone or in swarms."""
    size = len(absorbance)
    for _ in range(rng.poisson(stain.dirt * 0.12 * (size / diameter_px) ** 2)):
        swarm = rng.uniform(0, size, 2)
        for _ in range(rng.integers(1, 5)):
            radius = 0.075 * diameter_px * rng.uniform(0.8, 1.2)
            box, y, x = _around(swarm + rng.normal(0, 2.2 * radius, 2), 3 * radius, size)
            body = 0.12 * expit(2 * (1.3 * radius - np.hypot(y, x)))
            for turn in rng.uniform(0, 2 * np.pi) + np.linspace(0, 5, rng.integers(2, 5), endpoint=False):
                off = 0.55 * radius * np.array([np.sin(turn), np.cos(turn)])
                body += rng.uniform(0.4, 0.7) * expit(2.5 * (0.55 * radius - np.hypot(y - off[0], x - off[1])))
            absorbance[box] += np.minimum(body, 0.9)[..., None] * stain.haematoxylin


def _dirt(size: int, diameter_px: float, amount: float, rng: np.random.Generator) -> Field:
    """Absorbance of mucus, in veils and strands, and of specks: none of it is annotated."""
    veil = np.clip(_smooth(size, 0.7 * diameter_px, rng) - 0.4, 0, 1.5)
    strand = np.exp(-((_smooth(size, 0.45 * diameter_px, rng) / 0.06) ** 2)) * np.clip(
        _smooth(size, 0.8 * diameter_px, rng) - 0.3, 0, 1
    )
    specks = np.clip(_smooth(size, 0.025 * diameter_px, rng) - 3.3 + 0.25 * amount, 0, 0.7)
    return amount * (0.07 * veil + 0.22 * strand) + 0.9 * specks


def _textures(size: int, rng: np.random.Generator) -> Field:
    """Fine and coarse random fields (2, size, size), of which each cell takes another part."""
    return np.stack([_smooth(size, 0.9, rng), _smooth(size, 5.0, rng)])


def _around(centre: Field, reach_px: float, size: int) -> tuple[tuple[slice, slice], Field, Field]:
    """The pixels around a centre that are in the picture, and their rows and columns from it."""
    first = np.clip(np.floor(centre - reach_px), 0, size).astype(int)
    last = np.clip(np.ceil(centre + reach_px) + 1, 0, size).astype(int)
    y, x = np.meshgrid(*(np.arange(a, b) - c for a, b, c in zip(first, last, centre, strict=True)), indexing="ij")
    return (slice(first[0], last[0]), slice(first[1], last[1])), y, x


def _on_picture(inside: NDArray[np.bool_], box: tuple[slice, slice], size: int) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), dtype=bool)
    mask[box] = inside
    return mask


def _smooth(size: int, sigma_px: float, rng: np.random.Generator) -> Field:
    """Random field of unit variance that wraps around; by Fourier transform, so that wide ones cost no more."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    passed = np.exp(-2 * (np.pi * sigma_px) ** 2 * (rows**2 + columns**2))
    passed[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) * passed, s=(size, size))
    return field / field.std()
