# SPDX-License-Identifier: Apache-2.0
"""COCO's mask AP of instances of several classes that may overlap, through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MAX_DETECTIONS = (1, 10, 200)
"""COCO's ``maxDets``, the last in place of its 100: an image's predictions of a class beyond it do not count."""


class CocoImage(NamedTuple):
    """What :class:`CocoMaskAP` keeps of an image."""

    size: tuple[int, int]
    """(H, W); (0, 0) without instances."""
    references: list[dict[str, Any]]
    predictions: list[dict[str, Any]]


class CocoMaskAP:
    """Mask AP as COCO defines it: 101 recalls, IoU 0.50, 0.55, ..., 0.95, here with 200 predictions an image and class.

    Images without predictions count with their references. ``images`` is a plain list of run lengths, so that it stays
    small and the processes of a distributed run can gather theirs.

    Args:
        classes: category ids; annotations of others are left out.
        score_floor: predictions of lower scores are left out.
    """

    def __init__(self, classes: Sequence[int] = (1, 2), *, score_floor: float = 0.0) -> None:
        self.classes = tuple(sorted(set(classes)))
        self.score_floor = score_floor
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self.images: list[CocoImage] = []

    def update(self, references: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Adds an image. Its annotations need no image id, no id and no area, and are left as they are.

        Args:
            references: COCO annotations with ``category_id`` and ``segmentation`` as compressed run lengths; groups
                (``iscrowd`` 1) are treated as COCO does.
            predictions: the same with ``score``; either may be empty.

        Raises:
            ValueError: a segmentation of another kind, or of another size than the first.
        """
        size = common_size(one["segmentation"] for one in (*references, *predictions))
        kept = [one for one in predictions if one["score"] >= self.score_floor]
        self.images.append(CocoImage(size, self._of_classes(references), self._of_classes(kept)))

    def value(self, thresholds: Sequence[float] | None = None, *, category: int | None = None) -> float:
        """AP of all images together: the mean over thresholds and recalls.

        Args:
            thresholds: IoU; None is COCO's ten.
            category: one of the classes; None is the mean over those that have a reference.

        Returns:
            From 0 to 1; NaN without a reference.

        Raises:
            ValueError: no image was measured, or ``category`` is none of the classes.
        """
        if not self.images:
            raise ValueError("No image was measured: call update first.")
        values = average_precisions(self.images, self.classes, thresholds)
        if category is None:
            return float(torch.from_numpy(values).nanmean())
        return float(values[self.classes.index(category)])

    def of_images(self, thresholds: Sequence[float] | None = None) -> NDArray[np.float64]:
        """Mean over the classes of each image alone (images,); NaN where it has no reference of any."""
        values = [average_precisions([image], self.classes, thresholds) for image in self.images]
        table = np.reshape(values, (len(values), len(self.classes)))
        return torch.from_numpy(table).nanmean(dim=1).numpy()

    def _of_classes(self, annotations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        names = ("category_id", "segmentation", "iscrowd", "score")
        return [
            {name: one[name] for name in names if name in one}
            for one in annotations
            if one["category_id"] in self.classes
        ]


def common_size(segmentations: Iterable[Any]) -> tuple[int, int]:
    """(H, W) of an image's compressed run lengths ``{"size", "counts"}``; (0, 0) of none.

    Raises:
        ValueError: one is of another kind, or of another size than the first; pycocotools would give an IoU of -1.
    """
    size = None
    for runs in segmentations:
        if not isinstance(runs, dict) or not isinstance(runs.get("counts"), str | bytes):
            raise ValueError(f"A segmentation is {str(runs)[:60]}, expected compressed run lengths.")
        height, width = (int(pixels) for pixels in runs["size"])
        size = size or (height, width)
        if size != (height, width):
            raise ValueError(f"Masks of one image are of sizes {size} and {(height, width)}, expected equal ones.")
    return size or (0, 0)


def average_precisions(
    images: Sequence[CocoImage], classes: Sequence[int], thresholds: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """AP of each class over images together.

    ``COCOeval.summarize`` looks for 100 predictions an image and would give -1, so its ``precision`` is averaged here.

    Args:
        images: at least one.
        classes: by rising id.
        thresholds: IoU; None is COCO's ten.

    Returns:
        (classes,); NaN for a class without a reference.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        references = _coco(images, [image.references for image in images], classes)
        predictions = _coco(images, [image.predictions for image in images], classes)
        judge = COCOeval(references, predictions, "segm")
        judge.params.maxDets = list(MAX_DETECTIONS)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        if thresholds is not None:
            judge.params.iouThrs = np.asarray(thresholds, dtype=np.float64)
        judge.evaluate()
        judge.accumulate()
    # (thresholds, recalls, classes, one area range, maxDets); all of a class are -1 where it has no reference.
    values = judge.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    return np.where(values < 0, np.nan, values)


def _coco(images: Sequence[CocoImage], annotations: Sequence[list[dict[str, Any]]], classes: Sequence[int]) -> COCO:
    """The annotations of each image as pycocotools wants them. It takes the annotation id 0 for no match."""
    rows = [one | {"image_id": place} for place, ones in enumerate(annotations) for one in ones]
    for number, row in enumerate(rows, start=1):
        row |= {"id": number, "iscrowd": row.get("iscrowd", 0), "area": int(coco_mask.area(row["segmentation"]))}
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": image.size[0], "width": image.size[1]} for i, image in enumerate(images)],
        "annotations": rows,
        "categories": [{"id": category} for category in classes],
    }
    coco.createIndex()
    return coco
