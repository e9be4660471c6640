# SPDX-License-Identifier: Apache-2.0
"""What somebody opens after the inference of instances of several classes that overlap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.engines import Evaluator
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from monai_ext.data.coco import CocoWriter
from monai_ext.data.geojson import feature_collection
from monai_ext.functional.outlines import Cutout, cutouts_of_masks
from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.files import path_in, write_atomically
from monai_ext.handlers.picture_results import PictureResults, rows_and_columns
from monai_ext.handlers.result_instances import shown
from monai_ext.handlers.result_pictures import CLASS_RGB

COCO, TABLE = "instances.coco.json", "instances.csv"


class ResultDetections(PictureResults):
    """Writes the instances of each picture, and ``instances.coco.json`` and ``instances.csv`` for all pictures.

    - ``<name>.geojson``: outlines with class, area and score, which QuPath opens;
    - ``<name>_overlay.png``: the picture with each instance outlined in its class's colour;
    - ``instances.coco.json``: all instances with their scores as run lengths, so that overlaps are kept;
    - a row of the table: number and mean area in px of each class. A last row takes all pictures together.

    The arguments are those of :class:`~monai_ext.handlers.picture_results.PictureResults`, and ``score_floor``, below
    which instances are left out. It belongs to an evaluator that does not decollate, and results are what
    :class:`~monai_ext.inferers.DetectionInferer` gives: ``masks``, ``labels`` and ``scores`` of each picture.
    """

    table = TABLE

    def __init__(self, *args: Any, score_floor: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score_floor = score_floor

    def start(self) -> None:
        """Forgets the pictures of an earlier run."""
        super().start()
        self._coco = CocoWriter(self.names)

    def save_instances(self, file: Path, picture: NDArray[Any], found: dict[str, Any]) -> dict[str, Any]:
        """Writes one picture's files and returns its row.

        Args:
            file: the picture's, from ``data_root_dir``.
            picture: (H, W, K), rows and columns.
            found: ``masks`` N run lengths, ``labels`` (N,) and ``scores`` (N,).
        """
        name = file.with_suffix("").as_posix()
        labels, scores = (np.asarray(found[key]) for key in ("labels", "scores"))
        row: dict[str, Any] = {"image": name}
        features: list[dict[str, Any]] = []
        drawn = shown(picture)
        for label, title in self.names.items():
            mine = np.flatnonzero((labels == label) & (scores >= self.score_floor))
            masks = (coco_mask.decode(found["masks"][i]) for i in mine)
            cutouts = list(cutouts_of_masks(masks, scores=scores[mine].tolist()))
            features += feature_collection(cutouts, name=title)["features"]
            self._coco.add(file.as_posix(), cutouts, shape=picture.shape[:2], category_id=label)
            draw_outlines(drawn, cutouts, colour=CLASS_RGB[1 + (label - 1) % (len(CLASS_RGB) - 1)])
            row |= _columns(title, [int(cutout.mask.sum()) for cutout in cutouts])
        content = {"type": "FeatureCollection", "features": features}
        write_atomically(self.output_dir / f"{name}.geojson", json.dumps(content, separators=(",", ":")))
        if self.overlays:
            write_atomically(self.output_dir / f"{name}_overlay.png", png_bytes(drawn))
        return row

    def total(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The counts and mean areas of all pictures together."""
        total: dict[str, Any] = {"image": "all"}
        for label, title in self.names.items():
            areas = [one["area"] for one in self._coco.annotations if one["category_id"] == label]
            total |= _columns(title, areas)
        return total

    def write_tables(self) -> None:
        """Writes the table and the COCO file."""
        super().write_tables()
        self._coco.write(self.output_dir / COCO)

    def _save_batch(self, engine: Evaluator) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        pictures = batch[self.image_key]
        names = pictures.meta["filename_or_obj"]
        for picture, name, found in zip(pictures, names, output[self.pred_key], strict=True):
            file = path_in(self.data_root_dir, str(name))
            self._rows.append(self.save_instances(file, rows_and_columns(picture), found))


def draw_outlines(picture: NDArray[np.uint8], cutouts: Sequence[Cutout], *, colour: tuple[int, int, int]) -> None:
    """Outlines instances in a picture (H, W, 3), in place, one pixel wide within each."""
    for cutout in cutouts:
        padded = np.pad(cutout.mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        height, width = cutout.mask.shape
        window = picture[cutout.row : cutout.row + height, cutout.column : cutout.column + width]
        window[cutout.mask & ~inner] = colour


def _columns(title: str, areas: Sequence[int]) -> dict[str, Any]:
    mean = round(sum(areas) / len(areas), 2) if areas else ""
    return {title: len(areas), f"{title}, mean area (px)": mean}
