# SPDX-License-Identifier: Apache-2.0
"""MMT-PSM's terms written down plainly: each network is called once for each view of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from monai_ext.functional.distill import masks_of_levels
from monai_ext.networks import DetectorTraining, mirror_boxes, paste_masks
from monai_ext.networks.detector_losses import detector_losses


def terms_apart(
    batch: Mapping[str, Any],
    *,
    student: DetectorTraining,
    teacher: DetectorTraining,
    losses: Mapping[str, Callable[..., Tensor]],
    teacher_views: int = 2,
) -> dict[str, Tensor]:
    """All terms of an iteration with one student view; every second teacher view is mirrored."""
    size = (batch["image"].shape[-2], batch["image"].shape[-1])
    labelled = student.network.features(batch["image"])
    terms = detector_losses(student.network, labelled, batch["target"], image_size=size)
    logits, adapted = [], []
    taught_logits, taught, masks = [], [], []
    for number in range(len(batch["student_0"])):
        views = [batch[f"teacher_{k}"][number : number + 1] for k in range(teacher_views)]
        with torch.no_grad():
            network = teacher.network
            found = network.detect(network.features(views[0]), size)[0]
            boxes = network.proposals(network.features(views[0]), size)[0]
            answers = [_answer(teacher, view, boxes, size, mirrored=k % 2 == 1) for k, view in enumerate(views)]
            seen = paste_masks(found["masks"], found["boxes"], *size).any(0)
        taught_logits.append(torch.stack([one[0] for one in answers]))
        taught.append([torch.stack(level) for level in zip(*(one[1] for one in answers), strict=True)])
        masks.append(masks_of_levels(seen[None], [level.shape[-2:] for level in answers[0][1]]))
        mine = _answer(student, batch["student_0"][number : number + 1], boxes, size, mirrored=False)
        logits.append(mine[0])
        adapted.append(mine[1])
    terms["psm"] = losses["psm"](torch.cat(logits)[None], torch.cat(taught_logits, 1))
    terms["mgd"] = losses["mgd"](
        [torch.cat(level)[None] for level in zip(*adapted, strict=True)],
        [torch.cat(level, 1) for level in zip(*taught, strict=True)],
        [torch.cat(level) for level in zip(*masks, strict=True)],
    )
    return terms


def _answer(
    training: DetectorTraining, view: Tensor, boxes: Tensor, size: tuple[int, int], *, mirrored: bool
) -> tuple[Tensor, list[Tensor]]:
    """Class logits (R, C) of the boxes in one view (1, 3, H, W), and the adapted levels, mirrored back."""
    levels = training.network.features(view.flip(-1) if mirrored else view)
    boxes = mirror_boxes(boxes, width=size[1]) if mirrored else boxes
    logits, _, _ = training.network.rois(levels, [boxes], size)
    adapted = [adapt(level) for adapt, level in zip(training.adapters, levels, strict=True)]
    return logits, [level.flip(-1) for level in adapted] if mirrored else adapted
