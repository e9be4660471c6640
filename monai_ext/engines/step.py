# SPDX-License-Identifier: Apache-2.0
"""The frame of one training iteration; a method fills in :py:meth:`TrainStep.terms` and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

Ramp = Callable[[float], float]
"""A factor as a function of the number of finished epochs (see :py:mod:`monai_ext.functional.ramps`)."""

Terms = dict[str, Tensor]
"""Loss terms by name, scalars with gradient."""

T = TypeVar("T")


class TrainStep(ABC):
    """One training iteration, for ``SupervisedTrainer(iteration_update=step)``.

    A subclass returns its loss terms by name; this class does the rest: moves the batch, zeroes the gradients,
    autocasts, weighs the terms, stops on a non-finite loss, steps the trainer's optimiser, fires MONAI's iteration
    events and stores what handlers read in ``engine.state.output``: ``image``, ``loss``, ``terms`` (unweighted,
    detached) and ``weights`` (numbers of this iteration).

    Terms that share no graph may be handed over in groups: where ``terms`` is a generator of dictionaries, the gradient
    of each is taken before the next is computed, so that only one group's activations are in memory; a name that comes
    again is added. A method with several updates an iteration overrides :py:meth:`passes`.

    Args:
        students: the networks being trained, by role. They are put into training mode; anything else that a method
            needs (a teacher, a loss) is an argument of its own.
        weights: the weight of each term by name. Weight 0 removes a term: :py:meth:`wants` is False and the step
            does not compute it.
        ramps: factors that multiply the weights of some terms as training goes on.
        ramp_unit: ``"epoch"`` shows the ramps the number of finished epochs, as most papers write them,
            ``"iteration"`` fractions of epochs too.
        clip_norm: the largest norm of the gradient of all parameters together; a longer one is shortened to it. None
            leaves it as it is.

    Raises:
        ValueError: every weight is 0, a ramp belongs to no weight, or a norm that is not positive.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
        ramp_unit: Literal["epoch", "iteration"] = "epoch",
        clip_norm: float | None = None,
    ) -> None:
        if ramp_unit not in ("epoch", "iteration"):
            raise ValueError(f"ramp_unit: found {ramp_unit!r}, expected 'epoch' or 'iteration'.")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm: found {clip_norm}, expected a positive number or None.")
        self.ramp_unit = ramp_unit
        self.clip_norm = clip_norm
        self.iteration = 0
        """Number of finished iterations."""
        self.students = dict(students)
        self.weights = {name: float(weight) for name, weight in weights.items() if weight != 0}
        self.ramps = dict(ramps or {})
        if not self.weights:
            raise ValueError("Every loss weight is 0: nothing would be learned.")
        if not self.ramps.keys() <= weights.keys():
            raise ValueError(f"Ramps for {sorted(self.ramps)}, but the weights name {sorted(weights)}.")

    @abstractmethod
    def terms(self, batch: Mapping[str, Any]) -> Terms | Iterator[Terms]:
        """Loss terms, at once or in groups; ``batch`` is on the device, with arrays (B, C, *S)."""

    def passes(self, batch: Mapping[str, Any]) -> Iterator[Terms | Iterator[Terms]]:
        """What each update of this iteration learns from; after each the optimiser steps and teachers follow."""
        yield self.terms(batch)

    def wants(self, name: str) -> bool:
        """True where the term has a weight that is not the number 0."""
        return name in self.weights

    def wanted(self, terms: Mapping[str, Tensor]) -> Terms:
        """Of what a network says of a batch the terms that have a weight."""
        return {name: term for name, term in terms.items() if self.wants(name)}

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        batch = {k: _plain(v, device) if isinstance(v, Tensor) else v for k, v in batchdata.items()}
        for student in self.students.values():
            student.train()
        self.iteration = engine.state.iteration - 1
        weights = self.weights_at(self.iteration / engine.state.epoch_length)
        output: dict[str, Any] = {"image": batch["image"], "loss": torch.zeros(()), "terms": {}, "weights": weights}
        engine.state.output = output
        passes = self.passes(batch)
        while (terms := _next(engine, passes)) is not None:
            engine.optimizer.zero_grad(set_to_none=True)
            groups = iter([terms]) if isinstance(terms, dict) else terms
            while (group := _next(engine, groups)) is not None:
                self._backward(engine, group, batchdata)
            _update(engine, self.clip_norm)
        if output["terms"].keys() != weights.keys():
            raise KeyError(_names_differ(output["terms"], weights))
        return output

    def weights_at(self, epochs: float) -> dict[str, float]:
        """The ramped weights after ``epochs`` finished epochs, in whole ones if ``ramp_unit`` is ``"epoch"``."""
        seen = int(epochs) if self.ramp_unit == "epoch" else epochs
        return {n: w * float(self.ramps[n](seen) if n in self.ramps else 1) for n, w in self.weights.items()}

    @staticmethod
    def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        """Weighted sum of the terms.

        Raises:
            KeyError: a term has no weight.
        """
        if not terms.keys() <= weights.keys():
            raise KeyError(_names_differ(terms, weights))
        return torch.stack([terms[name].float() * weights[name] for name in terms]).sum()

    def _backward(self, engine: SupervisedTrainer, terms: Terms, batchdata: Mapping[str, Any]) -> None:
        """Adds the gradient of a group of terms, and the terms to what handlers read."""
        output: dict[str, Any] = engine.state.output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss = self.total(terms, output["weights"])
        for name, term in terms.items():
            output["terms"][name] = output["terms"].get(name, 0) + term.detach()
        output["loss"] = output["loss"].to(loss.device) + loss.detach()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if not torch.isfinite(loss):
            raise FloatingPointError(_non_finite_message(engine, output["terms"], batchdata))
        scaler = _scaler(engine)
        (scaler.scale(loss) if scaler else loss).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)


def _plain(array: Tensor, device: torch.device) -> Tensor:
    """On the device and without MONAI's metadata, which every operation of a network would carry along."""
    return (array.as_tensor() if isinstance(array, MetaTensor) else array).to(device, non_blocking=True)


def _next(engine: SupervisedTrainer, iterator: Iterator[T]) -> T | None:
    """The next item, computed under autocast; None at the end."""
    with torch.autocast(torch.device(engine.state.device).type, enabled=engine.amp):
        return next(iterator, None)


def _scaler(engine: SupervisedTrainer) -> torch.amp.GradScaler | None:
    return engine.scaler if engine.amp else None


def _update(engine: SupervisedTrainer, clip_norm: float | None) -> None:
    scaler = _scaler(engine)
    if clip_norm is not None:
        if scaler:
            scaler.unscale_(engine.optimizer)
        learned = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learned, clip_norm)
    if scaler:
        scaler.step(engine.optimizer)
        scaler.update()
    else:
        engine.optimizer.step()
    engine.fire_event(IterationEvents.MODEL_COMPLETED)


def _names_differ(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> str:
    return f"The step computed the terms {sorted(terms)}, but the weights name {sorted(weights)}."


def _non_finite_message(engine: SupervisedTrainer, terms: Mapping[str, Tensor], batch: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {value.item():.4g}" for name, value in terms.items())
    names = getattr(batch["image"], "meta", {}).get("filename_or_obj", "unknown file")
    files = ", ".join(map(str, names)) if isinstance(names, list | tuple) else str(names)
    return (
        f"The loss is not finite at iteration {engine.state.iteration} (epoch {engine.state.epoch}): {values}; "
        f"files in the batch: {files}. A lower learning_rate or loss weight usually helps."
    )
