# SPDX-License-Identifier: Apache-2.0
"""What somebody opens after the inference of instances: label maps, outlines, overlays and a table of the cells."""

from __future__ import annotations

import heapq
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import expand_labels, find_boundaries

from monai_ext.data.coco import CocoWriter
from monai_ext.data.geojson import write_geojson
from monai_ext.functional.instances import values_of_instances
from monai_ext.functional.outlines import cutouts_of_labels
from monai_ext.handlers.draw import png_bytes, window
from monai_ext.handlers.files import write_atomically
from monai_ext.handlers.picture_results import PictureResults
from monai_ext.handlers.result_pictures import CLASS_RGB

COCO, CELLS = "cells.coco.json", "cells.csv"
_OUTLINES = np.array([*CLASS_RGB[1:6], (150, 100, 255)], dtype=np.uint8)
"""The sixth class's vermilion would be too like the first one's orange for neighbours."""
_NEAR_PX = 3
"""Half the gap up to which instances with none in between get different colours."""


class ResultInstances(PictureResults):
    """Writes the instances of each picture in four forms, and ``cells.coco.json`` and ``cells.csv`` for all pictures.

    - ``<name>_cells.png``: the label map in 16 bits (``.tif`` in 32 bits where the numbers need them);
    - ``<name>.geojson``: outlines with area and score, which QuPath opens;
    - ``<name>_overlay.png``: the picture with each instance outlined in another colour than its neighbours;
    - a row of the table: number of cells, mean and median area, percentage of the picture covered, mean score. A last
      row takes the cells of all pictures together.

    The arguments are those of :class:`~monai_ext.handlers.picture_results.PictureResults`. A picture has any number of
    channels and any range. A result is (2, x, y): the number of each pixel's instance, 0 on background, and the score
    of that instance.
    """

    table = CELLS

    def start(self) -> None:
        """Forgets the pictures of an earlier run."""
        super().start()
        self._coco = CocoWriter(self.names)
        self._cells: list[tuple[NDArray[np.int64], NDArray[np.floating], int]] = []

    def save(self, file: Path, picture: NDArray[Any], pred: NDArray[Any]) -> dict[str, Any]:
        """Writes the label map, the outlines and the overlay."""
        name = file.with_suffix("").as_posix()
        labels = np.rint(pred[..., 0]).astype(np.int32)
        scores = values_of_instances(labels, pred[..., 1])
        cutouts = cutouts_of_labels(labels, scores=scores.tolist())
        content, suffix = label_map_file(labels)
        write_atomically(self.output_dir / f"{name}_cells{suffix}", content)
        write_geojson(self.output_dir / f"{name}.geojson", cutouts, name=next(iter(self.names.values())))
        self._coco.add(file.as_posix(), cutouts, shape=labels.shape)
        if self.overlays:
            drawn = outline(shown(picture), labels)
            write_atomically(self.output_dir / f"{name}_overlay.png", png_bytes(drawn))
        areas = np.array([np.count_nonzero(cutout.mask) for cutout in cutouts], dtype=np.int64)
        self._cells.append((areas, scores, labels.size))
        return {"image": name, **cell_statistics(areas, scores, labels.size)}

    def total(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The statistics of all cells together."""
        areas, scores, pixels = zip(*self._cells, strict=True)
        return {"image": "all", **cell_statistics(np.concatenate(areas), np.concatenate(scores), sum(pixels))}

    def write_tables(self) -> None:
        """Writes the table and the COCO file."""
        super().write_tables()
        self._coco.write(self.output_dir / COCO)


def cell_statistics(
    areas_px: NDArray[np.int64], scores: NDArray[np.floating], pixels: int
) -> dict[str, int | float | str]:
    """Columns of the table for N cells on a number of pixels; what has no value without cells is empty text."""
    there = len(areas_px) > 0
    return {
        "cells": len(areas_px),
        "mean area (px)": round(float(areas_px.mean()), 2) if there else "",
        "median area (px)": float(np.median(areas_px)) if there else "",
        "covered (%)": round(100 * int(areas_px.sum()) / pixels, 3),
        "mean score": round(float(scores.mean()), 4) if there else "",
    }


def label_map_file(labels: NDArray[np.int32]) -> tuple[bytes, str]:
    """A label map (H, W) as a file's content and its suffix: 16-bit PNG, or 32-bit TIFF where numbers need it."""
    wide = bool(labels.size) and labels.max() > np.iinfo(np.uint16).max
    buffer = io.BytesIO()
    Image.fromarray(labels if wide else labels.astype(np.uint16)).save(buffer, "tiff" if wide else "png")
    return buffer.getvalue(), ".tif" if wide else ".png"


def shown(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture (H, W, K) as people see it, (H, W, 3): colours in 8 bits as they are, all else from its 1st to its 99th
    percentile; of two channels the first."""
    channels = picture[..., :3].astype(np.float32)
    colour = channels.shape[-1] == 3 and bool((channels != channels[..., :1]).any())
    if colour and channels.min() >= 0 and channels.max() <= 255:
        return np.rint(channels).astype(np.uint8)
    scaled = window(channels.transpose(2, 0, 1), rgb=colour)
    return np.rint(255 * np.broadcast_to(scaled.transpose(1, 2, 0), (*channels.shape[:2], 3))).astype(np.uint8)


def outline(picture: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with each instance of a label map (H, W) outlined one pixel wide within."""
    drawn = picture.copy()
    edge = find_boundaries(labels, mode="inner")
    drawn[edge] = _OUTLINES[neighbour_colours(labels)[edge] - 1]
    return drawn


def neighbour_colours(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Colour number (H, W) of each pixel, 0 on background, such that instances near each other have different ones.

    Greedy colouring in smallest-last order (Matula and Beck, J. ACM 30(3), 1983), which needs six colours at most
    where instances are in one piece, as their neighbourhoods can then be drawn in the plane. Of the colours that are
    free the one used least is taken.
    """
    numbers, places = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    dense = places[:-1].reshape(labels.shape)
    near = expand_labels(dense, distance=_NEAR_PX)
    neighbours: list[set[int]] = [set() for _ in numbers]
    pairs = [np.stack([a.ravel(), b.ravel()]) for a, b in ((near[1:], near[:-1]), (near[:, 1:], near[:, :-1]))]
    touching = np.concatenate(pairs, axis=1)
    touching = touching[:, (touching[0] != touching[1]) & (touching > 0).all(axis=0)]
    for one, other in np.unique(touching, axis=1).T.tolist():
        neighbours[one].add(other)
        neighbours[other].add(one)
    colours, used = np.zeros(len(numbers), dtype=np.int64), [0] * len(_OUTLINES)
    for instance in reversed(_smallest_last(neighbours)):
        taken = {int(colours[other]) for other in neighbours[instance]}
        free = [k for k in range(len(used)) if k + 1 not in taken] or range(len(used))
        colours[instance] = min(free, key=used.__getitem__) + 1
        used[colours[instance] - 1] += 1
    return colours[dense]


def _smallest_last(neighbours: list[set[int]]) -> list[int]:
    """Numbers 1, 2, ... in the order in which each has the fewest neighbours among those that are left."""
    degree = [len(others) for others in neighbours]
    heap = [(degree[n], n) for n in range(1, len(neighbours))]
    heapq.heapify(heap)
    order: dict[int, None] = {}
    while heap:
        count, instance = heapq.heappop(heap)
        if instance in order or count != degree[instance]:
            continue
        order[instance] = None
        for other in neighbours[instance] - order.keys():
            degree[other] -= 1
            heapq.heappush(heap, (degree[other], other))
    return list(order)
