# SPDX-License-Identifier: Apache-2.0
"""Teachers that are frozen copies of their students, renewed every few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from monai_ext.handlers.unwrap import unwrapped


class SnapshotTeacher:
    """Owns a frozen copy of each student and renews all of them every ``every`` epochs (PA-Seg section IV-B).

    The copies are taken when this object is made: load the students' weights before. A renewal takes the students'
    latest weights. The released code takes each network's checkpoint with the best Dice on dense validation masks
    instead; with ``validator`` the weights of the best validated epoch so far are taken.

    Args:
        students: networks by role. DistributedDataParallel wrappers are looked through.
        every: epochs between renewals; with 20, renewals happen after epochs 20, 40, 60, ...
        validator: an evaluator with a key metric; ``None`` takes the latest weights.
    """

    def __init__(self, students: Mapping[str, nn.Module], *, every: int, validator: Engine | None = None) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, found {every}.")
        self.students = dict(students)
        self.every = every
        self.validator = validator
        self.teachers = {name: _frozen_copy(student) for name, student in self.students.items()}
        self._best = self._student_states() if validator is not None else None

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer; where a validator is given, list this handler after the validation handler."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if self.validator is not None and getattr(self.validator.state, "best_metric_epoch", -1) == epoch:
            self._best = self._student_states()
        if epoch % self.every == 0:
            states = self._best if self._best is not None else self._student_states()
            for name, teacher in self.teachers.items():
                teacher.load_state_dict(states[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights of the teachers and, with a validator, of the best epoch."""
        state: dict[str, Any] = {"teachers": {name: t.state_dict() for name, t in self.teachers.items()}}
        return state if self._best is None else state | {"best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :py:meth:`state_dict` returned."""
        for name, teacher in self.teachers.items():
            teacher.load_state_dict(state["teachers"][name])
        self._best = state.get("best", self._best)

    def _student_states(self) -> dict[str, dict[str, Any]]:
        return {name: deepcopy(unwrapped(student).state_dict()) for name, student in self.students.items()}


def _frozen_copy(student: nn.Module) -> nn.Module:
    return deepcopy(unwrapped(student)).eval().requires_grad_(False)
