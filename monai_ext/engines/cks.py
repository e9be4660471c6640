# SPDX-License-Identifier: Apache-2.0
"""CKS: cell instances from one point a cell, by two unlike networks that teach each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.engines.step import Ramp, Terms, TrainStep
from monai_ext.functional.knowledge_sharing import foreground_of_instances
from monai_ext.functional.windows import Windows, gather_windows, inside
from monai_ext.networks.point_training import CellPredictions

Loss = Callable[..., Any]


class CKSStep(TrainStep):
    """One iteration of CKS (Yu, "Point-supervised single-cell segmentation via collaborative knowledge sharing").

    The principal network finds cells and segments each; the collaborator sees the image's foreground and borders. The
    terms are ``detection`` and ``offset`` (Eq. 3), ``foreground`` (Eq. 6, what the collaborator learns), ``instances``
    (Eq. 8, what the principal learns), ``border`` (Eq. 10, both) and ``collapse``. With ``detection``, ``offset`` and
    ``mask`` it is training with masks (Table I). One optimiser over both networks is the same as the paper's two, as
    each term's gradient reaches just the network that it is for.

    Without a collaborator the masks learn from their own foreground, which the prior has shifted: an ablation.

    Args:
        principal: :class:`~monai_ext.networks.PointTraining`, possibly wrapped.
        collaborator: image to logits (B, 2, H, W); None without it.
        losses: by term; ``detection`` gives ``offset`` too. ``instances_warm_up`` is for the first phase.
        weights: by term; 0 removes one.
        prior_weight: pi of Eq. 4; the batch has d of each cell.
        warm_up_iterations: length of the first phase, in which the masks grow from nothing: the released code's, of
            which the paper does not speak.
        warm_up_prior: d in px and pi in the first phase.
        ramps: factors of the weights.
    """

    def __init__(
        self,
        *,
        principal: nn.Module,
        collaborator: nn.Module | None,
        losses: Mapping[str, Loss],
        weights: Mapping[str, float],
        prior_weight: float = 2.0,
        warm_up_iterations: int = 0,
        warm_up_prior: tuple[float, float] = (100.0, 1.0),
        ramps: Mapping[str, Ramp] | None = None,
    ) -> None:
        students = {"principal": principal} | ({} if collaborator is None else {"collaborator": collaborator})
        super().__init__(students=students, weights=weights, ramps=ramps)
        alone = [name for name in ("foreground", "border") if name in self.weights]
        if collaborator is None and alone:
            raise ValueError(f"{' and '.join(alone)}: found no collaborator, expected one for these terms.")
        if "instances" in self.weights and warm_up_iterations > 0 and "instances_warm_up" not in losses:
            raise ValueError("losses: found no 'instances_warm_up', expected one for the first phase.")
        self.losses = dict(losses)
        self.prior_weight = prior_weight
        self.warm_up_iterations = warm_up_iterations
        self.warm_up_prior = warm_up_prior

    def terms(self, batch: Mapping[str, Any]) -> Terms:
        found: CellPredictions = self.students["principal"](batch["image"], batch["locations"], batch["of_image"])
        shape = (batch["image"].shape[0], batch["image"].shape[2], batch["image"].shape[3])
        windows = Windows(batch["of_image"], found.origin, found.logits.shape[-1], shape)
        terms: Terms = {}
        if self.wants("detection") or self.wants("offset"):
            terms |= self.losses["detection"](found.levels, batch["locations"], batch["of_image"])
        logits = found.logits.float()
        if self.wants("mask"):
            terms["mask"] = _mask_loss(logits, windows, batch["label"], batch["numbers"])
        if self.wants("collapse"):
            terms["collapse"] = self.losses["collapse"](logits.sigmoid(), windows)
        if any(self.wants(name) for name in ("foreground", "instances", "border")):
            terms |= self._shared(batch, logits, windows, found.locations)
        return {name: term for name, term in terms.items() if self.wants(name)}

    def _shared(self, batch: Mapping[str, Any], logits: Tensor, windows: Windows, locations: Tensor) -> Terms:
        warm = self.iteration < self.warm_up_iterations
        prior_px, prior_weight = self.warm_up_prior if warm else (batch["prior_px"], self.prior_weight)
        target = foreground_of_instances(
            logits, windows, locations=locations, prior_px=prior_px, prior_weight=prior_weight
        )
        terms: Terms = {}
        foreground = target
        if "collaborator" in self.students:
            foreground, border = self.students["collaborator"](batch["image"]).float().sigmoid().unbind(1)
            if self.wants("foreground"):
                terms["foreground"] = self.losses["foreground"](foreground, target)
            if self.wants("border"):
                terms["border"] = self.losses["border"](border, logits.sigmoid(), windows)
        if self.wants("instances"):
            loss = self.losses["instances_warm_up" if warm else "instances"]
            terms["instances"] = loss(logits, windows, foreground)
        return terms


def _mask_loss(logits: Tensor, windows: Windows, label: Tensor, numbers: Tensor) -> Tensor:
    """Cross-entropy of each cell's mask in its window, the mean over window pixels in the image."""
    if len(logits) == 0:
        return logits.sum()
    target = gather_windows(label.float(), windows)[:, 0].round() == numbers[:, None, None]
    within = inside(windows).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), weight=within, reduction="sum")
    return loss / within.sum().clamp_min(1)
