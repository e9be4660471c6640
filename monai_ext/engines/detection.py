# SPDX-License-Identifier: Apache-2.0
"""A detector that learns from labelled images alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from monai_ext.engines.step import Terms, TrainStep


class DetectionStep(TrainStep):
    """One iteration of a detector on labels, real, synthetic or predicted: they count the same.

    The terms are the student's own: of a Mask R-CNN ``rpn_objectness``, ``rpn_box``, ``class``, ``box`` and ``mask``.
    The batch holds ``image`` (B, 3, H, W) and ``target``, a list of B targets.

    Source: the segmentation of "Which pixel to annotate", Lou et al., IEEE TMI 2022, section III-C.

    Args:
        student: takes images and targets to its losses, see :class:`~monai_ext.networks.LabeledTraining`; possibly
            wrapped.
        weights: by term; 0 removes a term.
        clip_norm: as in :class:`TrainStep`.
    """

    def __init__(self, *, student: nn.Module, weights: Mapping[str, float], clip_norm: float | None = None) -> None:
        super().__init__(students={"student": student}, weights=weights, clip_norm=clip_norm)

    def terms(self, batch: Mapping[str, Any]) -> Terms:
        return self.wanted(self.students["student"](batch["image"], targets_of(batch)))


def targets_of(batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """The targets of a batch on the device of its images."""
    device = batch["image"].device
    return [{key: value.to(device) for key, value in target.items()} for target in batch["target"]]
