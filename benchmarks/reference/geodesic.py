# SPDX-License-Identifier: Apache-2.0
"""Geodesic distance by a plain heap, one edge at a time."""

from __future__ import annotations

import heapq
from itertools import product

import numpy as np


def gradient_distance(image: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Least sum of absolute intensity steps from ``seed`` to each voxel over 26 neighbours (Zhai et al., Eq. 1)."""
    distance = np.full(image.shape, np.inf)
    distance[seed] = 0.0
    heap = [(0.0, seed)]
    offsets = [offset for offset in product((-1, 0, 1), repeat=image.ndim) if any(offset)]
    while heap:
        so_far, here = heapq.heappop(heap)
        if so_far > distance[here]:
            continue
        for offset in offsets:
            there = tuple(h + o for h, o in zip(here, offset, strict=True))
            if all(0 <= t < n for t, n in zip(there, image.shape, strict=True)):
                length = so_far + abs(image[there] - image[here])
                if length < distance[there]:
                    distance[there] = length
                    heapq.heappush(heap, (length, there))
    return distance
