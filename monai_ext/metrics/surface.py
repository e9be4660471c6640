# SPDX-License-Identifier: Apache-2.0
"""Surface distances in millimetres, with stated definitions and a stated rule for empty masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction, ignore_background
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects
from torch import Tensor

Definition = Literal["pooled", "mean_of_means"]
EmptyRule = Literal["diagonal", "nan"]


def surface_distances_mm(
    pred: NDArray[np.bool_], reference: NDArray[np.bool_], *, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from each surface voxel of one mask to the nearest surface voxel of the other.

    A surface voxel is a mask voxel with a face neighbour (4 in 2-D, 6 in 3-D) outside the mask; outside the volume
    counts as outside the mask.

    Args:
        pred: mask (*S) with at least one voxel.
        reference: mask (*S) with at least one voxel.
        spacing_mm: voxel size along each axis.

    Returns:
        Two 1-D arrays in mm: from ``pred`` to ``reference``, and back.
    """
    box = find_objects((pred | reference).astype(np.uint8))[
        0
    ]  # both surfaces lie in it, and distance maps cost less there
    edges = [mask[box] & ~binary_erosion(mask[box]) for mask in (pred, reference)]
    to_pred, to_reference = (distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges)
    return to_reference[edges[0]], to_pred[edges[1]]


def average_surface_distance_mm(
    pred: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    definition: Definition = "pooled",
    empty: EmptyRule = "diagonal",
) -> float:
    """Average symmetric surface distance of two masks (*S), in mm; arguments as in :class:`AverageSurfaceDistance`."""
    if not pred.any() and not reference.any():
        return 0.0 if empty == "diagonal" else float("nan")
    if not pred.any() or not reference.any():
        return float(np.linalg.norm(np.multiply(pred.shape, spacing_mm))) if empty == "diagonal" else float("nan")
    there, back = surface_distances_mm(pred, reference, spacing_mm=spacing_mm)
    if definition == "pooled":
        return float(np.concatenate([there, back]).mean())
    return float((there.mean() + back.mean()) / 2)


def hausdorff_distance_mm(
    pred: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    percentile: float = 95.0,
    empty: EmptyRule = "diagonal",
) -> float:
    """Percentile of the distances of both directions together, in mm; 100 gives the Hausdorff distance itself."""
    if not pred.any() or not reference.any():
        return average_surface_distance_mm(pred, reference, spacing_mm=spacing_mm, empty=empty)
    return float(
        np.percentile(np.concatenate(surface_distances_mm(pred, reference, spacing_mm=spacing_mm)), percentile)
    )


