# SPDX-License-Identifier: Apache-2.0
"""One table row per epoch: loss terms, their weights, learning rate, speed, memory and validation metrics."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.files import write_atomically

_ORDER = ("epoch", "loss", "term", "weight", "val", "lr", "epoch_s", "iterations_per_s", "peak_memory_mib")


class TermLog:
    """Writes ``metrics.csv``, rewritten whole after every epoch, so that a killed run leaves a readable table.

    Columns: ``epoch``; ``loss``; ``term/<name>``, unweighted, and ``weight/<name>`` for every loss term, these and the
    loss averaged over the epoch's iterations; ``val/<name>`` for every metric of the validator; ``lr`` (``lr/0``,
    ``lr/1``, ... where parameter groups differ), as used in the epoch; ``epoch_s``, the time of the training
    iterations without the validation; ``iterations_per_s``; ``peak_memory_mib`` (on CUDA what torch allocated in the
    epoch, else the process's peak so far). A cell without a value is empty.

    A run that starts at epoch n keeps the rows of the epochs before n and drops the others. Order among the trainer's
    handlers does not matter. In a distributed run rank 0 writes, and what it writes are its own averages.

    Args:
        output_dir: where to write.
        filename: the table's name.
        validator: the evaluator whose metrics belong to the trainer's epochs.
        summary_writer: a TensorBoard ``SummaryWriter`` that gets the same numbers.
    """

    def __init__(
        self,
        output_dir: str | Path,
        filename: str = "metrics.csv",
        validator: Engine | None = None,
        *,
        summary_writer: Any | None = None,
    ) -> None:
        self.path = Path(output_dir) / filename
        self.validator = validator
        self.summary_writer = summary_writer
        self.rows: dict[int, dict[str, float]] | None = None

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer whose output has ``loss``, ``terms`` and ``weights``; and with the validator."""
        if not is_main_process():
            return
        engine.add_event_handler(Events.STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validated)

    def _forget(self, engine: Engine) -> None:
        self.rows = None

    def _begin(self, engine: Engine) -> None:
        if self.rows is None:  # only now has a resumed run its epoch
            self.rows = read_rows(self.path, before_epoch=engine.state.epoch) if engine.state.epoch > 1 else {}
        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._rates = _learning_rates(getattr(engine, "optimizer", None))
        if _on_cuda(engine):
            torch.cuda.reset_peak_memory_stats()
        self._started = self._stopped = time.perf_counter()

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        values = {"loss": output["loss"]}
        values |= {f"term/{name}": value for name, value in output["terms"].items()}
        values |= {f"weight/{name}": value for name, value in output["weights"].items()}
        for name, value in values.items():
            self._sums[name] += value.detach() if isinstance(value, Tensor) else value
            self._counts[name] += 1
        self._stopped = time.perf_counter()

    def _finish(self, engine: Engine) -> None:
        row = {name: float(total) / self._counts[name] for name, total in self._sums.items()} | self._rates
        row["epoch_s"] = seconds = self._stopped - self._started
        row["iterations_per_s"] = self._counts["loss"] / seconds if seconds else 0.0
        memory = torch.cuda.max_memory_allocated() / 2**20 if _on_cuda(engine) else _peak_memory_mib()
        self._put(engine.state.epoch, row if memory is None else row | {"peak_memory_mib": memory})

    def _validated(self, validator: Engine) -> None:
        if self.rows is not None:  # the validator may run on its own, before any training
            metrics = {f"val/{k.removeprefix('val_')}": v for k, v in validator.state.metrics.items()}
            self._put(validator.state.epoch, {k: float(v) for k, v in metrics.items() if is_scalar(v)})

    def _put(self, epoch: int, values: Mapping[str, float]) -> None:
        assert self.rows is not None
        self.rows[epoch] = {**self.rows.get(epoch, {"epoch": epoch}), **values}
        write_atomically(self.path, _to_csv(self.rows))
        if self.summary_writer is not None:
            for name, value in values.items():
                self.summary_writer.add_scalar(name, value, epoch)


def read_rows(path: str | Path, *, before_epoch: int | None = None) -> dict[int, dict[str, float]]:
    """Reads a table that :class:`TermLog` wrote.

    Args:
        path: the CSV file; a missing one has no rows.
        before_epoch: leave out the rows of this epoch and later ones.

    Returns:
        Values by column for each epoch, empty cells left out.

    Raises:
        ValueError: the file is another table.
    """
    path = Path(path)
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    try:
        rows = [{k: float(v) for k, v in row.items() if v} for row in table]
        by_epoch = {int(row["epoch"]): row for row in rows}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not a table of epochs ({error!r}), expected numbers and a column 'epoch': did another "
            "handler, such as MONAI's MetricsSaver, write to this name?"
        ) from error
    return {epoch: row for epoch, row in by_epoch.items() if before_epoch is None or epoch < before_epoch}


def _to_csv(rows: Mapping[int, Mapping[str, float]]) -> str:
    seen = dict.fromkeys(name for row in rows.values() for name in row)
    columns = sorted(seen, key=_place)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for epoch in sorted(rows):
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) and k != "epoch" else int(v) for k, v in rows[epoch].items()}
        )
    return text.getvalue()


def _place(column: str) -> int:
    """Columns that someone else added come last."""
    group = column.split("/")[0]
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)


def is_scalar(value: Any) -> bool:
    """True for a number and for a tensor of one element."""
    return isinstance(value, Number) or (isinstance(value, Tensor) and value.numel() == 1)


def _learning_rates(optimizer: torch.optim.Optimizer | None) -> dict[str, float]:
    rates = [float(group["lr"]) for group in optimizer.param_groups] if optimizer is not None else []
    if len(set(rates)) > 1:
        return {f"lr/{i}": rate for i, rate in enumerate(rates)}
    return {"lr": rates[0]} if rates else {}


def _on_cuda(engine: Engine) -> bool:
    return torch.device(getattr(engine.state, "device", None) or "cpu").type == "cuda"


def _peak_memory_mib() -> float | None:
    """Of the process."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux
