# SPDX-License-Identifier: Apache-2.0
"""MMT-PSM: a detector learns overlapping cells from few labelled images, and from its own average on many others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_ext.engines.detection import targets_of
from monai_ext.engines.step import Ramp, Terms, TrainStep
from monai_ext.functional.distill import masks_of_levels
from monai_ext.networks.aligned_roi_pool import paste_masks
from monai_ext.networks.anchors import near_anchors
from monai_ext.networks.detector_training import Answers, DetectorTraining

DISTILLED = ("psm", "mgd")
Loss = Callable[..., Tensor]
Region = Literal["masks", "all", "anchors"]
Mirror = Literal["none", "half", "both"]


class MMTPSMStep(TrainStep):
    r"""One iteration of MMT-PSM (Zhou et al., MICCAI 2020), Eq. 5.

    .. math:: L = L_{sup} + \lambda(t) (L_{psm} + \gamma L_{mgd})

    The terms are the detector's own, ``rpn_objectness``, ``rpn_box``, ``class``, ``box``, ``mask`` and, of a detector
    with it, ``duplicate``, on labelled images, and on unlabelled ones ``psm`` (Eq. 1 to 3) and ``mgd`` (Eq. 4). The
    teacher's proposals in its first view are what it is asked about in all of its own; the student is asked about those
    of them that are mined. The teacher's instances in that view say where the features count.

    The batch holds ``image`` (B, 3, H, W), ``target`` (a list of B targets), and K views ``teacher_0``, ... and L views
    ``student_0``, ... of the unlabelled images, (U, 3, H, W), none of them mirrored yet.

    Args:
        student: the network that learns, possibly wrapped.
        teacher: its average, moved by :class:`~monai_ext.handlers.MeanTeacher`; None without ``psm`` and ``mgd``.
        losses: ``psm`` of (logits, teacher's logits), ``mgd`` of (features, teacher's features, masks).
        mine: of the teacher's logits (K, R, C), which proposals ``psm`` learns from, bool (R,); None is all.
        weights: by term; 0 removes a term.
        ramps: lambda, for the two terms.
        start_iteration: iterations on labelled images alone; nothing else is computed before.
        mirror: which views are mirrored: every second one of each network (``"half"``), ``"none"``, or the teacher's
            both as they are and mirrored (``"both"``, the released code).
        region: where features count: in the teacher's instances (``"masks"``), everywhere (``"all"``, as in ODKD), or
            near the anchors that fit them (``"anchors"``, as in FFI).

    Raises:
        ValueError: an option out of range, or distillation without a teacher.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: DetectorTraining | None,
        losses: Mapping[str, Loss],
        mine: Callable[[Tensor], Tensor] | None = None,
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
        start_iteration: int = 1000,
        mirror: Mirror = "half",
        region: Region = "masks",
    ) -> None:
        super().__init__(students={"student": student}, weights=weights, ramps=ramps, ramp_unit="iteration")
        if mirror not in ("none", "half", "both"):
            raise ValueError(f"mirror: found {mirror!r}, expected 'none', 'half' or 'both'.")
        if region not in ("masks", "all", "anchors"):
            raise ValueError(f"region: found {region!r}, expected 'masks', 'all' or 'anchors'.")
        self.distilled = [name for name in DISTILLED if name in self.weights]
        if self.distilled and teacher is None:
            raise ValueError(f"{' and '.join(self.distilled)}: found no teacher, expected one for these terms.")
        self.teacher = teacher
        self.losses = dict(losses)
        self.mine = mine
        self.start_iteration = start_iteration
        self.mirror = mirror
        self.region = region

    def terms(self, batch: Mapping[str, Any]) -> Terms:
        student, image = self.students["student"], batch["image"]
        targets = targets_of(batch)
        if not self.distilled or self.iteration < self.start_iteration:
            found, _ = student(image, targets)
            silent = {name: torch.zeros((), device=image.device) for name in self.distilled}
            return self.wanted(found) | silent
        taught, boxes, masks = self._teach(views_of(batch, "teacher"))
        boxes, logits = self._mined(boxes, taught.logits)
        views, mirrored = views_of(batch, "student"), self._mirrored(len(views_of(batch, "student")))
        found, answers = student(image, targets, _mirror(views, mirrored), mirrored, boxes)
        terms = self.wanted(found)
        if self.wants("psm"):
            terms["psm"] = self.losses["psm"](answers.logits, logits)
        if self.wants("mgd"):
            terms["mgd"] = self.losses["mgd"](answers.adapted, taught.adapted, masks)
        return terms

    def _mined(self, boxes: list[Tensor], logits: Tensor) -> tuple[list[Tensor], Tensor]:
        """The boxes (R_u, 4) that the student is asked about, and the teacher's logits (K, R, C) of them."""
        if not self.wants("psm"):
            return [some[:0] for some in boxes], logits[:, :0]
        if self.mine is None:
            return boxes, logits
        kept = self.mine(logits)
        shares = kept.split([len(some) for some in boxes])
        return [some[share] for some, share in zip(boxes, shares, strict=True)], logits[:, kept]

    @torch.no_grad()
    def _teach(self, views: Tensor) -> tuple[Answers, list[Tensor], list[Tensor]]:
        """The teacher's answers, the boxes that they are about, and the regions (U, h, w) of each level."""
        assert self.teacher is not None
        network, size = self.teacher.network, (views.shape[-2], views.shape[-1])
        mirrored = self._mirrored(len(views))
        if self.mirror == "both":
            views, mirrored = views.repeat_interleave(2, 0), [False, True] * len(views)
        levels = network.features(_mirror(views, mirrored).flatten(0, 1))
        levels = [level.unflatten(0, views.shape[:2]) for level in levels]
        first = [level[0] for level in levels]
        boxes = network.proposals(first, size)
        answers = self.teacher.answers(levels, mirrored, boxes, size)
        if not self.wants("mgd"):
            return answers, boxes, []
        return answers, boxes, self._regions(answers, boxes, first, size)

    def _regions(
        self, answers: Answers, boxes: list[Tensor], levels: list[Tensor], size: tuple[int, int]
    ) -> list[Tensor]:
        """Where features count, after the answers about the first view, whose levels are given."""
        assert self.teacher is not None
        network, about = self.teacher.network, (answers.logits[0], answers.deltas[0], answers.hidden[0], size)
        if self.region == "all":
            return [torch.ones_like(level[:, 0], dtype=torch.bool) for level in levels]
        if self.region == "anchors":
            return near_anchors(network.select(boxes, *about)[0], network.rpn.anchors_of_levels(levels))
        found = network.decode(levels, boxes, *about)
        pasted = [paste_masks(one["masks"], one["boxes"], *size).any(0) for one in found]
        return masks_of_levels(torch.stack(pasted), [level.shape[-2:] for level in levels])

    def _mirrored(self, views: int) -> list[bool]:
        return [self.mirror == "half" and number % 2 == 1 for number in range(views)]


def views_of(batch: Mapping[str, Any], network: str) -> Tensor:
    """The views ``<network>_0``, ``<network>_1``, ... of a batch as (V, U, 3, H, W).

    Raises:
        ValueError: there is none.
    """
    views: list[Tensor] = []
    while (key := f"{network}_{len(views)}") in batch:
        views.append(batch[key])
    if not views:
        raise ValueError(f"batch: found no {network}_0, expected the views of unlabelled images.")
    return torch.stack(views)


def _mirror(views: Tensor, mirrored: Sequence[bool]) -> Tensor:
    return torch.stack([view.flip(-1) if flip else view for view, flip in zip(views, mirrored, strict=True)])
