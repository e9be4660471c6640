# SPDX-License-Identifier: Apache-2.0
"""Instances cut out of their picture, and their outlines along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from scipy.ndimage import label as components

Ring = list[list[int]]
"""Closed ring of [x, y], column and row in the corner origin; the first vertex stands again at the end."""


class Cutout(NamedTuple):
    """One instance in its bounding box."""

    number: int
    """In its label map; 1, 2, ... in a series of masks."""
    mask: NDArray[np.bool_]
    """(h, w), rows and columns; the first and last of both hold at least one pixel each."""
    row: int
    """Row of the picture that the box begins with."""
    column: int
    score: float | None = None


def cutouts_of_labels(labels: ArrayLike, *, scores: Sequence[float] | None = None) -> list[Cutout]:
    """Cuts each instance out of a label map.

    Args:
        labels: (H, W) whole numbers, 0 is background; numbers may have gaps.
        scores: one for each instance, by rising number, where there are any.

    Returns:
        The instances by rising number.
    """
    labels = np.asarray(labels)
    numbers, places = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    dense = places[:-1].reshape(labels.shape).astype(np.int32)
    found = []
    for place, box in enumerate(find_objects(dense)):
        score = None if scores is None else float(scores[place])
        number = int(numbers[place + 1])
        found.append(Cutout(number, dense[box] == place + 1, box[0].start, box[1].start, score))
    return found


def cutouts_of_masks(masks: Iterable[ArrayLike], *, scores: Sequence[float] | None = None) -> Iterator[Cutout]:
    """Cuts instances out of masks, which may overlap.

    Args:
        masks: (H, W) each, non-zero is the instance; read one by one. An empty mask is left out.
        scores: one for each mask, where there are any.

    Returns:
        The instances in the order of the masks.
    """
    for place, mask in enumerate(masks):
        inside = np.asarray(mask) != 0
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if len(rows):
            box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            score = None if scores is None else float(scores[place])
            yield Cutout(place + 1, box, int(rows[0]), int(columns[0]), score)


def polygons(cutout: Cutout) -> list[list[Ring]]:
    """Outlines an instance exactly, along the edges of its pixels: pixel k covers [k, k + 1).

    Pixels that share an edge belong together. Parts that touch at a corner are polygons of their own, and a hole is a
    ring of its own even where it touches another ring at a corner: no ring comes to a vertex twice, as valid polygons
    (OGC Simple Features) ask.

    Returns:
        For each part its rings: the outer one, counter-clockwise where y points up (RFC 7946; as a picture is drawn
        it runs clockwise), then the holes, the other way round. Only corners are vertices.
    """
    parts, count = components(cutout.mask)
    outer: list[list[Ring]] = [[] for _ in range(count)]
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring in _rings(cutout.mask):
        # Below the topmost, there leftmost corner is what an outer ring encloses; above it, what a hole is cut from.
        row, column = min(ring)
        outside = _twice_area(ring) > 0
        part = parts[row, column] if outside else parts[row - 1, column]
        moved = [[x + cutout.column, y + cutout.row] for y, x in ring]
        (outer if outside else holes)[part - 1].append([*moved, moved[0]])
    return [[*first, *rest] for first, rest in zip(outer, holes, strict=True)]


def _rings(mask: NDArray[np.bool_]) -> Iterator[list[tuple[int, int]]]:
    """Simple rings of (row, column), not closed, with the instance on their right hand as a picture is drawn.

    In a row of the grid of vertices, each corner is one end of a horizontal edge, so that they pair up in their order,
    and likewise in a column. A vertex between two diagonal pixels is two corners, one of each pixel.
    """
    grid = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=np.uint8)
    grid[1:-1, 1:-1] = mask
    around = grid[:-1, :-1] + 2 * grid[:-1, 1:] + 4 * grid[1:, :-1] + 8 * grid[1:, 1:]
    corners = _CORNERS[around]
    width = corners.shape[1]
    vertices = np.repeat(np.flatnonzero(corners), corners[corners > 0])
    second = np.append(False, vertices[1:] == vertices[:-1])
    rows, columns = np.divmod(vertices, width)
    # Where the pixels above right and below left meet, the corner with the edge to the right has the edge upwards.
    rank = second ^ (around.ravel()[vertices] == _RISING)
    order = np.lexsort((rank, rows, columns))
    vertical = np.empty_like(order)
    vertical[order[::2]], vertical[order[1::2]] = order[1::2], order[::2]
    filled_below_right = (around.ravel()[vertices] & 8 > 0).tolist()
    yield from _follow(list(zip(rows.tolist(), columns.tolist(), strict=True)), vertical.tolist(), filled_below_right)


def _follow(
    vertices: list[tuple[int, int]], vertical: list[int], filled_below_right: list[bool]
) -> Iterator[list[tuple[int, int]]]:
    left = [True] * len(vertices)
    for start in range(len(vertices)):
        if not left[start]:
            continue
        corner, horizontal = start, filled_below_right[start]
        path: list[tuple[int, int]] = []
        place: dict[tuple[int, int], int] = {}
        while left[corner]:
            left[corner] = False
            vertex = vertices[corner]
            if vertex in place:
                yield (loop := path[place[vertex] :])
                del path[place[vertex] :]
                for passed in loop:
                    del place[passed]
            place[vertex] = len(path)
            path.append(vertex)
            corner = corner ^ 1 if horizontal else vertical[corner]
            horizontal = not horizontal
        yield path


def _twice_area(ring: list[tuple[int, int]]) -> int:
    following = [*ring[1:], ring[0]]
    return sum(x * b - a * y for (y, x), (b, a) in zip(ring, following, strict=True))


_RISING = 6
_CORNERS = np.array([bin(bits).count("1") % 2 for bits in range(16)])
_CORNERS[[_RISING, 9]] = 2
"""Corners at a vertex, by which of the pixels around it are of the instance: 1 above left, 2 above right, 4 below."""
