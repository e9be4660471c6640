# SPDX-License-Identifier: Apache-2.0
"""From predicted instances to labels to learn from: which stay, what an annotation overrules, where to cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import relabel_sequential

Labels = NDArray[np.int64]


def kept_instances(
    labels: Labels, scores: NDArray[np.floating], *, score_floor: float = 0.5, smallest_px: int = 1
) -> tuple[Labels, int]:
    """The instances of a label map that are certain and large enough.

    Source: "Which pixel to annotate", Lou et al., IEEE TMI 2022, section III-C, says nothing of a filter; its released
    code keeps scores from 0.5 on and has no limit of size.

    Args:
        labels: (H, W) predicted instances, 0 is background, each pixel the instance's of higher score.
        scores: (H, W) the score of each pixel's instance.
        score_floor: instances of lower scores go.
        smallest_px: instances of fewer pixels go.

    Returns:
        (H, W) numbered anew from 1, in the old order, and how many instances went.
    """
    numbers, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    good = (numbers > 0) & (scores.ravel()[first] >= score_floor) & (sizes >= smallest_px)
    kept = relabel_sequential(np.where(np.isin(labels, numbers[good]), labels, 0))[0]
    return kept.astype(np.int64), int((numbers > 0).sum() - good.sum())


def overruled(
    labels: Labels, annotation: NDArray[np.integer], *, row: int, column: int, smallest_px: int = 1
) -> Labels:
    """A label map in which an annotated window shows its annotation, and nothing else.

    Of a predicted instance on the border, what lies beyond the window goes on as the annotated one that has most of its
    pixels within, so that such a nucleus is one. Where annotated ones have less than half of those, the border cuts it.

    Args:
        labels: (H, W) predicted instances, 0 is background.
        annotation: (h, w) instances of the window, 0 is background, which is annotated too.
        row, column: first pixel of the window, which lies in the map.
        smallest_px: of the instances that the border cuts those of fewer pixels go.

    Returns:
        (H, W) numbered anew from 1: first the predicted ones, then those of the annotation.

    Raises:
        ValueError: the window reaches beyond the map.
    """
    height, width = annotation.shape
    if not (0 <= row <= labels.shape[0] - height and 0 <= column <= labels.shape[1] - width):
        raise ValueError(f"annotation: found {annotation.shape} at ({row}, {column}), expected it in {labels.shape}.")
    out = labels.astype(np.int64)
    window = out[row : row + height, column : column + width]
    before, offset = window.copy(), int(labels.max(initial=0))
    window[...] = np.where(annotation > 0, annotation.astype(np.int64) + offset, 0)
    for number in np.unique(before[before > 0]).tolist():
        within, rest = window[before == number], out == number
        numbers, counts = np.unique(within[within > 0], return_counts=True)
        if 2 * counts.sum() >= len(within):
            out[rest] = numbers[counts.argmax()]
        elif rest.sum() < smallest_px:
            out[rest] = 0
    return relabel_sequential(out)[0].astype(np.int64)


def spread_windows(
    shapes: Sequence[tuple[int, int]], *, size: int, number: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Random windows, as many of each image as of every other, but for one.

    Args:
        shapes: height and width of each image.
        size: side of a window in px; an image that is smaller has its first pixel as the window's.
        number: of windows, of all images together.
        rng: draws the places.

    Returns:
        (image, row, column) of each window.
    """
    if not shapes:
        return []
    images = sorted(n % len(shapes) for n in range(number))
    rooms = [[max(side - size, 0) + 1 for side in shapes[image]] for image in images]
    return [(image, *rng.integers(room).tolist()) for image, room in zip(images, rooms, strict=True)]
