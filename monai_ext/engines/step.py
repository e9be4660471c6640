# SPDX-License-Identifier: Apache-2.0
"""The frame of one training iteration; a method fills in :py:meth:`TrainStep.terms` and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

Ramp = Callable[[int], float]
"""A factor as a function of the number of finished epochs (see :py:mod:`monai_ext.functional.ramps`)."""


class TrainStep(ABC):
    """One training iteration, for ``SupervisedTrainer(iteration_update=step)``.

    A subclass returns its loss terms by name; this class does the rest: moves the batch, zeroes the gradients,
    autocasts, weighs the terms, stops on a non-finite loss, steps the trainer's optimiser, fires MONAI's iteration
    events and stores what handlers read in ``engine.state.output``: ``image``, ``loss``, ``terms`` (unweighted,
    detached) and ``weights`` (numbers of this iteration).

    Args:
        students: the networks being trained, by role. They are put into training mode; anything else that a method
            needs (a teacher, a loss) is an argument of its own.
        weights: the weight of each term by name. Weight 0 removes a term: :py:meth:`wants` is False and the step
            does not compute it.
        ramps: factors that multiply the weights of some terms as training goes on.

    Raises:
        ValueError: every weight is 0, or a ramp belongs to no weight.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
    ) -> None:
        self.students = dict(students)
        self.weights = {name: float(weight) for name, weight in weights.items() if weight != 0}
        self.ramps = dict(ramps or {})
        if not self.weights:
            raise ValueError("Every loss weight is 0: nothing would be learned.")
        if not self.ramps.keys() <= weights.keys():
            raise ValueError(f"Ramps for {sorted(self.ramps)}, but the weights name {sorted(weights)}.")

    @abstractmethod
    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss terms by name, scalars with gradient; ``batch`` is on the device, with arrays (B, C, *S)."""

    def wants(self, name: str) -> bool:
        """True where the term has a weight that is not the number 0."""
        return name in self.weights

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        batch = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batchdata.items()}
        for student in self.students.values():
            student.train()
        engine.optimizer.zero_grad(set_to_none=True)
        output: dict[str, Any] = {"image": batch["image"]}
        engine.state.output = output

        with torch.autocast(torch.device(device).type, enabled=engine.amp):
            terms = self.terms(batch)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        weights = self.weights_at((engine.state.iteration - 1) / engine.state.epoch_length)
        loss = self.total(terms, weights)
        detached = {name: term.detach() for name, term in terms.items()}
        output.update(loss=loss.detach(), terms=detached, weights=weights)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if not torch.isfinite(loss):
            raise FloatingPointError(_non_finite_message(engine, detached, batchdata))

        self._update(engine, loss)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def weights_at(self, epochs: float) -> dict[str, float]:
        """The ramped weights after ``epochs`` finished epochs; ramps see whole epochs, as the papers write them."""
        return {n: w * float(self.ramps[n](int(epochs)) if n in self.ramps else 1) for n, w in self.weights.items()}

    @staticmethod
    def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        """Weighted sum of the terms.

        Raises:
            KeyError: the names of terms and weights differ.
        """
        if terms.keys() != weights.keys():
            raise KeyError(f"The step computed the terms {sorted(terms)}, but the weights name {sorted(weights)}.")
        return torch.stack([terms[name].float() * weights[name] for name in terms]).sum()

    @staticmethod
    def _update(engine: SupervisedTrainer, loss: Tensor) -> None:
        scaler = engine.scaler if engine.amp else None
        (scaler.scale(loss) if scaler else loss).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if scaler:
            scaler.step(engine.optimizer)
            scaler.update()
        else:
            engine.optimizer.step()


def _non_finite_message(engine: SupervisedTrainer, terms: Mapping[str, Tensor], batch: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {value.item():.4g}" for name, value in terms.items())
    names = getattr(batch["image"], "meta", {}).get("filename_or_obj", "unknown file")
    files = ", ".join(map(str, names)) if isinstance(names, list | tuple) else str(names)
    return (
        f"The loss is not finite at iteration {engine.state.iteration} (epoch {engine.state.epoch}): {values}; "
        f"files in the batch: {files}. A lower learning_rate or loss weight usually helps."
    )
