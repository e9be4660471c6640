# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles, each of which answers for a part of its own."""

from __future__ import annotations

from itertools import pairwise


def tiles(side: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Tiles along an axis: first pixel of each, and from where to where it answers; the last one ends at the border."""
    starts = list(range(0, max(side - overlap, 1), tile - overlap))
    starts = sorted({min(start, max(side - tile, 0)) for start in starts})
    middles = [(second + first + tile) // 2 for first, second in pairwise(starts)]
    return list(zip(starts, [0, *middles], [*middles, side], strict=True))
