# SPDX-License-Identifier: Apache-2.0
"""Average precision of scored instances, as the CKS paper defines it and as COCO does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from monai_ext.functional.instances import Overlaps, Pairs

Interpolation = Literal["none", "coco"]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU thresholds of the mean AP; the doubles nearest to 0.50, 0.55, ..., 0.95."""

_COCO_RECALLS = np.linspace(0, 1, 101)


def hits(iou: ArrayLike, scores: ArrayLike, *, threshold: float, strict: bool = True) -> NDArray[np.bool_]:
    """Which predictions find a reference: by falling score, each takes the best one that is still unused.

    Args:
        iou: (P, G).
        scores: (P,); of equal ones the earlier prediction goes first.
        threshold: a pair below it does not match, nor does one of IoU 0.
        strict: the IoU must exceed the threshold, as in the CKS paper. Otherwise it may equal it, as in COCO. Of
            references with equal IoU the first is taken or, as pycocotools does, the last where not strict.

    Returns:
        (P,) True for a hit.
    """
    table = np.asarray(iou, dtype=np.float64)
    prediction, reference = np.nonzero(table)
    values = table[prediction, reference]
    return _match(prediction, reference, values, np.asarray(scores), threshold=threshold, strict=strict)


def average_precision(
    scores: ArrayLike, hits: ArrayLike, references: int, *, interpolation: Interpolation = "none"
) -> float:
    r"""Area under the precision-recall curve of pooled predictions.

    Yu, CKS, IEEE TMI 2023, equation for :math:`AP_{IOU}` (printed with number 9), not smoothed:

    .. math:: AP = \frac{1}{C} \sum_k T_k P_k

    :math:`k` counts the predictions of all images by falling score, :math:`T_k` is 1 for a hit, else 0, :math:`P_k`
    the share of hits among the first :math:`k`, :math:`C` the number of references of all images, with or without
    predictions. It is scikit-learn's ``average_precision_score`` times the share of references found.

    Args:
        scores: (P,) of all images; of equal ones the earlier comes first.
        hits: (P,) what :func:`hits` gave for each image.
        references: C.
        interpolation: ``"none"`` or ``"coco"``, the mean at recalls 0, 0.01, ..., 1 of the greatest precision at that
            recall or beyond, without a limit on the predictions per image (``maxDets``).

    Returns:
        From 0 to 1. Without references: 0 where there are predictions, NaN where there are none either.

    Raises:
        ValueError: unknown ``interpolation``.
    """
    if interpolation not in ("none", "coco"):
        raise ValueError(f"interpolation is {interpolation!r}, expected 'none' or 'coco'.")
    ranked = np.asarray(hits, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    if not references:
        return 0.0 if ranked.size else float("nan")
    found = np.cumsum(ranked)
    precision = found / np.arange(1, ranked.size + 1)
    if interpolation == "none":
        return float(precision[ranked].sum() / references)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(found / references, _COCO_RECALLS)
    return float(np.append(envelope, 0.0)[place].mean())


class MeasuredImage(NamedTuple):
    """What an :class:`InstanceMetric` keeps of an image: its group, number of instances, and what it measured."""

    group: Hashable
    predictions: int
    references: int
    measured: Any


class InstanceMetric:
    """Collects images for a metric of all their instances together.

    ``images`` is a plain list, so that the processes of a distributed run can gather theirs.

    Args:
        score_floor: predictions of lower scores are left out.
    """

    def __init__(self, *, score_floor: float = 0.0) -> None:
        self.score_floor = score_floor
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self.images: list[MeasuredImage] = []

    def update(self, overlaps: Overlaps, scores: ArrayLike, group: Hashable = None) -> None:
        """Adds an image.

        Args:
            overlaps: of its P predictions and G references; P or G may be 0.
            scores: (P,) in the order of the predictions in ``overlaps``.
            group: what to pool it with besides all images, such as the cell line.

        Raises:
            ValueError: not one score a prediction.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != overlaps.prediction_areas.shape:
            raise ValueError(f"{len(overlaps.prediction_areas)} predictions have scores of shape {values.shape}.")
        kept = values >= self.score_floor
        if not kept.all():
            overlaps, values = overlaps.of_predictions(kept), values[kept]
        self.images.append(
            MeasuredImage(group, len(values), len(overlaps.reference_areas), self._measure(overlaps, values))
        )

    def _measure(self, overlaps: Overlaps, scores: NDArray[np.float64]) -> Any:
        return None

    def of_group(self, group: Hashable = None) -> list[MeasuredImage]:
        """Images of a group, or all where it is None.

        Raises:
            ValueError: there are none.
        """
        chosen = [image for image in self.images if group is None or image.group == group]
        if not chosen:
            of = "" if group is None else f" of group {group!r}"
            raise ValueError(f"No image{of} was measured: call update first.")
        return chosen


class InstanceAveragePrecision(InstanceMetric):
    """AP at any IoU thresholds, pooled over images; see :func:`average_precision` and :func:`hits`.

    Args:
        score_floor: predictions of lower scores are left out; the CKS release keeps those from 0.2.
    """

    def value(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        *,
        group: Hashable = None,
        interpolation: Interpolation = "none",
    ) -> float:
        """Mean over the thresholds of the AP of all images together.

        Args:
            thresholds: IoU; the default gives the mean AP.
            group: only its images.
            interpolation: ``"none"`` as in the paper, where a hit's IoU exceeds the threshold, or ``"coco"``, where
                it may equal it.

        Returns:
            From 0 to 1; NaN where the images hold neither references nor predictions.

        Raises:
            ValueError: no image was measured, or an unknown ``interpolation``.
        """
        return _mean_ap(self.of_group(group), thresholds, interpolation)

    def of_images(
        self, thresholds: Sequence[float] = THRESHOLDS, *, interpolation: Interpolation = "none"
    ) -> NDArray[np.float64]:
        """The same of each image alone (images,), in the order in which they came."""
        return np.array([_mean_ap([image], thresholds, interpolation) for image in self.images])

    def _measure(self, overlaps: Overlaps, scores: NDArray[np.float64]) -> tuple[Pairs, NDArray[np.float64]]:
        return overlaps.pairs(), scores


def _mean_ap(images: Sequence[MeasuredImage], thresholds: Sequence[float], interpolation: Interpolation) -> float:
    scores = np.concatenate([image.measured[1] for image in images])
    references = sum(image.references for image in images)
    values = []
    for threshold in thresholds:
        found = [_hits_of_image(image, threshold=threshold, strict=interpolation != "coco") for image in images]
        values.append(average_precision(scores, np.concatenate(found), references, interpolation=interpolation))
    return float(np.mean(values))


def _hits_of_image(image: MeasuredImage, *, threshold: float, strict: bool) -> NDArray[np.bool_]:
    pairs, scores = image.measured
    return _match(pairs.prediction, pairs.reference, pairs.iou, scores, threshold=threshold, strict=strict)


def _match(
    prediction: NDArray[np.int64],
    reference: NDArray[np.int64],
    iou: NDArray[np.float64],
    scores: NDArray,
    *,
    threshold: float,
    strict: bool,
) -> NDArray[np.bool_]:
    """:func:`hits` from the pairs that overlap."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    close = iou > threshold if strict else iou >= threshold
    prediction, reference, iou = prediction[close], reference[close], iou[close]
    order = np.lexsort((reference if strict else -reference, -iou, rank[prediction]))
    matched: set[int] = set()
    used: set[int] = set()
    for p, r in zip(prediction[order].tolist(), reference[order].tolist(), strict=True):
        if p not in matched and r not in used:
            matched.add(p)
            used.add(r)
    hit = np.zeros(len(scores), dtype=bool)
    hit[list(matched)] = True
    return hit


def nan_mean(values: Sequence[float]) -> float:
    """Mean of those that are not NaN; NaN where none is left. NumPy's would warn of that."""
    return float(torch.tensor(values, dtype=torch.float64).nanmean())
