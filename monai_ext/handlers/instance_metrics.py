# SPDX-License-Identifier: Apache-2.0
"""Metrics of instance maps in an evaluation: of all images together, of each image, and of each group."""

from __future__ import annotations

import copy
import csv
import io
import math
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.handlers import from_engine
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.functional.instances import Overlaps, overlaps_of_label_maps, values_of_instances
from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.files import write_atomically
from monai_ext.metrics.instance_ap import THRESHOLDS, InstanceAveragePrecision, MeasuredImage
from monai_ext.metrics.instance_dice import InstanceCountError, InstanceDice
from monai_ext.metrics.nuclei import NucleiMetric, NucleiName

PER_IMAGE = "_per_image"
"""Ends the name of the values of each image, which would hide the metric of all together under the same name."""

_AP = re.compile(r"(coco_)?(?:map|ap([1-9]\d))")
_DEFAULT_TRANSFORM = from_engine(["pred", "label"])


class NamedInstanceMetric:
    """A metric of instances by the name that a config gives it.

    Args:
        name: ``ap50`` (any two digits: the IoU threshold in percent), ``map`` (mean over 0.50, 0.55, ..., 0.95), both
            not smoothed, as in the CKS paper; ``coco_ap50`` and ``coco_map``, as COCO's; ``dice``;
            ``count_error``, the mean absolute error of the number of instances per image; and of nuclei, each a mean
            over images (:class:`~monai_ext.metrics.NucleiMetric`), ``aji``, ``aji_plus``, ``pq`` and
            ``foreground_dice``, of all pixels of nuclei.
        score_floor: predictions of lower scores are left out; None is 0 for the first four and 0.5 for the others.

    Raises:
        ValueError: unknown name.
    """

    def __init__(self, name: str, score_floor: float | None = None) -> None:
        floor = {} if score_floor is None else {"score_floor": score_floor}
        found = _AP.fullmatch(name)
        self.options: dict[str, Any] = {}
        self.collected: InstanceAveragePrecision | InstanceDice | InstanceCountError | NucleiMetric
        if found is not None:
            self.collected = InstanceAveragePrecision(**floor)
            self.options["thresholds"] = [int(found[2]) / 100] if found[2] else THRESHOLDS
            self.options["interpolation"] = "coco" if found[1] else "none"
        elif name == "dice":
            self.collected = InstanceDice(**floor)
        elif name == "count_error":
            self.collected = InstanceCountError(**floor)
        elif name in get_args(NucleiName):
            self.collected = NucleiMetric(cast(NucleiName, name), **floor)
        else:
            raise ValueError(
                f"metric is {name!r}, expected 'ap50' or another threshold, 'map', either with 'coco_' before it, "
                "'dice', 'count_error', 'aji', 'aji_plus', 'pq' or 'foreground_dice'."
            )

    def gathered(self) -> NamedInstanceMetric:
        """A copy that holds the images of all processes, rank by rank; call it on every rank."""
        whole = copy.copy(self)
        whole.collected = copy.copy(self.collected)
        if torch.distributed.is_initialized():
            ranks: list[list[MeasuredImage]] = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(ranks, self.collected.images)
            whole.collected.images = [image for rank in ranks for image in rank]
        return whole

    def value(self, group: Hashable = None) -> float:
        """Of all images together, or of a group's."""
        return self.collected.value(group=group, **self.options)

    def of_images(self) -> NDArray[np.float64]:
        """Of each image alone (images,)."""
        return self.collected.of_images(**self.options)


