# SPDX-License-Identifier: Apache-2.0
"""Instances as label maps and as stacks of masks: overlap tables, centres, scores, and from masks to a map."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """The predictions and references that share a pixel, one pair an entry, by prediction and then by reference."""

    prediction: Ints
    """(K,) place of the prediction in the table, not its id."""
    reference: Ints
    """(K,) place of the reference."""
    intersection: Ints
    """(K,) pixels that both cover, at least 1."""
    iou: Floats
    """(K,) intersection over union."""


class Overlaps(NamedTuple):
    """How P predicted and G reference instances of one image overlap; areas in pixels."""

    intersections: Ints
    """(P, G) pixels that both cover."""
    prediction_areas: Ints
    """(P,)"""
    reference_areas: Ints
    """(G,)"""
    prediction_ids: Ints
    """(P,) numbers in the predicted label map; 1, 2, ... for masks."""
    reference_ids: Ints
    """(G,)"""

    def iou(self) -> Floats:
        """Intersection over union (P, G); 0 where both are empty masks."""
        unions = self.prediction_areas[:, None] + self.reference_areas[None, :] - self.intersections
        return self.intersections / np.maximum(unions, 1)

    def pairs(self) -> Pairs:
        """Only those that share a pixel, which are few where instances hardly overlap."""
        prediction, reference = np.nonzero(self.intersections)
        shared = self.intersections[prediction, reference]
        unions = self.prediction_areas[prediction] + self.reference_areas[reference] - shared
        return Pairs(prediction, reference, shared, shared / unions)

    def of_predictions(self, keep: NDArray[np.bool_] | Ints) -> Overlaps:
        """The table of some of the predictions, chosen by a mask (P,) or by places."""
        return self._replace(
            intersections=self.intersections[keep],
            prediction_areas=self.prediction_areas[keep],
            prediction_ids=self.prediction_ids[keep],
        )


def overlaps_of_label_maps(prediction: ArrayLike, reference: ArrayLike) -> Overlaps:
    """Counts the overlaps of all instances of two label maps in one pass.

    Args:
        prediction: (*S) whole numbers, 0 is background; ids may have gaps.
        reference: likewise, of the same shape.

    Returns:
        The table, its rows and columns by rising id.

    Raises:
        ValueError: shapes differ, or a map holds a negative number or a fraction.
    """
    maps = [_as_label_map(m) for m in (prediction, reference)]
    if maps[0].shape != maps[1].shape:
        raise ValueError(f"Label maps have shapes {maps[0].shape} and {maps[1].shape}, expected equal ones.")
    (ids_p, place_p), (ids_r, place_r) = (_places(m) for m in maps)
    rows, columns = len(ids_p) + 1, len(ids_r) + 1
    counts = np.bincount(place_p * columns + place_r, minlength=rows * columns).reshape(rows, columns)
    return Overlaps(
        intersections=counts[1:, 1:],
        prediction_areas=counts[1:].sum(axis=1),
        reference_areas=counts[:, 1:].sum(axis=0),
        prediction_ids=ids_p,
        reference_ids=ids_r,
    )


def overlaps_of_masks(prediction: ArrayLike, reference: ArrayLike) -> Overlaps:
    """The same table for instances that may overlap within the prediction or the reference.

    A sparse matrix product over the covered pixels: memory grows with the areas, not with P times G times pixels.

    Args:
        prediction: (P, *S) bool, one mask an instance; a mask may be empty.
        reference: (G, *S) bool.

    Raises:
        ValueError: the masks are of different shapes.
    """
    stacks = [np.asarray(m, dtype=bool) for m in (prediction, reference)]
    if stacks[0].ndim < 2 or stacks[0].shape[1:] != stacks[1].shape[1:]:
        raise ValueError(f"Masks have shapes {stacks[0].shape} and {stacks[1].shape}, expected (P, *S) and (G, *S).")
    p, r = (_as_rows(m) for m in stacks)
    return Overlaps(
        intersections=(p @ r.T).toarray(),
        prediction_areas=np.diff(p.indptr).astype(np.int64),
        reference_areas=np.diff(r.indptr).astype(np.int64),
        prediction_ids=np.arange(1, p.shape[0] + 1),
        reference_ids=np.arange(1, r.shape[0] + 1),
    )


def centroids(label_map: ArrayLike, *, inside: bool = False) -> tuple[Ints, Floats]:
    """Centre of mass of each instance.

    Args:
        label_map: (*S) with D axes, 0 is background.
        inside: move a centre whose pixel is not the instance's, as in a concave one, to the instance's nearest pixel
            (of equally near ones to the first in array order).

    Returns:
        ids (N,) by rising number, and centres (N, D) as array indices: the centre of the first pixel is 0.

    Raises:
        ValueError: the map holds a negative number or a fraction.
    """
    numbers = _as_label_map(label_map)
    ids, place = _places(numbers)
    foreground = np.flatnonzero(place)
    owner = place[foreground] - 1
    pixels = np.stack(np.unravel_index(foreground, numbers.shape), axis=1)
    areas = np.bincount(owner, minlength=len(ids))
    sums = [np.bincount(owner, weights=axis, minlength=len(ids)) for axis in pixels.T]
    centres = np.stack(sums, axis=1) / areas[:, None]
    if not inside or not len(ids):
        return ids, centres
    order = np.lexsort((np.square(pixels - centres[owner]).sum(axis=1), owner))
    nearest = pixels[order[np.cumsum(areas) - areas]]  # the first of each owner
    holder = numbers[tuple(np.floor(centres + 0.5).astype(np.int64).T)]
    return ids, np.where((holder == ids)[:, None], centres, nearest)


def values_of_instances(label_map: ArrayLike, values: ArrayLike) -> NDArray:
    """Reads a map that is constant on each instance, such as scores, at one pixel of each.

    Args:
        label_map: (*S), 0 is background.
        values: (*S).

    Returns:
        (N,) by rising id, in the type of ``values``.

    Raises:
        ValueError: shapes differ, or the label map holds a negative number or a fraction.
    """
    numbers, values = _as_label_map(label_map), np.asarray(values)
    if numbers.shape != values.shape:
        raise ValueError(f"Label map and values have shapes {numbers.shape} and {values.shape}, expected equal ones.")
    ids, first = np.unique(numbers, return_index=True)
    return values.ravel()[first[ids > 0]]


def label_map_of_masks(masks: ArrayLike, scores: ArrayLike) -> NDArray[np.int32]:
    """Paints masks that may overlap into one label map; a contested pixel goes to the higher score.

    Args:
        masks: (N, *S) bool.
        scores: (N,); of equal ones the earlier mask wins.

    Returns:
        (*S) with 0 background and i + 1 for mask i. A mask that lies wholly under others is missing.

    Raises:
        ValueError: not one score a mask.
    """
    stack, ranks = np.asarray(masks, dtype=bool), np.asarray(scores)
    if ranks.shape != stack.shape[:1]:
        raise ValueError(f"Masks and scores have shapes {stack.shape} and {ranks.shape}, expected (N, *S) and (N,).")
    painted = np.zeros(stack.shape[1:], dtype=np.int32)
    for i in np.argsort(-ranks, kind="stable")[::-1]:
        painted[stack[i]] = i + 1
    return painted


def _as_label_map(label_map: ArrayLike) -> NDArray:
    """As integers; labels that went through a network's tensors are whole numbers in float."""
    given = np.asarray(label_map)
    numbers = given if given.dtype.kind in "iu" else np.where(np.isfinite(given), given, -1).astype(np.int64)
    wrong = given[(numbers != given) | (numbers < 0)] if given.dtype.kind != "u" else given[:0]
    if wrong.size:
        raise ValueError(f"A label map holds {wrong.flat[0]}, expected 0 for background and positive whole numbers.")
    return numbers


def _as_rows(stack: NDArray[np.bool_]) -> csr_array:
    """Masks (N, *S) as a sparse matrix of N rows; made from a dense one it would first be copied as integers."""
    size = math.prod(stack.shape[1:])
    owner, pixel = np.divmod(np.flatnonzero(stack), max(size, 1))
    ends = np.cumsum(np.bincount(owner, minlength=len(stack)))
    return csr_array((np.ones(len(pixel), dtype=np.int64), pixel, np.append(0, ends)), shape=(len(stack), size))


def _places(numbers: NDArray) -> tuple[Ints, Ints]:
    """ids (N,) by rising number, and for each pixel 0 on background or 1 + the place of its id, flat."""
    with_background = np.concatenate([numbers.ravel(), np.zeros(1, numbers.dtype)])
    ids, place = np.unique(with_background, return_inverse=True)
    return ids[1:].astype(np.int64), place[:-1]
