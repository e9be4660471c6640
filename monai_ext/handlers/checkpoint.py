# SPDX-License-Identifier: Apache-2.0
"""Checkpoints to resume from, and the weights that ship; both written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import Tensor, nn

from monai_ext.handlers.unwrap import unwrapped


def save_atomically(state: Any, path: str | Path) -> None:
    """``torch.save`` to a temporary file beside ``path``, fsync, rename: a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def cpu_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The network's flat state dict as CPU tensors, without a DistributedDataParallel wrapper's prefix."""
    return {name: value.detach().cpu() for name, value in unwrapped(network).state_dict().items()}


def is_main_process() -> bool:
    """True in a run of one process and on rank 0 of a distributed one."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


class SaveWeights:
    """Writes a network's weights to the file that ships (``models/model.pt``).

    Attached to an evaluator it writes after a validation that beat all before; attached to a trainer, after every
    epoch (for those who have no masks to validate on).

    Args:
        network: whose weights.
        path: the file; its folder is made.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator or a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        worse = isinstance(engine, Evaluator) and engine.state.best_metric_epoch != engine.state.epoch
        if is_main_process() and not worse:
            save_atomically(cpu_state_dict(self.network), self.path)


class ResumableCheckpoint:
    """Saves everything that a run needs to go on, at every epoch's end, and restores it when asked.

    List it last among the trainer's handlers: what comes after it is not in the checkpoint.

    Args:
        path: the checkpoint file, overwritten atomically.
        objects: what has a ``state_dict``: networks, optimisers, schedulers, teachers.
        resume: restore from ``path`` when the run starts; a missing file starts from the beginning.
        validator: the evaluator whose best score belongs to the run.
        begin: another run's checkpoint, which a run begins with that has none of its own to resume from. Objects that
            it does not hold stay as they are, and so does the best score.

    The gradient scaler is saved with the trainer that made it. Random states are not saved:
    :py:class:`monai_ext.handlers.Reseed` sets them from (seed, epoch).
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        *,
        resume: bool = False,
        validator: Engine | None = None,
        begin: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume
        self.validator = validator
        self.begin = None if begin is None else Path(begin)

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Writes the checkpoint of the epoch just finished."""
        if not is_main_process():
            return
        state: dict[str, Any] = {name: unwrapped(obj).state_dict() for name, obj in self.objects.items()}
        state["epoch"] = engine.state.epoch
        scaler = getattr(engine, "scaler", None)
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        if self.validator is not None:
            best = self.validator.state
            state["best"] = {
                "metric": float(getattr(best, "best_metric", -1)),
                "epoch": int(getattr(best, "best_metric_epoch", -1)),
            }
        save_atomically(state, self.path)

    def restore(self, engine: Engine) -> None:
        """Goes back to the last whole epoch, or to that of the run to begin with.

        Raises:
            SystemExit: the checkpoint cannot be read or belongs to another run, or to a schedule of another length, or
                the run to begin with leaves no epoch to train.
        """
        own = self.resume and self.path.exists()
        path = self.path if own else self.begin
        if path is None:
            return
        try:
            state = torch.load(path, map_location=getattr(engine.state, "device", "cpu"), weights_only=True)
            for name, obj in self.objects.items():
                if not own and name not in state:
                    continue
                target = unwrapped(obj)
                _check_length(name, target, state[name])
                target.load_state_dict(state[name])
        except Exception as error:
            reason = " ".join(str(error).split())  # torch lists differing keys in lines of their own
            way_out = "move the file away or set resume to False" if own else "begin with another"
            raise SystemExit(
                f"{path}: cannot resume from this checkpoint ({reason}); expected one that this configuration "
                f"wrote: {way_out}."
            ) from error
        if not own and state["epoch"] >= engine.state.max_epochs:
            raise SystemExit(f"{path}: this run had {state['epoch']} epochs; expected fewer than max_epochs here.")
        scaler = getattr(engine, "scaler", None)
        if "scaler" in state and scaler is not None:
            scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        if own and self.validator is not None and "best" in state:
            vars(self.validator.state).update(
                best_metric=state["best"]["metric"], best_metric_epoch=state["best"]["epoch"]
            )


def _check_length(name: str, scheduler: Any, state: Mapping[str, Any]) -> None:
    """Refuse a schedule of another length: loading it would bring its old end along, and a rate of 0 beyond it."""
    here, there = getattr(scheduler, "total_iters", None), state.get("total_iters")
    if here != there:
        raise ValueError(f"{name} was made for {there} epochs, here for {here}")