class AverageSurfaceDistance(CumulativeIterationMetric):
    """Average symmetric surface distance (ASSD) per case and class, in mm.

    Zhai et al., IEEE TMI 2023, report ASSD without a formula. Two definitions are in use and give different numbers
    wherever the two surfaces differ in size:

    - ``"pooled"``: the mean over the distances of both directions together, as MONAI's
      ``SurfaceDistanceMetric(symmetric=True)`` and MedPy 0.5 or newer do. The default here.
    - ``"mean_of_means"``: the mean of the two directed means. The released code calls MedPy 0.4, which does this:
      choose it to compare with the paper's tables.

    The released code drops a case with an empty prediction from every metric, which flatters a method that misses
    objects; and it takes the voxel size from the diagonal of the affine, which is too small for oblique scans. Here
    an empty mask counts, and the voxel size is the norm of the affine's columns.

    Args:
        definition: ``"pooled"`` or ``"mean_of_means"``.
        empty: what a case gets where the prediction or the reference holds no voxel of the class. ``"diagonal"``:
            the diagonal of the volume in mm, which no distance within the volume exceeds, and 0 where both are
            empty. ``"nan"``: NaN in all of these cases, which leaves them out of the average; ``get_not_nans``
            counts the others.
        spacing_mm: voxel size along each axis for every case; ``None`` reads it from each case's MetaTensor.
        include_background: also measure channel 0 (a single channel is always measured).
        reduction: as in MONAI's metrics. Where nothing is left to average the result is NaN (MONAI gives 0).
        get_not_nans: let :py:meth:`aggregate` return (value, number of values averaged).

    Raises:
        ValueError: unknown ``definition`` or ``empty``.

    Called with ``y_pred`` and ``y``, both binary, (B, C, *S) or lists of (C, *S), it returns (B, C) or (B, C - 1).
    """

    def __init__(
        self,
        *,
        definition: Definition = "pooled",
        empty: EmptyRule = "diagonal",
        spacing_mm: Sequence[float] | None = None,
        include_background: bool = False,
        reduction: str = "mean",
        get_not_nans: bool = False,
    ) -> None:
        super().__init__()
        if definition not in ("pooled", "mean_of_means"):
            raise ValueError(f"definition is {definition!r}, expected 'pooled' or 'mean_of_means'.")
        if empty not in ("diagonal", "nan"):
            raise ValueError(f"empty is {empty!r}, expected 'diagonal' or 'nan'.")
        self.definition: Definition = definition
        self.empty: EmptyRule = empty
        self.spacing_mm = spacing_mm
        self.include_background = include_background
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None or y_pred.shape != y.shape or y_pred.ndim < 4:
            found = "nothing" if y is None else tuple(y.shape)
            raise ValueError(
                f"Prediction and reference have shapes {tuple(y_pred.shape)} and {found}, "
                "expected two equal shapes (B, C, *S) with two or three spatial axes."
            )
        spacings = self._spacings(y_pred, y)
        if not self.include_background:
            y_pred, y = ignore_background(y_pred, y)
        masks = [t.detach().cpu().numpy() > 0.5 for t in (y_pred, y)]
        values = [
            [self._measure(p, r, spacing) for p, r in zip(*case, strict=True)]
            for spacing, *case in zip(spacings, *masks, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float32, device=y_pred.device)

    def _measure(self, pred: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
        return average_surface_distance_mm(
            pred, reference, spacing_mm=spacing_mm, definition=self.definition, empty=self.empty
        )

    def _spacings(self, y_pred: Tensor, y: Tensor) -> list[Sequence[float]]:
        """Voxel size of each case: as given, of the reference, or of the prediction."""
        axes = y.ndim - 2
        if self.spacing_mm is not None:
            if len(self.spacing_mm) != axes:
                raise ValueError(f"spacing_mm is {list(self.spacing_mm)}, expected {axes} numbers, one per axis.")
            return [self.spacing_mm] * len(y)
        for tensor in (y, y_pred):
            affine = getattr(tensor, "affine", None)
            if affine is not None:
                affine = torch.as_tensor(affine).double().cpu().expand(len(y), *affine.shape[-2:])
                return affine[:, :-1, :axes].norm(dim=1).tolist()
        raise ValueError(
            "Neither the reference nor the prediction is a MetaTensor with an affine, so the voxel size is unknown: "
            "pass spacing_mm."
        )

    def aggregate(self, reduction: str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduces what was measured since the last reset.

        Args:
            reduction: overrides the one given at construction.

        Returns:
            The value in mm or, with ``get_not_nans``, the value and how many values it stands for.

        Raises:
            ValueError: nothing was measured.
        """
        data = self.get_buffer()
        if not isinstance(data, Tensor):
            raise ValueError("No case was measured: call the metric with a prediction and a reference first.")
        value, not_nans = do_metric_reduction(data, reduction or self.reduction)
        value = torch.where(not_nans > 0, value, torch.nan)
        return (value, not_nans) if self.get_not_nans else value


class HausdorffDistance(AverageSurfaceDistance):
    """Percentile of the surface distances of both directions together, per case and class, in mm.

    95 (HD95) is MedPy's definition, which the code that EUGMT descends from calls; MONAI's ``HausdorffDistanceMetric``
    takes the greater of the two directions' percentiles instead.

    Args:
        percentile: from 0 to 100; 100 is the Hausdorff distance.
        options: ``empty``, ``spacing_mm``, ``include_background``, ``reduction`` and ``get_not_nans`` of
            :class:`AverageSurfaceDistance`, with the same rule for empty masks.

    Raises:
        ValueError: a percentile out of range, or an unknown ``empty``.
    """

    def __init__(self, *, percentile: float = 95.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile is {percentile}, expected a number from 0 to 100.")
        self.percentile = percentile

    def _measure(self, pred: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
        return hausdorff_distance_mm(
            pred, reference, spacing_mm=spacing_mm, percentile=self.percentile, empty=self.empty
        )


class PooledSurfaceDistance(AverageSurfaceDistance):
    """Mean or percentile of the surface distances of all cases and classes together, in mm.

    A case weighs as much as its contours are long, as in a pooled Dice. Where a case lacks the prediction or the
    reference, each surface voxel of the other counts with the diagonal of the volume, or not at all by ``empty``.

    Args:
        percentile: from 0 to 100; None takes the mean.
        options: ``empty``, ``spacing_mm`` and ``include_background`` of :class:`AverageSurfaceDistance`.

    Raises:
        ValueError: a percentile out of range, or an unknown ``empty``.
    """

    def __init__(self, *, percentile: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        if percentile is not None and not 0 <= percentile <= 100:
            raise ValueError(f"percentile is {percentile}, expected a number from 0 to 100 or None.")
        self.percentile = percentile

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._distances: list[NDArray[np.float64]] = []

    def _measure(self, pred: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
        distances = np.zeros(0)
        if pred.any() and reference.any():
            distances = np.concatenate(surface_distances_mm(pred, reference, spacing_mm=spacing_mm))
        elif self.empty == "diagonal":
            surface = (pred | reference) & ~binary_erosion(pred | reference)
            distances = np.full(surface.sum(), np.linalg.norm(np.multiply(pred.shape, spacing_mm)))
        self._distances.append(distances)
        return float(distances.mean()) if distances.size else float("nan")

    def aggregate(self, reduction: str | None = None) -> Tensor:
        """The mean or percentile since the last reset; NaN where no case has a contour. ``reduction`` is not used."""
        gathered = [self._distances]
        if torch.distributed.is_initialized():
            gathered = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(gathered, self._distances)
        distances = np.concatenate([np.zeros(0), *(d for rank in gathered for d in rank)])
        if not distances.size:
            return torch.tensor(torch.nan)
        value = distances.mean() if self.percentile is None else np.percentile(distances, self.percentile)
        return torch.tensor(float(value))
