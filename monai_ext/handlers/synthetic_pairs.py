# SPDX-License-Identifier: Apache-2.0
"""Writes drawn images with the masks that they were drawn for, as a data set to train with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_ext.data.patch_folder import LIST, png_file, write_training_list
from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB, png_bytes, sheet
from monai_ext.handlers.draw_pairs import Picture, outlined, picture_of
from monai_ext.handlers.files import write_atomically
from monai_ext.handlers.picture_results import rows_and_columns


class SyntheticPairs:
    """Writes a pair for each synthetic mask, and

    - ``images/<patch>_<number>.png``, and ``labels/`` of the same names: instance maps of 16 bits;
    - ``datalist.json``: the pairs as a training section, each in the group of its patch;
    - ``contact_sheet.png``: a row for each patch: as it is and with its nuclei in blue, then some pairs likewise, in
      orange. Whether nuclei lie where the masks say, and look like the patch's, is for a person to judge.

    It belongs to an evaluator that does not decollate, over a :class:`~monai_ext.data.SyntheticMaskDataset`. Pairs of
    an earlier run that this one does not write are taken away.

    Args:
        output_dir: where to write.
        dataset: the evaluator's.
        shown: pairs of each patch on the contact sheet.
        pred_key: in the evaluator's output: images (B, 3, x, y) from -1 to 1.
    """

    def __init__(self, output_dir: str | Path, *, dataset: Any, shown: int = 3, pred_key: str = "pred") -> None:
        self.output_dir = Path(output_dir)
        self.dataset, self.shown, self.pred_key = dataset, shown, pred_key
        self._entries: list[dict[str, str]] = []
        self._rows: dict[int, list[Picture]] = {}

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._start())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self._finish())

    def _start(self) -> None:
        """Takes an earlier run's pairs away, so that an interrupted run leaves no list."""
        self._entries, self._rows = [], {}
        for part, name in enumerate(self.dataset.names):
            for folder in ("images", "labels"):
                for old in (self.output_dir / folder).glob("*.png"):
                    if re.fullmatch(rf"{re.escape(name)}_\d{{3,}}", old.stem):
                        old.unlink()
            patch = self.dataset.patches[part]
            self._rows[part] = [outlined(patch["image"], some, REFERENCE_RGB) for some in (None, patch["label"])]
        (self.output_dir / LIST).unlink(missing_ok=True)

    def _save_batch(self, engine: Evaluator) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for image, instances, part, number in zip(
            output[self.pred_key], batch["instances"], batch["part"], batch["number"], strict=True
        ):
            self._save(image, instances, part=int(part), number=int(number))

    def _save(self, image: Any, instances: Any, *, part: int, number: int) -> None:
        name = f"{self.dataset.names[part]}_{number:03d}.png"
        entry = {"image": f"images/{name}", "label": f"labels/{name}"}
        write_atomically(self.output_dir / entry["image"], png_file(picture_of(image)))
        label = rows_and_columns(instances)[..., 0].astype(np.uint16)
        write_atomically(self.output_dir / entry["label"], png_file(label))
        source: Mapping[str, Any] = self.dataset.data[part]
        self._entries.append(entry | ({"group": str(source["group"])} if source.get("group") is not None else {}))
        if number < self.shown:
            self._rows[part] += [outlined(image, some, PREDICTION_RGB) for some in (None, instances)]

    def _finish(self) -> None:
        write_atomically(self.output_dir / "contact_sheet.png", png_bytes(sheet(list(self._rows.values()))))
        write_training_list(self.output_dir, self._entries, name="synthetic pairs")
