# SPDX-License-Identifier: Apache-2.0
"""Made-up tissue stained with haematoxylin and eosin: nuclei of several kinds, each kind in regions of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.ndimage import label as components
from scipy.spatial import cKDTree
from scipy.special import expit

from monai_ext.data.smear_phantom import _around, _smooth

Field = NDArray[np.float64]

LYMPHOID, EPITHELIUM, STROMA = 0, 1, 2
"""Kinds of regions: dense small round nuclei; large pale oval ones; thin ones along fibres."""

_STAINS = np.array([[0.62, 0.73, 0.31], [0.17, 0.86, 0.44]])
"""Optical densities of haematoxylin and of eosin in red, green and blue."""
_LEAST_VISIBLE = 0.3
"""A nucleus of which border and neighbours leave a smaller share is not drawn."""
_MOST_OVERLAP = 0.12
"""Share of a nucleus that may fall on what lies there already, which keeps it: so nuclei come to touch."""
_WIDEST_ROOM = 1.2
"""Of the empty ring around a nucleus, in its radius."""
_THROWS = 6
"""Tries to place a nucleus, for each square of the mean diameter."""


class _Look(NamedTuple):
    """How the nuclei of one kind look; lengths in the mean diameter or, within a nucleus, in its radius."""

    diameter: float
    ratio: tuple[float, float]
    """Least and greatest ratio of the axes."""
    room: float
    """Mean width of the empty ring around a nucleus."""
    chance: float
    """Share of the throws that count; the lower, the sparser."""
    stray: float
    """Standard deviation in radians of its direction from that of the fibres."""
    density: float
    rim: float
    clumps: float
    """Optical density, how much darker the rim is, and relative standard deviation of the chromatin."""
    nucleoli: int


_LOOKS = (
    _Look(0.85, (0.8, 1.0), 0.16, 1.0, 3.0, 0.85, 0.10, 0.22, 0),
    _Look(1.3, (0.6, 0.95), 0.40, 1.0, 0.8, 0.40, 0.55, 0.28, 2),
    _Look(1.0, (0.18, 0.4), 0.90, 0.15, 0.15, 0.65, 0.15, 0.20, 0),
)


class _Nucleus(NamedTuple):
    """One that has its place."""

    centre: Field
    box: tuple[slice, slice]
    mask: NDArray[np.bool_]
    far: Field
    """Both of the box: its pixels, and the distance from its centre, 1 on the outline."""
    thin_px: float
    look: _Look


@dataclass(frozen=True)
class TissueStain:
    """What was cut, and how it was stained and taken: what the pictures of one field share.

    Attributes:
        haematoxylin, eosin: optical densities in red, green and blue, each of length 1.
        strength: factor of both stains.
        pink: factor of eosin alone.
        light: brightness of empty glass in red, green and blue, from 0 to 1.
        blur_px: standard deviation of the blur in focus.
        shares: of the picture that is ``LYMPHOID``, ``EPITHELIUM`` and ``STROMA``, about; their sum is 1.
        gaps: how much of the tissue is torn or hollow; 1 is usual.
    """

    haematoxylin: Field
    eosin: Field
    strength: float
    pink: float
    light: Field
    blur_px: float
    shares: tuple[float, float, float]
    gaps: float


def draw_tissue_stain(rng: np.random.Generator) -> TissueStain:
    """A field's stain: hues, strengths, white balance, focus and mixture of tissues vary as between slides."""
    vectors = np.clip(_STAINS + rng.normal(0, 0.03, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lymphoid, epithelium, stroma = 0.15 + 0.55 * rng.dirichlet(np.full(3, 1.5))
    return TissueStain(
        haematoxylin=vectors[0],
        eosin=vectors[1],
        strength=float(rng.uniform(0.8, 1.2)),
        pink=float(rng.uniform(0.75, 1.25)),
        light=np.clip(rng.uniform(0.88, 0.97) + rng.normal(0, 0.012, 3), 0.7, 0.99),
        blur_px=float(rng.uniform(0.5, 0.9)),
        shares=(float(lymphoid), float(epithelium), float(stroma)),
        gaps=float(rng.uniform(0.5, 1.5)),
    )


def tissue_field(
    size: int = 256, *, rng: np.random.Generator, stain: TissueStain | None = None, diameter_px: float = 20.0
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """One picture and the label map of its nuclei.

    Each pixel lets through light by the densities of the two stains there (law of Beer and Lambert). Lymphoid,
    epithelial and fibrous regions lie side by side, with white gaps between fibres and in glands, so that patches of
    one picture differ in the number, size, shape and texture of their nuclei. Nuclei touch, but each pixel is of one;
    some are pale, some out of focus, and the border cuts some. Red blood cells are not annotated.

    Args:
        size: height and width in pixels.
        rng: decides everything but the stain and the mixture of tissues.
        stain: of the field; drawn where None.
        diameter_px: mean diameter of a nucleus, about: of a disk of its area.

    Returns:
        RGB uint8 (size, size, 3), and int32 (size, size), 0 between nuclei, which are numbered 1, ..., N, each in one
        piece (4 neighbours). There is at least one.
    """
    stain = draw_tissue_stain(rng) if stain is None else stain
    kinds = _regions(size, diameter_px, stain.shares, rng)
    across_px, strands = _fibres(size, diameter_px, rng)
    soft_kinds = np.stack([gaussian_filter((kinds == kind) * 1.0, 0.25 * diameter_px) for kind in range(3)])
    gap = _gaps(size, diameter_px, stain.gaps, soft_kinds, strands, rng)
    instances, placed = _place(kinds, across_px, gap, diameter_px, rng)
    eosin, haze = _ground(soft_kinds, strands, placed, diameter_px, rng)
    eosin = np.where(instances > 0, 0.75, 1) * eosin * (1 - gap) + _red_cells(instances, diameter_px, rng)
    blue = _dye(placed, instances, diameter_px, rng) + haze * (1 - gap)
    density = blue[..., None] * stain.haematoxylin + stain.pink * eosin[..., None] * stain.eosin
    image = stain.light * 10 ** (-stain.strength * np.clip(density, 0, None))
    image = gaussian_filter(image, (stain.blur_px, stain.blur_px, 0)) + rng.normal(0, 0.01, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), instances


def _regions(size: int, diameter_px: float, shares: tuple[float, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Kind of region of each pixel, as patches several nuclei wide."""
    first, second = (_random(size, 3.5 * diameter_px, rng).ravel().argsort().argsort() / size**2 for _ in range(2))
    other = np.where(second * (shares[EPITHELIUM] + shares[STROMA]) < shares[EPITHELIUM], EPITHELIUM, STROMA)
    return np.where(first < shares[LYMPHOID], LYMPHOID, other).reshape(size, size)


def _fibres(size: int, diameter_px: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """Position in pixels across fibres, which bend, and two random fields, fine and coarse, drawn out along them."""
    y, x = np.mgrid[:size, :size]
    turn = rng.uniform(0, 2 * np.pi)
    across = y * np.cos(turn) - x * np.sin(turn) + 1.2 * diameter_px * _random(size, 3 * diameter_px, rng)
    along = y * np.sin(turn) + x * np.cos(turn)
    strands = []
    for width_px, stretch in ((0.05 * diameter_px, 12), (0.16 * diameter_px, 9)):
        grain = _random(size, width_px, rng)
        strands.append(map_coordinates(grain, [across, along / stretch], order=1, mode="grid-wrap"))
    return across, np.stack(strands)


def _gaps(
    size: int, diameter_px: float, amount: float, soft_kinds: Field, strands: Field, rng: np.random.Generator
) -> Field:
    """From 0 to 1, where there is no tissue: clefts along the fibres, and round hollows in the epithelium."""
    hollow = _random(size, 0.9 * diameter_px, rng) + 0.15 * _random(size, 0.15 * diameter_px, rng)
    cleft = strands[1] + 0.7 * _random(size, 1.5 * diameter_px, rng)
    inside = [
        expit(9 * (hollow - 2.9 + 0.6 * amount)),
        expit(9 * (hollow - 2.8 + 0.8 * amount)),
        expit(6 * (cleft - 2.9 + 0.9 * amount)),
    ]
    return np.sum(soft_kinds * np.stack(inside), axis=0)


def _place(
    kinds: NDArray[np.int64], across_px: Field, gap: Field, diameter_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], list[_Nucleus]]:
    """Label map of nuclei that are thrown where there is room, each by the kind of its region."""
    size, slope, blocked = len(kinds), np.gradient(across_px), gap > 0.35
    labels, placed = np.zeros((size, size), np.int32), list[_Nucleus]()
    edge_px, count = 0.4 * diameter_px, round(_THROWS * (size / diameter_px + 1) ** 2)
    throws = rng.uniform(-edge_px, size + edge_px, (count, 2))
    throws[0] = size * rng.uniform(0.3, 0.7, 2)  # this one is drawn in any case
    for centre in throws:
        here = tuple(np.clip(centre.round().astype(int), 0, size - 1))
        if placed and blocked[here]:
            continue
        look = _LOOKS[kinds[here]]
        if placed and rng.random() > look.chance:
            continue
        turn = np.arctan2(-slope[1][here], slope[0][here]) + rng.normal(0, look.stray)
        box, far, radius, thin_px = _outline(centre, turn, diameter_px, size, look, rng)
        mask = far < 1
        if placed and (blocked[box] & mask).sum() > _MOST_OVERLAP * mask.sum():
            continue
        parts, _ = components(mask & (labels[box] == 0))
        sizes = np.bincount(parts.ravel(), minlength=2)[1:]
        if sizes.max() < max(1, _LEAST_VISIBLE * np.pi * radius**2 * bool(placed)):
            continue
        mask = parts == sizes.argmax() + 1
        placed.append(_Nucleus(centre, box, mask, far, thin_px, look))
        labels[box][mask] = len(placed)
        blocked[box] |= far < 1 + min(rng.exponential(look.room), _WIDEST_ROOM)
    return labels, placed


def _outline(
    centre: Field, turn: float, diameter_px: float, size: int, look: _Look, rng: np.random.Generator
) -> tuple[tuple[slice, slice], Field, float, float]:
    """Box around a nucleus, distance from its centre, 1 on the outline, and radii in pixels: mean, and least."""
    radius = 0.5 * diameter_px * look.diameter * float(np.clip(rng.normal(1, 0.15), 0.6, 1.5))
    ratio = rng.uniform(*look.ratio)
    long_px, thin_px = radius / np.sqrt(ratio), radius * np.sqrt(ratio)
    box, y, x = _around(centre, (1 + _WIDEST_ROOM) * long_px, size)
    along, across = (y * np.sin(turn) + x * np.cos(turn)) / long_px, (y * np.cos(turn) - x * np.sin(turn)) / thin_px
    across = across + rng.normal(0, 0.25) * (along**2 - 0.3)  # bent
    turns, wobble = np.linspace(-np.pi, np.pi, 65), np.ones(65)
    for order in (2, 3, 4, 5):
        wobble += rng.normal(0, 0.075 / order) * np.cos(order * turns + rng.uniform(0, 2 * np.pi))
    return box, np.hypot(along, across) / np.interp(np.arctan2(across, along), turns, wobble), radius, thin_px


def _dye(placed: list[_Nucleus], labels: NDArray[np.int32], diameter_px: float, rng: np.random.Generator) -> Field:
    """Density of haematoxylin in nuclei: a dark rim, clumps of chromatin, nucleoli; some pale, some out of focus."""
    size = len(labels)
    grains = np.stack([_random(size, share * diameter_px, rng) for share in (0.045, 0.1)])
    layers = np.zeros((2, size, size))
    for _, box, mask, far, thin_px, look in placed:
        depth_px = (1 - far) * thin_px
        shift = rng.integers(0, size, 2)
        rows, columns = ((np.arange(part.start, part.stop) + s) % size for part, s in zip(box, shift, strict=True))
        fine, coarse = grains[:, rows[:, None], columns]
        chromatin = 1 + look.clumps * (fine + 0.6 * coarse) + look.rim * np.exp(-(((depth_px - 0.8) / 1.2) ** 2))
        for _ in range(rng.integers(0, look.nucleoli + 1)):
            peak = np.argmin(np.where(mask & (far < 0.6), rng.random(mask.shape), 2))
            y, x = np.indices(mask.shape) - np.array(np.unravel_index(peak, mask.shape))[:, None, None]
            chromatin += 0.9 * np.exp(-(y**2 + x**2) / (0.08 * diameter_px) ** 2)
        dark = look.density * np.exp(rng.normal(0, 0.15)) * (0.55 if rng.random() < 0.12 else 1)
        own = mask | ((labels[box] == 0) & (far >= 1))  # its soft edge, but no part that a neighbour has cut off
        layers[int(rng.random() < 0.08)][box] += dark * own * expit(2 * depth_px) * np.clip(chromatin, 0.2, None)
    return layers[0] + gaussian_filter(layers[1], 0.075 * diameter_px)


def _ground(
    soft_kinds: Field, strands: Field, placed: list[_Nucleus], diameter_px: float, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Densities of eosin and of haematoxylin between nuclei: fibres, cytoplasm, and paler borders between cells."""
    size = soft_kinds.shape[-1]
    fine, coarse = strands
    far_off = [np.full(2, -9.0 * size), np.full(2, 9.0 * size)]  # so that there are always two
    cells = far_off + [nucleus.centre for nucleus in placed if nucleus.look is _LOOKS[EPITHELIUM]]
    wobble_px = 0.12 * diameter_px * np.stack([_random(size, 0.3 * diameter_px, rng) for _ in range(2)], axis=-1)
    pixels = np.moveaxis(np.indices((size, size)), 0, -1) + wobble_px
    distance, nearest = cKDTree(np.stack(cells)).query(pixels, k=2)
    edge_px = distance[..., 1] - distance[..., 0]
    cytoplasm = rng.normal(0.42, 0.07, len(cells))[nearest[..., 0]] * (1 - 0.35 * np.exp(-((edge_px / 1.8) ** 2)))
    cloud, grain = _random(size, 1.2 * diameter_px, rng), _random(size, 0.05 * diameter_px, rng)
    matrix = 0.40 + 0.10 * fine + 0.11 * coarse + 0.05 * cloud
    loose = 0.24 + 0.06 * grain + 0.06 * coarse
    eosin = np.sum(soft_kinds * np.stack([loose, cytoplasm * (1 + 0.12 * grain + 0.1 * cloud), matrix]), axis=0)
    haze = np.sum(soft_kinds * np.array([0.10, 0.13, 0.03])[:, None, None], axis=0) * (1 + 0.25 * cloud)
    return np.clip(eosin, 0.03, None), np.clip(haze, 0, None)


def _red_cells(labels: NDArray[np.int32], diameter_px: float, rng: np.random.Generator) -> Field:
    """Density of eosin in red blood cells, small bright disks in groups between nuclei."""
    size, radius = len(labels), 0.33 * diameter_px
    eosin = np.zeros((size, size))
    for _ in range(rng.poisson(0.012 * (size / diameter_px) ** 2)):
        group = rng.uniform(0, size, 2)
        for _ in range(rng.integers(2, 9)):
            box, y, x = _around(group + rng.normal(0, 1.8 * radius, 2), 1.5 * radius, size)
            depth_px = radius - np.hypot(y, x)
            disk = rng.uniform(0.5, 0.7) * expit(3 * depth_px) * (1 - 0.3 * np.exp(-(((radius - depth_px) / 2) ** 2)))
            eosin[box] = np.maximum(eosin[box], disk * (labels[box] == 0))
    return eosin


def _random(size: int, width_px: float, rng: np.random.Generator) -> Field:
    """Random field of unit variance, of a width that the picture's pixels and size can show."""
    return _smooth(size, float(np.clip(width_px, 0.7, 0.25 * size)), rng)
