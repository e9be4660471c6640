# SPDX-License-Identifier: Apache-2.0
"""Pictures of the best, the median and the worst case of an evaluation."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.draw import draw_overlay, png_bytes
from monai_ext.handlers.files import case_name, write_atomically
from monai_ext.handlers.report_data import OVERLAYS, OVERLAYS_INDEX


@dataclass(frozen=True)
class _Case:
    name: str
    dice: float | None
    png: bytes


class CaseOverlays:
    """Draws every case of an evaluation and keeps the best, the median and the worst by Dice.

    Under ``output_dir/overlays`` it writes ``best.png``, ``median.png`` and ``worst.png``, or ``example_1.png`` to
    ``example_3.png`` where cases have no reference; and ``cases.json``, which names them and lists every case's Dice.
    The reference is outlined in blue, the prediction in orange. Volumes are turned as radiologists look at them (the
    patient's right is left). All pictures of an evaluation are held in memory, about 0.1 MB each. In a distributed
    run rank 0 chooses among its own cases.

    Args:
        output_dir: the run's folder.
        image_key: in the evaluator's output, or else in its batch: image (K, *S), on its own grid where postprocessing
            moved the prediction to another.
        pred_key: prediction, one-hot (C, *S) with the background in channel 0, or a label map (1, *S).
        label_key: reference, like the prediction; a case may lack it.
        instances: label values are objects, not classes, of which only the first channel is looked at: Dice is of all
            objects together instead of the mean over the classes present.
        context: margin around the objects, in multiples of their largest extent; ``None`` shows the whole image.
        side_px: length of a picture's longest side.
        summary_writer: a TensorBoard ``SummaryWriter`` that gets the same pictures.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        image_key: str = "image",
        pred_key: str = "pred",
        label_key: str = "label",
        instances: bool = False,
        context: float | None = 1.0,
        side_px: int = 320,
        summary_writer: Any | None = None,
    ) -> None:
        self.folder = Path(output_dir) / OVERLAYS
        self.keys = (image_key, pred_key, label_key)
        self.instances = instances
        self.context = context
        self.side_px = side_px
        self.summary_writer = summary_writer
        self._cases: list[_Case] = []

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator whose output is decollated: a list of dictionaries, one per case."""
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._cases.clear())
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _draw(self, engine: Engine) -> None:
        output: Any = engine.state.output
        if not isinstance(output, list):
            raise TypeError(
                f"The evaluator's output is a {type(output).__name__}, expected a list with one dictionary per case: "
                "set decollate to true."
            )
        batch: Any = engine.state.batch
        inputs = batch if isinstance(batch, list) else [{}] * len(output)
        for given, item in zip(inputs, output, strict=True):
            self._cases.append(self._case({**given, **item}, number=len(self._cases) + 1))

    def _case(self, item: Mapping[str, Any], *, number: int) -> _Case:
        found: list[Any] = [item.get(key) for key in self.keys]
        image, pred, label = found
        name = _name(image, pred, label) or f"case {number}"
        if label is not None and label.shape[1:] != pred.shape[1:]:
            raise ValueError(
                f"{name}: '{self.keys[1]}' has the spatial shape {tuple(pred.shape[1:])} and '{self.keys[2]}' "
                f"{tuple(label.shape[1:])}, expected the same grid."
            )
        maps = [_label_map(mask[:1] if self.instances else mask) for mask in (pred, label) if mask is not None]
        dice = None if label is None else dice_score(*maps, instances=self.instances)
        affine = next((np.asarray(x.affine) for x in (pred, label, image) if isinstance(x, MetaTensor)), np.eye(4))
        (shown, *maps), spacing_mm = _turn([_on_grid(image, pred, name), *(m[None] for m in maps)], affine)
        picture = draw_overlay(
            shown,
            *(m[0] for m in maps),
            spacing_mm=spacing_mm,
            letters=shown.ndim == 4,
            context=self.context,
            side_px=self.side_px,
        )
        return _Case(name, dice, png_bytes(picture))

    def _write(self, engine: Engine) -> None:
        chosen = choose(self._cases)
        for old in self.folder.glob("*.png"):
            if old.stem not in chosen:
                old.unlink()
        shown = []
        for rank, case in chosen.items():
            write_atomically(self.folder / f"{rank}.png", case.png)
            shown.append({"rank": rank, "name": case.name, "dice": case.dice, "file": f"{rank}.png"})
            if self.summary_writer is not None:
                self._to_tensorboard(f"overlay/{rank}", case.png, engine.state.epoch)
        index = {
            "epoch": engine.state.epoch,
            "shown": shown,
            "cases": [{"name": case.name, "dice": case.dice} for case in self._cases],
        }
        write_atomically(self.folder / OVERLAYS_INDEX, json.dumps(index, indent=1))

    def _to_tensorboard(self, tag: str, png: bytes, epoch: int) -> None:
        assert self.summary_writer is not None
        with Image.open(io.BytesIO(png)) as picture:
            self.summary_writer.add_image(tag, np.array(picture), epoch, dataformats="HWC")


def choose(cases: list[_Case]) -> dict[str, _Case]:
    """Best, median and worst (each case once) or, where no case has a Dice, the first three."""
    scored = sorted((case for case in cases if case.dice is not None), key=lambda case: -case.dice)  # type: ignore[operator]
    if not scored:
        return {f"example_{i}": case for i, case in enumerate(cases[:3], start=1)}
    places = {"best": 0, "worst": len(scored) - 1, "median": len(scored) // 2}
    first_at = {place: rank for rank, place in reversed(places.items())}
    return {first_at[place]: scored[place] for place in sorted(first_at)}


def dice_score(pred: NDArray[np.integer], label: NDArray[np.integer], *, instances: bool = False) -> float:
    """Mean Dice over the classes present in either label map (*S); 1 where both are empty.

    Args:
        pred: label map, 0 is background.
        label: label map.
        instances: Dice of everything but background instead.
    """
    if instances:
        pred, label = (pred != 0).astype(np.uint8), (label != 0).astype(np.uint8)
    classes = np.union1d(np.unique(pred), np.unique(label))
    scores = [
        2 * np.sum((pred == c) & (label == c)) / (np.sum(pred == c) + np.sum(label == c)) for c in classes if c != 0
    ]
    return float(np.mean(scores)) if scores else 1.0


def _name(*arrays: Any) -> str:
    """The case's name from the first array whose metadata tells it; else empty."""
    for array in arrays:
        file = getattr(array, "meta", {}).get("filename_or_obj", "")
        if isinstance(file, list | tuple):
            file = file[0] if file else ""
        if file:
            return case_name(str(file))
    return ""


