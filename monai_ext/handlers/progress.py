# SPDX-License-Identifier: Apache-2.0
"""A progress bar that shows the loss and its terms."""

from __future__ import annotations

from ignite.engine import Engine
from ignite.handlers import ProgressBar

from monai_ext.handlers.checkpoint import is_main_process


class Progress:
    """ignite's tqdm bar with time left, the loss and every term; in distributed runs on rank 0 only.

    Args:
        persist: keep each epoch's bar on the screen.
    """

    def __init__(self, persist: bool = False) -> None:
        self.persist = persist

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer whose output has ``loss`` and ``terms``."""
        if is_main_process():
            bar = ProgressBar(persist=self.persist, desc="Epoch")
            bar.attach(engine, output_transform=lambda out: {"loss": out["loss"].item(), **_numbers(out["terms"])})


def _numbers(terms: dict) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}
