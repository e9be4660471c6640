# SPDX-License-Identifier: Apache-2.0
"""AJI and COCO's mask AP in an evaluation, of instances of several classes that may overlap."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.handlers import from_engine
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from monai_ext.functional.instances import Overlaps
from monai_ext.handlers.instance_metrics import InstanceMetricHandler, NamedInstanceMetric
from monai_ext.metrics.aji import AggregatedJaccard
from monai_ext.metrics.coco_mask_ap import CocoMaskAP, common_size

Runs = dict[str, Any]
"""Compressed run lengths of a mask, ``{"size": [H, W], "counts"}``."""

_NAME = re.compile(r"(?:(aji)|(aji_kumar)|map|ap([1-9]\d))(?:_(\d+))?")
_DEFAULT_TRANSFORM = from_engine(["pred", "label"])


class ClassInstances(NamedTuple):
    """The N instances of one image."""

    runs: list[Runs]
    labels: NDArray[np.int64]
    """(N,) class of each."""
    scores: NDArray[np.float64]
    """(N,)"""

    def of_class(self, label: int) -> ClassInstances:
        """Those of one class."""
        kept = np.flatnonzero(self.labels == label)
        return ClassInstances([self.runs[i] for i in kept], self.labels[kept], self.scores[kept])

    def annotations(self) -> list[dict[str, Any]]:
        """As :class:`monai_ext.metrics.coco_mask_ap.CocoMaskAP` takes them."""
        columns = zip(self.runs, self.labels.tolist(), self.scores.tolist(), strict=True)
        return [{"category_id": label, "segmentation": runs, "score": score} for runs, label, score in columns]


class NamedClassMetric(NamedInstanceMetric):
    """A metric of instances of several classes by the name that a config gives it.

    Args:
        name: ``aji``, with MMT-PSM's gate of IoU 0.5; ``aji_kumar``, without a gate; ``map``, COCO's mask AP;
            ``ap50`` (any two digits: the IoU threshold in percent). Each is the mean over the classes, or with a
            suffix such as ``aji_1`` that of one class.
        classes: class numbers, without the background.
        score_floor: predictions of lower scores are left out; None is 0.1 for AJI and 0 for AP.

    Raises:
        ValueError: unknown name, or a suffix that is none of the classes.
    """

    collected: AggregatedJaccard | CocoMaskAP  # type: ignore[assignment]

    def __init__(self, name: str, classes: Sequence[int] = (1, 2), score_floor: float | None = None) -> None:
        found = _NAME.fullmatch(name)
        if found is None or (found[4] and int(found[4]) not in classes):
            raise ValueError(
                f"metric is {name!r}, expected 'aji', 'aji_kumar', 'map', 'ap50' or another threshold, and for one "
                f"class its number after it, as in 'aji_{classes[0]}'; the classes are {list(classes)}."
            )
        self.all_classes = tuple(classes)
        self.classes = (int(found[4]),) if found[4] else self.all_classes
        self.options: dict[str, Any] = {}
        floor = {} if score_floor is None else {"score_floor": score_floor}
        if found[1] or found[2]:
            self.collected = AggregatedJaccard(iou_gate=0.5 if found[1] else 0.0, **floor)
        else:
            self.collected = CocoMaskAP(self.classes, **floor)
            self.options["thresholds"] = [int(found[3]) / 100] if found[3] else None

    def update(self, prediction: ClassInstances, reference: ClassInstances) -> None:
        """Adds an image."""
        if isinstance(self.collected, CocoMaskAP):
            self.collected.update(reference.annotations(), prediction.annotations())
            return
        for label in self.classes:
            found, truth = prediction.of_class(label), reference.of_class(label)
            self.collected.update(overlaps_of_run_lengths(found.runs, truth.runs), found.scores, label)

    def value(self, group: Hashable = None) -> float:
        """Mean over the classes; there are no other groups."""
        return self.collected.value(**self.options)

    def of_images(self) -> NDArray[np.float64]:
        """Mean over the classes of each image alone (images,)."""
        values = self.collected.of_images(**self.options)
        if isinstance(self.collected, AggregatedJaccard):  # an entry a class
            values = torch.from_numpy(values.reshape(-1, len(self.classes))).nanmean(dim=1).numpy()
        return values


class ClassInstanceMetricHandler(InstanceMetricHandler):
    """A metric of instances of several classes, for ``key_metric`` and ``additional_metrics``.

    A prediction or reference is a dictionary for each image: ``masks`` bool (N, H, W), or a list of N compressed run
    lengths, which is cheaper where several metrics read them; ``labels`` (N,) class numbers; and for predictions
    ``scores`` (N,). N may be 0. Only run lengths or tables of overlaps are kept.

    The value of an image alone (``<name>_per_image``) is its mean over the classes; for AP it is NaN where the image
    has no reference.

    A distributed run counts the images of all processes; one that the sampler gives to two counts twice.

    Args:
        metric: name of the metric, see :class:`NamedClassMetric`, as for the next two.
        classes: class numbers, without the background.
        score_floor: predictions of lower scores are left out; None is the metric's default.
        save_details: as in :class:`InstanceMetricHandler`.
        output_transform: takes ``engine.state.output`` to (predictions, references), a list of dictionaries each.

    Raises:
        ValueError: unknown ``metric``; in the run, masks, labels or scores of other shapes, types or classes.
    """

    def __init__(
        self,
        metric: str = "map",
        *,
        classes: Sequence[int] = (1, 2),
        score_floor: float | None = None,
        save_details: bool = True,
        output_transform: Callable = _DEFAULT_TRANSFORM,
    ) -> None:
        super().__init__(save_details=save_details, output_transform=output_transform)
        self.named: NamedClassMetric = NamedClassMetric(metric, classes, score_floor)

    def update(self, output: Sequence[Sequence[Mapping[str, Any]]]) -> None:  # type: ignore[override]
        """Adds a batch: predictions and references of equal length."""
        for pred, label in zip(*output, strict=True):
            found = class_instances(pred, pred["scores"], classes=self.named.all_classes)
            truth = class_instances(label, np.ones(len(label["labels"])), classes=self.named.all_classes)
            common_size([*found.runs, *truth.runs])
            self.named.update(found, truth)


def class_instances(given: Mapping[str, Any], scores: Any, *, classes: Sequence[int]) -> ClassInstances:
    """Reads an evaluator's instances of one image.

    Args:
        given: ``masks`` bool (N, H, W) or N compressed run lengths, and ``labels`` (N,).
        scores: (N,).
        classes: those that labels may have.

    Raises:
        ValueError: masks of another type or shape, not one label and score a mask, or a label of no class.
    """
    masks = given["masks"]
    if isinstance(masks, Tensor | np.ndarray):
        dense = torch.as_tensor(masks).detach().cpu().numpy()
        if dense.dtype != bool or dense.ndim != 3:
            raise ValueError(f"Masks are {dense.dtype} of shape {dense.shape}, expected bool (N, H, W).")
        masks = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in dense]
    labels, values = (torch.as_tensor(t).detach().cpu().numpy() for t in (given["labels"], scores))
    if labels.shape != (len(masks),) or values.shape != (len(masks),):
        raise ValueError(f"{len(masks)} masks have labels of shape {labels.shape} and scores of shape {values.shape}.")
    unknown = sorted(set(labels.tolist()) - set(classes))
    if unknown:
        raise ValueError(f"Instances have labels {unknown}, expected only {list(classes)}.")
    return ClassInstances(list(masks), labels.astype(np.int64), values.astype(np.float64))


def overlaps_of_run_lengths(prediction: Sequence[Runs], reference: Sequence[Runs]) -> Overlaps:
    """The table of overlaps of masks that are never unpacked.

    Args:
        prediction: P compressed run lengths.
        reference: G of the same size.

    Returns:
        As :func:`monai_ext.functional.instances.overlaps_of_masks` of the same masks.
    """
    areas, reference_areas = (
        np.asarray(coco_mask.area(list(runs)), dtype=np.int64) for runs in (prediction, reference)
    )
    # Against a crowd pycocotools divides by the prediction's area alone.
    shares = coco_mask.iou(list(prediction), list(reference), [1] * len(reference))
    return Overlaps(
        intersections=np.rint(np.reshape(shares, (len(areas), len(reference_areas))) * areas[:, None]).astype(np.int64),
        prediction_areas=areas,
        reference_areas=reference_areas,
        prediction_ids=np.arange(1, len(areas) + 1),
        reference_ids=np.arange(1, len(reference_areas) + 1),
    )
