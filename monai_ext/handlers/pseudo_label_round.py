# SPDX-License-Identifier: Apache-2.0
"""Rounds of training: after each, predictions of the training images become labels for the next."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_ext.data.pseudo_labels import PseudoLabels
from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.files import write_table
from monai_ext.handlers.picture_results import rows_and_columns
from monai_ext.handlers.unwrap import unwrapped

logger = logging.getLogger(__name__)

TABLE = "rounds.csv"


class PseudoLabelRound:
    """Trains in rounds of some epochs, each but the first with pseudo labels of the round before.

    At the end of a round the network as it then is predicts the images that it is shown, which should be those of the
    training set; what :class:`~monai_ext.data.PseudoLabels` makes of them takes the place of the round before's in the
    training data set, whose other items stay. When a round with pseudo labels has not been validated better than the
    best before, training ends. ``rounds.csv`` tells of each round.

    Source: "Which pixel to annotate", Lou et al., IEEE TMI 2022, section III-C.

    List it among the trainer's handlers after the validation and before the checkpoint, of which it is an object. In a
    distributed run rank 0 predicts and writes, the others wait and read; their data sets have to be on a disk that all
    see.

    Args:
        labels: makes and reads the files.
        evaluator: one over whole images that decollates: ``picture`` (3, x, y) in its batch, ``pred`` (2, x, y), the
            instance's number and its score, in its output.
        dataset: the training data set, whose list ``data`` is exchanged.
        round_epochs: epochs of a round.
        rounds: at most so many with pseudo labels. The trainer's epochs are those of one round more.
        restart: objects with a ``state_dict`` that begin each round as they are now; none to train on.
        validator: the evaluator whose key metric tells whether to stop; None never stops.

    Raises:
        ValueError: fewer than one epoch or round.
    """

    def __init__(
        self,
        *,
        labels: PseudoLabels,
        evaluator: Engine,
        dataset: Any,
        round_epochs: int,
        rounds: int,
        restart: Mapping[str, Any] | None = None,
        validator: Engine | None = None,
    ) -> None:
        if round_epochs < 1 or rounds < 1:
            raise ValueError(f"round_epochs, rounds: found {round_epochs}, {rounds}, expected 1 or more of both.")
        self.labels, self.evaluator, self.dataset = labels, evaluator, dataset
        self.round_epochs, self.rounds, self.validator = round_epochs, rounds, validator
        self.own = list(dataset.data)
        self.restart = dict(restart or {})
        self._first = {name: copy.deepcopy(unwrapped(obj).state_dict()) for name, obj in self.restart.items()}
        self.rows: list[dict[str, Any]] = [{"round": 0, **dict.fromkeys(("images", "kept", "dropped", "patches"), 0)}]
        self.best: float | None = None
        """Of the round's validations."""
        self.over = False

    def __str__(self) -> str:
        """The rounds in words, for a run's report."""
        told = []
        for row in self.rows[1:]:
            value = f", best validation {row['metric']:.4f}" if row.get("metric") is not None else ""
            told.append(
                f"round {row['round']}: {row['kept']} instances of {row['images']} images kept, {row['dropped']} "
                f"dropped, {row['patches']} patches{value}"
            )
        return "; ".join(told) or "none yet"

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer, and with the evaluators."""
        self._trainer = engine
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validated)

    def __call__(self, engine: Engine) -> None:
        """At the end of a round: stops, or begins the next."""
        if engine.state.epoch % self.round_epochs or self.over:
            return
        self.rows[-1]["metric"] = self.best
        former = [row["metric"] for row in self.rows[:-1] if row["metric"] is not None]
        worse = self.best is not None and bool(former) and self.best <= max(former)
        if worse or len(self.rows) > self.rounds:
            self.over = True
            engine.terminate()
        else:
            self._begin()
        if is_main_process():
            columns = [{**row, "metric": "" if row.get("metric") is None else row["metric"]} for row in self.rows]
            write_table(self.labels.output_dir / TABLE, columns)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; the labels themselves stay on the disk."""
        return {"rows": copy.deepcopy(self.rows), "best": self.best, "over": self.over}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on in the round of a checkpoint, with its labels; ends a run that was over."""
        self.rows, self.best, self.over = copy.deepcopy(state["rows"]), state["best"], state["over"]
        self._show()
        if self.over:
            self._trainer.terminate()

    def _begin(self) -> None:
        number = len(self.rows)
        row = {"round": number}
        if is_main_process():
            self.labels.start()
            self.evaluator.run()
            row |= self.labels.write(number)
        if torch.distributed.is_initialized():
            shared = [row]
            torch.distributed.broadcast_object_list(shared)  # nobody reads before all is written
            row = shared[0]
        self.rows.append(row)
        self.best = None
        self._show()
        for name, obj in self.restart.items():
            unwrapped(obj).load_state_dict(self._first[name])
        logger.info("Pseudo labels, %s.", str(self).split("; ")[-1])

    def _show(self) -> None:
        """Puts the round's labels into the data set."""
        number = len(self.rows) - 1
        self.dataset.data = self.own + (self.labels.items(number) if number else [])

    def _add(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for inputs, results in zip(batch, output, strict=True):
            picture, pred = rows_and_columns(inputs["picture"]), rows_and_columns(results["pred"])
            file = inputs["picture"].meta["filename_or_obj"]
            self.labels.add(file, picture.astype(np.uint8), np.rint(pred[..., 0]).astype(np.int64), pred[..., 1])

    def _validated(self, validator: Engine) -> None:
        value = float(validator.state.metrics[validator.state.key_metric_name])  # type: ignore[attr-defined]
        if not math.isnan(value):
            self.best = value if self.best is None else max(self.best, value)
