# SPDX-License-Identifier: Apache-2.0
"""Metrics beside MONAI's own."""

from monai_ext.metrics.surface import AverageSurfaceDistance, HausdorffDistance, PooledSurfaceDistance

__all__ = ["AverageSurfaceDistance", "HausdorffDistance", "PooledSurfaceDistance"]
