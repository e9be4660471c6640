# SPDX-License-Identifier: Apache-2.0
"""Metrics beside MONAI's own."""

from monai_ext.metrics.aji import AggregatedJaccard
from monai_ext.metrics.coco_mask_ap import CocoMaskAP
from monai_ext.metrics.instance_ap import InstanceAveragePrecision
from monai_ext.metrics.instance_dice import InstanceCountError, InstanceDice
from monai_ext.metrics.nuclei import NucleiMetric
from monai_ext.metrics.surface import AverageSurfaceDistance, HausdorffDistance, PooledSurfaceDistance

__all__ = [
    "AggregatedJaccard",
    "AverageSurfaceDistance",
    "CocoMaskAP",
    "HausdorffDistance",
    "InstanceAveragePrecision",
    "InstanceCountError",
    "InstanceDice",
    "NucleiMetric",
    "PooledSurfaceDistance",
]
