# SPDX-License-Identifier: Apache-2.0
"""What somebody opens after the inference on pictures: masks, overlays and how much of each class there is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.files import write_atomically

CLASS_RGB = ((0, 0, 0), (255, 140, 0), (64, 180, 255), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""Colour of each class number, background first; they stay apart for colour blindness and begin anew where they end."""

AREAS = "areas.csv"


class ResultPictures:
    """Writes ``<name>_seg.png`` and ``<name>_overlay.png`` for each picture, and ``areas.csv`` for all of them.

    The mask has one byte a pixel, the class number, and a palette, so that programs read numbers and people see
    colours. The overlay is the picture with the classes tinted and outlined. The table has, for each picture, its
    pixels and for each class its pixels and its percentage of the picture; a last row adds up.

    Args:
        output_dir: where to write; folders between ``data_root_dir`` and a picture are kept below it.
        labels: name of each class number, the background's included; keys may be text as in JSON.
        data_root_dir: folder of the pictures.
        image_key: in the evaluator's batch: 8-bit picture (3, x, y) as MONAI reads it.
        pred_key: in its output: class numbers (1, x, y).
        overlays: write overlays.

    In a distributed run each rank writes its own pictures, and only rank 0 its table.
    """

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
        self.data_root_dir = Path(data_root_dir).absolute() if str(data_root_dir) else None
        self.names = {int(value): str(name) for value, name in labels.items() if int(value) != 0}
        self.image_key = image_key
        self.pred_key = pred_key
        self.overlays = overlays
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator that decollates."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_areas)

    def _save(self, engine: Evaluator) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for inputs, results in zip(batch, output, strict=True):
            picture, pred = inputs[self.image_key], results[self.pred_key]
            name = self._name(str(picture.meta["filename_or_obj"]))
            classes = rows_and_columns(pred)[..., 0].astype(np.uint8)
            write_atomically(self.output_dir / f"{name}_seg.png", palette_png(classes))
            if self.overlays:
                drawn = tint(rows_and_columns(picture).astype(np.uint8), classes)
                write_atomically(self.output_dir / f"{name}_overlay.png", png_bytes(drawn))
            self._rows.append({"image": name, **areas(classes, self.names)})

    def _name(self, file: str) -> str:
        path = Path(file).absolute()
        inside = self.data_root_dir is not None and path.is_relative_to(self.data_root_dir)
        return str((path.relative_to(self.data_root_dir) if inside else Path(path.name)).with_suffix(""))  # type: ignore[arg-type]

    def _write_areas(self, engine: Engine) -> None:
        if not self._rows or not is_main_process():
            return
        total: dict[str, Any] = {"image": "all", "pixels": sum(row["pixels"] for row in self._rows)}
        for name in self.names.values():
            count = sum(row[f"{name} (px)"] for row in self._rows)
            total |= {f"{name} (px)": count, f"{name} (%)": round(100 * count / total["pixels"], 3)}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(total), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*self._rows, total])
        write_atomically(self.output_dir / AREAS, text.getvalue())


def rows_and_columns(array: Any) -> NDArray[Any]:
    """(K, x, y) as MONAI reads pictures to (rows, columns, K) as they are drawn."""
    return torch.as_tensor(array).detach().cpu().numpy().transpose(2, 1, 0)


def areas(classes: NDArray[np.uint8], names: Mapping[int, str]) -> dict[str, float]:
    """Pixels of a map (H, W), and pixels and percentage of each named class."""
    found: dict[str, float] = {"pixels": classes.size}
    for value, name in names.items():
        count = int(np.count_nonzero(classes == value))
        found |= {f"{name} (px)": count, f"{name} (%)": round(100 * count / classes.size, 3)}
    return found


def palette_png(classes: NDArray[np.uint8]) -> bytes:
    """A PNG whose pixels are class numbers (H, W), shown in :data:`CLASS_RGB`."""
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([channel for value in range(256) for channel in colour_of(value)])
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def tint(picture: NDArray[np.uint8], classes: NDArray[np.uint8], *, share: float = 0.3) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with its classes (H, W) mixed in by ``share`` and outlined one pixel wide within."""
    drawn = picture.copy()
    for value in np.unique(classes[classes > 0]):
        mask, colour = classes == value, np.array(colour_of(int(value)))
        drawn[mask] = np.round((1 - share) * drawn[mask] + share * colour).astype(np.uint8)
        drawn[find_boundaries(mask, mode="inner")] = colour
    return drawn


def colour_of(value: int) -> tuple[int, int, int]:
    """Colour of a class number."""
    return CLASS_RGB[0] if value == 0 else CLASS_RGB[1 + (value - 1) % (len(CLASS_RGB) - 1)]