class InstanceMetricHandler(Metric):
    """A metric of the instances of all images together, for ``key_metric`` and ``additional_metrics``.

    A prediction is a tensor (2, *S), the instance number (0 on background) and at each of its pixels its score; or
    (1, *S), where every score is 1. A reference is a label map (1, *S). Both may be float.

    A distributed run counts the images of all processes; one that the sampler gives to two counts twice.

    Args:
        metric: name of the metric, see :class:`NamedInstanceMetric`. Where lower is better (``count_error``) it is no
            key metric without a ``metric_cmp_fn``.
        score_floor: predictions of lower scores are left out; None is the metric's default.
        save_details: keep the value of each image in ``engine.state.metric_details`` under the name with
            ``_per_image``, from where ``monai.handlers.MetricsSaver`` writes ``<name>_per_image_raw.csv``.
        output_transform: takes ``engine.state.output`` to (predictions, references).

    Raises:
        ValueError: unknown ``metric``; in the run, tensors of other shapes.
    """

    def __init__(
        self,
        metric: str = "ap50",
        *,
        score_floor: float | None = None,
        save_details: bool = True,
        output_transform: Callable = _DEFAULT_TRANSFORM,
    ) -> None:
        self.named = NamedInstanceMetric(metric, score_floor)
        self.save_details = save_details
        self._details: tuple[Engine, str] | None = None
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forgets all images."""
        self.named.collected.reset()

    def update(self, output: Sequence[Sequence[Tensor]]) -> None:
        """Adds a batch: predictions and references, tensors or lists of equal length."""
        for pred, label in zip(*output, strict=True):
            self.named.collected.update(*overlaps_and_scores(pred, label))

    def compute(self) -> float:
        """The metric of all images together; leaves the value of each."""
        whole = self.named.gathered()
        if self.save_details and self._details is not None:
            engine, name = self._details
            details: dict[str, Tensor] = engine.state.metric_details  # type: ignore[attr-defined]
            details[name + PER_IMAGE] = torch.from_numpy(whole.of_images())[:, None]
        return whole.value()

    def attach(self, engine: Engine, name: str) -> None:  # type: ignore[override]
        """Registers with an evaluator, whose ``state.metrics`` gets the value under this name."""
        super().attach(engine, name)
        self._details = (engine, name)
        if self.save_details and not hasattr(engine.state, "metric_details"):
            engine.state.metric_details = {}  # type: ignore[attr-defined]


class InstanceGroups:
    """Writes ``groups.csv``: the metrics of each group's images together, such as a cell line's, and of all images.

    Columns: ``group``, ``images``, ``cells`` (in the references) and one per metric, empty where it has no value.
    Images without a group count in the last row, ``all``, only.

    Args:
        output_dir: where to write.
        metrics: names, see :class:`NamedInstanceMetric`.
        group_key: in the evaluator's batch.
        pred_key: in the evaluator's output, as in :class:`InstanceMetricHandler`.
        label_key: likewise.
        filename: the table's name.

    Raises:
        ValueError: an unknown metric; in the run, tensors of other shapes.
    """

    def __init__(
        self,
        output_dir: str | Path,
        metrics: Sequence[str] = ("ap50", "ap75", "map", "dice"),
        *,
        group_key: str = "group",
        pred_key: str = "pred",
        label_key: str = "label",
        filename: str = "groups.csv",
    ) -> None:
        self.path = Path(output_dir) / filename
        self.named = {name: NamedInstanceMetric(name) for name in ("count_error", *metrics)}
        self.columns = list(metrics)
        self.group_key = group_key
        self.pred_key = pred_key
        self.label_key = label_key

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _reset(self, engine: Engine) -> None:
        for metric in self.named.values():
            metric.collected.reset()

    def _add(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for inputs, results in zip(batch, output, strict=True):
            overlaps, scores = overlaps_and_scores(results[self.pred_key], results[self.label_key])
            group = inputs.get(self.group_key)
            group = group.item() if isinstance(group, Tensor) else group
            for metric in self.named.values():
                metric.collected.update(overlaps, scores, None if group is None else str(group))

    def _write(self, engine: Engine) -> None:
        whole = {name: metric.gathered() for name, metric in self.named.items()}
        if not is_main_process() or not whole["count_error"].collected.images:
            return
        groups = {str(i.group) for i in whole["count_error"].collected.images if i.group is not None}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", "images", "cells", *self.columns])
        for group in [*sorted(groups), None]:
            images = whole["count_error"].collected.of_group(group)
            values = [whole[name].value(group) for name in self.columns]
            cells = sum(image.references for image in images)
            writer.writerow(
                ["all" if group is None else group, len(images), cells]
                + ["" if math.isnan(value) else f"{value:.6g}" for value in values]
            )
        write_atomically(self.path, text.getvalue())


def overlaps_and_scores(pred: Tensor, label: Tensor) -> tuple[Overlaps, NDArray[Any]]:
    """Compares an evaluator's prediction and reference.

    Args:
        pred: (2, *S) instance number and score, or (1, *S) without scores.
        label: (1, *S) label map.

    Returns:
        The table of overlaps and the scores of its P predictions; ones where none are given.

    Raises:
        ValueError: other shapes, or a label map with negative numbers or fractions.
    """
    found, reference = (torch.as_tensor(t).detach().cpu().numpy() for t in (pred, label))
    if found.shape[0] not in (1, 2) or reference.shape != (1, *found.shape[1:]):
        raise ValueError(
            f"Prediction and label have shapes {found.shape} and {reference.shape}, expected (2, *S), instance number "
            "and score, and (1, *S), the label map."
        )
    scores = found[1] if len(found) == 2 else np.ones_like(found[0])
    return overlaps_of_label_maps(found[0], reference[0]), values_of_instances(found[0], scores)
