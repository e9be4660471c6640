# SPDX-License-Identifier: Apache-2.0
"""This package's metrics as ignite metrics, for ``key_metric`` and ``additional_metrics`` of MONAI's evaluators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.handlers import IgniteMetricHandler

from monai_ext.metrics.surface import (
    AverageSurfaceDistance,
    Definition,
    EmptyRule,
    HausdorffDistance,
    PooledSurfaceDistance,
)


class SurfaceDistanceHandler(IgniteMetricHandler):
    """Average symmetric surface distance in mm over an evaluation.

    Args:
        definition: see :class:`monai_ext.metrics.AverageSurfaceDistance`, as for the next four.
        empty: the value of cases without prediction or reference.
        spacing_mm: voxel size; ``None`` reads each case's own.
        include_background: also measure channel 0.
        reduction: how cases and classes are averaged.
        output_transform: takes ``engine.state.output`` to (prediction, reference), for example
            ``monai.handlers.from_engine(["pred", "label"])``; both one-hot.
        save_details: keep the value of every case and class in ``engine.state.metric_details``, from where
            ``monai.handlers.MetricsSaver`` writes it.
    """

    def __init__(
        self,
        *,
        definition: Definition = "pooled",
        empty: EmptyRule = "diagonal",
        spacing_mm: Sequence[float] | None = None,
        include_background: bool = False,
        reduction: str = "mean",
        output_transform: Callable = lambda x: x,
        save_details: bool = True,
    ) -> None:
        metric = AverageSurfaceDistance(
            definition=definition,
            empty=empty,
            spacing_mm=spacing_mm,
            include_background=include_background,
            reduction=reduction,
        )
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)


class HausdorffDistanceHandler(IgniteMetricHandler):
    """Percentile of each case's surface distances in mm, averaged over an evaluation.

    Args:
        percentile: 95 for HD95.
        output_transform: as in :class:`SurfaceDistanceHandler`, like the next.
        save_details: keep every case's value.
        options: of :class:`monai_ext.metrics.HausdorffDistance`.
    """

    def __init__(
        self,
        *,
        percentile: float = 95.0,
        output_transform: Callable = lambda x: x,
        save_details: bool = True,
        **options: Any,
    ) -> None:
        metric = HausdorffDistance(percentile=percentile, **options)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)


class PooledSurfaceHandler(IgniteMetricHandler):
    """Mean or percentile in mm of the surface distances of all cases together.

    Args:
        percentile: 95 for a pooled HD95; None for the mean.
        output_transform: as in :class:`SurfaceDistanceHandler`.
        options: of :class:`monai_ext.metrics.PooledSurfaceDistance`.
    """

    def __init__(
        self, *, percentile: float | None = None, output_transform: Callable = lambda x: x, **options: Any
    ) -> None:
        metric = PooledSurfaceDistance(percentile=percentile, **options)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=False)
