# SPDX-License-Identifier: Apache-2.0
"""The published lists of LIVECell: pictures and their cells, each once."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

REDUCTION = {"A172": 1, "BT474": 0.65, "BV2": 0.5, "Huh7": 1.3, "MCF7": 0.5, "SHSY5Y": 1, "SKOV3": 1.3, "SkBr3": 0.75}
"""By cell line, what the CKS paper's code divides a picture's size by."""
LISTS = {"test": "test", "validation": "val", "training": "train"}
"""Published lists by section; of a picture in two of them the first here has it."""
NAME = re.compile(r"(?P<field>(?P<line>[^_]+)_Phase_[^_]+_[^_]+)_[^_]+_\d+\.tif")
SAME_CELL_IOU = 0.75


@dataclass(frozen=True)
class Picture:
    """A picture, its section, cell line and field, its size and its cells as COCO run lengths."""

    path: Path
    section: str
    line: str
    field: str
    shape: tuple[int, int]
    cells: list[dict[str, Any]]


def read_lists(source: Path, *, lines: Sequence[str] | None = None) -> dict[str, Picture]:
    """Pictures of the three lists by file name, each once.

    Raises:
        SystemExit: a missing list or image, another structure, or a name of another form.
    """
    images = {path.name: path for path in sorted((source / "images").rglob("*.tif")) if path.is_file()}
    pictures: dict[str, Picture] = {}
    again: Counter[str] = Counter()
    for section, word in LISTS.items():
        file = f"livecell_coco_{word}.json"
        places = [source / folder / file for folder in ("annotations/LIVECell", "annotations", ".")]
        listing = next((place for place in places if place.is_file()), None)
        if listing is None:
            raise SystemExit(f"{places[0]}: found no such file, expected the annotations of the {section} images.")
        for picture in _read_list(listing, section, images):
            name = picture.path.name
            if lines and picture.line not in lines:
                continue
            if first := pictures.get(name):
                again[section] += 1
                if len(first.cells) >= len(picture.cells):
                    continue
                picture = replace(picture, section=first.section)
            pictures[name] = picture
    if again:
        print(f"annotated more than once: {', '.join(f'{n} of {section}' for section, n in again.items())}")
    return pictures


def _read_list(listing: Path, section: str, images: Mapping[str, Path]) -> Iterator[Picture]:
    expected = "COCO images and annotations with polygons"
    try:
        content = json.loads(listing.read_text(encoding="utf8"))
        rows, cells = content["images"], defaultdict(list)
        sizes = {row["id"]: (int(row["height"]), int(row["width"])) for row in rows}
        annotations = content.pop("annotations")
        for cell in annotations.values() if isinstance(annotations, dict) else annotations:
            cells[cell["image_id"]].append(_run_lengths(cell["segmentation"], *sizes[cell["image_id"]]))
        names = [Path(row["file_name"]).name for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{listing}: found another structure ({error!r}), expected {expected}.") from None
    for row, name in zip(rows, names, strict=True):
        parts = NAME.fullmatch(name)
        if parts is None or parts["line"] not in REDUCTION:
            known = ", ".join(REDUCTION)
            raise SystemExit(f"{listing}: found the image {name}, expected <line>_Phase_.. of a line of {known}.")
        if name not in images:
            raise SystemExit(f"{listing}: found no file {name} below {listing.parent}, expected it in images.")
        yield Picture(
            images[name], section, parts["line"], parts["field"], sizes[row["id"]], drawn_once(cells[row["id"]])
        )


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        rings = [ring for ring in segmentation if len(ring) >= 6]
        if not rings:
            return coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
        return coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    is_plain = isinstance(segmentation["counts"], list)
    return coco_mask.frPyObjects(segmentation, height, width) if is_plain else segmentation


def drawn_once(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells without empty ones and without those that cover an earlier one (IoU > 0.75)."""
    cells = [cell for cell in cells if coco_mask.area(cell) > 0]
    kept: list[int] = []
    if cells:
        same = np.asarray(coco_mask.iou(cells, cells, [0] * len(cells))) > SAME_CELL_IOU
        for n in range(len(cells)):
            if not same[n, kept].any():
                kept.append(n)
    return [cells[n] for n in kept]


def label_map(cells: Sequence[dict[str, Any]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Number of the cell of each pixel, by its place in the list from 1 on; a contested one is the smaller cell's."""
    numbers = np.zeros(shape, dtype=np.int64)
    for n in np.argsort([-int(coco_mask.area(cell)) for cell in cells], kind="stable"):
        numbers[coco_mask.decode(cells[n]) > 0] = n + 1
    return numbers
