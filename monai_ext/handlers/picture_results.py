# SPDX-License-Identifier: Apache-2.0
"""What handlers share that write files for each picture of an inference, and a table for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from numpy.typing import NDArray

from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.files import path_in, write_table


class PictureResults:
    """Calls :meth:`save` for each picture, and writes the table of the rows that it returns.

    Args:
        output_dir: where to write; folders between ``data_root_dir`` and a picture are kept below it.
        labels: name of each class number, the background's included; keys may be text as in JSON.
        data_root_dir: folder of the pictures.
        image_key: in the evaluator's batch: the picture (K, x, y) as MONAI reads it.
        pred_key: in its output: the result (C, x, y) on the same pixels.
        overlays: write overlays.

    In a distributed run each rank writes its own pictures, and only rank 0 its table.
    """

    table: str
    """Name of the table's file."""

    def __init__(
        self,
        output_dir: str | Path,
        *,
        labels: Mapping[Any, str],
        data_root_dir: str | Path = "",
        image_key: str = "picture",
        pred_key: str = "pred",
        overlays: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.data_root_dir = data_root_dir
        self.names = {int(value): str(name) for value, name in labels.items() if int(value) != 0}
        self.image_key = image_key
        self.pred_key = pred_key
        self.overlays = overlays
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator that decollates."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.start())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self._finish())

    def start(self) -> None:
        """Forgets the pictures of an earlier run."""
        self._rows.clear()

    def save(self, file: Path, picture: NDArray[Any], pred: NDArray[Any]) -> dict[str, Any]:
        """Writes one picture's files and returns its row, which begins with ``image``.

        Args:
            file: the picture's, from ``data_root_dir``.
            picture: (H, W, K), rows and columns.
            pred: (H, W, C).
        """
        raise NotImplementedError

    def total(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The table's last row, which adds up."""
        raise NotImplementedError

    def write_tables(self) -> None:
        """Writes what is for all pictures together."""
        write_table(self.output_dir / self.table, [*self._rows, self.total(self._rows)])

    def _save_batch(self, engine: Evaluator) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for inputs, results in zip(batch, output, strict=True):
            picture, pred = inputs[self.image_key], results[self.pred_key]
            file = path_in(self.data_root_dir, str(picture.meta["filename_or_obj"]))
            shapes = tuple(picture.shape[1:]), tuple(pred.shape[1:])
            if shapes[0] != shapes[1]:
                raise ValueError(f"{file}: the result has {shapes[1]} pixels, expected {shapes[0]} as its picture has.")
            self._rows.append(self.save(file, rows_and_columns(picture), rows_and_columns(pred)))

    def _finish(self) -> None:
        if self._rows and is_main_process():
            self.write_tables()


def rows_and_columns(array: Any) -> NDArray[Any]:
    """(K, x, y) as MONAI reads pictures to (rows, columns, K) as they are drawn."""
    return torch.as_tensor(array).detach().cpu().numpy().transpose(2, 1, 0)
