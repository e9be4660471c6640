# SPDX-License-Identifier: Apache-2.0
"""A teacher whose weights are the running average of its students'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from monai_ext.functional.ema import average_, warmed_up_decay
from monai_ext.handlers.unwrap import unwrapped


class MeanTeacher:
    r"""Owns an averaged teacher and moves it after every update of its students (Tarvainen and Valpola, NeurIPS 2017).

    It follows ``MODEL_COMPLETED``, so a method with two updates an iteration moves its teacher twice. The teacher is
    made from the first student, without gradients. List it among the handlers before the validation handler and among
    what the checkpoint saves.

    What happens to buffers (the running statistics of batch normalisation) is said by ``buffers``:

    - ``"own"``: the teacher stays in training mode, normalises by the batch it sees and collects statistics of its own,
      as UCMT's released code does; its dropout is active. Integer buffers are its own too.
    - ``"average"``: floating-point buffers are averaged like the parameters, others copied; the teacher is in
      evaluation mode.
    - ``"copy"``: buffers are copied from the first student; the teacher is in evaluation mode.

    Args:
        students: networks of one architecture, by role. DistributedDataParallel wrappers are looked through.
        decay: share of the old teacher kept at each update, in [0, 1].
        weights: share of each student in what the teacher moves towards, adding up to 1; equal where None.
        warm_up: keep less at first, see :func:`~monai_ext.functional.ema.warmed_up_decay`; both updates of one
            iteration count as the same step.
        start: iterations before the teacher begins to move. With ``warm_up`` it is a copy of the students then
            (MMT-PSM); until then it is one after every epoch, for the validation, and costs nothing else. A run that
            goes on from one without a teacher begins with a copy, whatever the iteration.
        buffers: the policy above.

    Raises:
        ValueError: an option out of range, or weights that name other students or do not add up to 1.
    """

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        *,
        decay: float = 0.99,
        weights: Mapping[str, float] | None = None,
        warm_up: bool = True,
        start: int = 0,
        buffers: Literal["own", "average", "copy"] = "own",
    ) -> None:
        self.students = {name: unwrapped(student) for name, student in students.items()}
        self.weights = dict(weights) if weights is not None else {n: 1 / len(self.students) for n in self.students}
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: found {decay}, expected a number from 0 to 1.")
        if start < 0:
            raise ValueError(f"start: found {start}, expected 0 or more iterations.")
        if buffers not in ("own", "average", "copy"):
            raise ValueError(f"buffers: found {buffers!r}, expected 'own', 'average' or 'copy'.")
        if self.weights.keys() != self.students.keys() or not math.isclose(sum(self.weights.values()), 1):
            raise ValueError(
                f"weights: found {self.weights}, expected shares of {sorted(self.students)} that add to 1."
            )
        self.decay = decay
        self.warm_up = warm_up
        self.start = start
        self.buffers = buffers
        self.teacher = deepcopy(next(iter(self.students.values()))).requires_grad_(False)
        self._untouched = True
        """Neither moved nor restored: its weights are those that the student was made with."""
        self._set_mode()

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_mode)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_as_a_copy)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._copy_before_the_start)

    def __call__(self, engine: Engine) -> None:
        self.update(engine.state.iteration - 1)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the teacher after ``step`` earlier iterations."""
        if step >= self.start:
            self._move(warmed_up_decay(step - self.start, decay=self.decay) if self.warm_up else self.decay)

    def _begin_as_a_copy(self, engine: Engine) -> None:
        if self._untouched and engine.state.iteration > 0:
            with torch.no_grad():
                self._move(0.0)

    def _copy_before_the_start(self, engine: Engine) -> None:
        if engine.state.iteration <= self.start:
            with torch.no_grad():
                self._move(0.0)

    def _move(self, decay: float) -> None:
        self._untouched = False
        students, weights = list(self.students.values()), [self.weights[name] for name in self.students]
        average_(
            list(self.teacher.parameters()),
            [list(student.parameters()) for student in students],
            weights=weights,
            decay=decay,
        )
        if self.buffers == "own":
            return
        for mine, *theirs in zip(self.teacher.buffers(), *(s.buffers() for s in students), strict=True):
            if self.buffers == "average" and mine.is_floating_point():
                average_([mine], [[t] for t in theirs], weights=weights, decay=decay)
            else:
                mine.copy_(theirs[0])

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and buffers."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :py:meth:`state_dict` returned."""
        self.teacher.load_state_dict(state)
        self._untouched = False

    def _set_mode(self) -> None:
        """Validation puts the network it looks at into evaluation mode; this puts it back."""
        self.teacher.train(self.buffers == "own")
