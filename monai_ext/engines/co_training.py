# SPDX-License-Identifier: Apache-2.0
"""Two networks that learn from each other's hard labels: the rivals of PA-Seg's Table III."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from monai_ext.engines.scm import PAIR, scm_targets
from monai_ext.engines.step import TrainStep


class CoTrainingStep(TrainStep):
    """One iteration of two networks with frozen pseudo labels and an exchange between the *students*.

    Cross pseudo supervision (Chen et al., CVPR 2021): ``exchange`` takes (logits, other's logits).
    Co-teaching (Han et al., NeurIPS 2018): ``exchange`` also takes the pseudo labels, as ``needs_labels`` says.

    Args:
        students: ``primary`` and ``auxiliary``, started from stage one.
        teachers: their frozen copies, which make the pseudo labels.
        supervision: loss of (logits, pseudo labels), terms ``self_*``.
        exchange: loss between the two students, terms ``cross_*``; the other's logits carry no gradient.
        weights: ``self_primary``, ``cross_primary``, ``self_auxiliary``, ``cross_auxiliary``.
        needs_labels: hand the pseudo labels to ``exchange`` as a third argument.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, nn.Module],
        teachers: Mapping[str, nn.Module],
        supervision: nn.Module,
        exchange: Callable[..., Tensor],
        weights: Mapping[str, float],
        needs_labels: bool = False,
    ) -> None:
        super().__init__(students=students, weights=weights)
        self.teachers = teachers
        self.supervision = supervision
        self.exchange = exchange
        self.needs_labels = needs_labels

    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        pseudo, _ = scm_targets(batch["image"], self.teachers)
        logits = {name: self.students[name](batch["image"]) for name in PAIR}
        terms = {}
        for name, other in zip(PAIR, reversed(PAIR), strict=True):
            labels = (pseudo[name],) if self.needs_labels else ()
            if self.wants(f"self_{name}"):
                terms[f"self_{name}"] = self.supervision(logits[name], pseudo[name])
            if self.wants(f"cross_{name}"):
                terms[f"cross_{name}"] = self.exchange(logits[name], logits[other].detach(), *labels)
        return terms
