# SPDX-License-Identifier: Apache-2.0
"""PA-Seg, stage two: Self and Cross Monitoring (Zhai et al., IEEE TMI 2023, section III-B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_ext.engines.step import TrainStep
from monai_ext.functional.hard_labels import hard_labels

PAIR = ("primary", "auxiliary")


@torch.no_grad()
def scm_targets(image: Tensor, teachers: Mapping[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the frozen copies say of a batch, without gradient.

    Args:
        image: (B, 1, *S), the same augmented crop that the students see.
        teachers: frozen copies of both networks, ``primary`` and ``auxiliary``.

    Returns:
        pseudo labels (B, 1, *S), each from the network's own copy, and logits (B, C, *S) of the *other* copy.
    """
    logits = {name: teachers[name](image) for name in PAIR}
    pseudo = {name: hard_labels(logits[name])[:, None] for name in PAIR}
    other = {"primary": logits["auxiliary"], "auxiliary": logits["primary"]}
    return pseudo, other


class SCMStep(TrainStep):
    r"""One iteration of stage two, Eq. 14 and 15; terms ``self_*`` and ``cross_*`` for both networks.

    .. math::
        L_{\theta^a} = \lambda L_{KD}(\tilde P^a, \tilde P^b) + (1 - \lambda) L_{sup}(P^a, \hat Y^a)

    and the same with a and b exchanged. The two losses share no parameter, so one optimiser over both networks
    does what the released code does with two.

    Args:
        students: ``primary`` and ``auxiliary``, started from stage one.
        teachers: their frozen copies, refreshed by :py:class:`monai_ext.handlers.SnapshotTeacher`.
        supervision: loss of (logits, labels) for the self-training term.
        distillation: loss of (logits, teacher's logits), Eq. 12-13.
        weights: ``self_primary``, ``cross_primary``, ``self_auxiliary``, ``cross_auxiliary``.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, nn.Module],
        teachers: Mapping[str, nn.Module],
        supervision: nn.Module,
        distillation: nn.Module,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(students=students, weights=weights)
        self.teachers = teachers
        self.supervision = supervision
        self.distillation = distillation

    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        pseudo, other = scm_targets(batch["image"], self.teachers)
        terms = {}
        for name in PAIR:
            logits = self.students[name](batch["image"])
            if self.wants(f"self_{name}"):
                terms[f"self_{name}"] = self.supervision(logits, pseudo[name])
            if self.wants(f"cross_{name}"):
                terms[f"cross_{name}"] = self.distillation(logits, other[name])
        return terms