def _label_map(mask: Tensor) -> NDArray[np.integer]:
    mask = torch.as_tensor(mask).detach().cpu()
    flat = mask.argmax(0) if len(mask) > 1 else mask[0].round()
    return np.asarray(flat).astype(np.int32)


def _on_grid(image: Tensor, pred: Tensor, name: str) -> NDArray[Any]:
    """The image on the prediction's grid, which postprocessing may have moved to the original one."""
    if image.shape[1:] != pred.shape[1:]:
        if not (isinstance(image, MetaTensor) and isinstance(pred, MetaTensor)):
            raise ValueError(
                f"{name}: the image has the spatial shape {tuple(image.shape[1:])} and the prediction "
                f"{tuple(pred.shape[1:])}, expected MetaTensors or the same grid."
            )
        image = ResampleToMatch(mode="bilinear", padding_mode="zeros")(image, img_dst=pred)
    return np.asarray(torch.as_tensor(image).detach().cpu().float())


def _turn(arrays: list[NDArray[Any]], affine: NDArray[Any]) -> tuple[list[NDArray[Any]], NDArray[np.floating]]:
    """Volumes (K, *S) with axes towards left, posterior, inferior; 2-D as it is. And the voxel size, mm."""
    axes = arrays[0].ndim - 1
    spacing_mm = np.linalg.norm(affine[:-1, :axes], axis=0)
    if axes < 3:
        return arrays, spacing_mm
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("LPI"))
    turned = [np.stack([apply_orientation(channel, turn) for channel in array]) for array in arrays]
    return turned, spacing_mm[np.argsort(turn[:, 0])]
