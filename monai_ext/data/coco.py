# SPDX-License-Identifier: Apache-2.0
"""Instances as a COCO JSON: written from results, read as labels. Instances may overlap."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from monai_ext.data.errors import fault
from monai_ext.data.files import write_atomically
from monai_ext.data.points_formats import cause_of
from monai_ext.functional.outlines import Cutout, polygons

_KEY = "annotations"


class CocoWriter:
    """Collects the instances of pictures and writes them to one file.

    An annotation's area and box (x, y, width, height) are those of the pixels; ``score`` is there where the instance
    has one, as in results. Any program that reads COCO reads the file.

    Args:
        categories: name of each class number, without the background.
        as_polygons: write outlines along the pixels' edges in place of run lengths. COCO's polygons have no holes, so
            that instances with a hole stay run lengths.
    """

    def __init__(self, categories: Mapping[int, str], *, as_polygons: bool = False) -> None:
        self.categories: list[dict[str, Any]] = [{"id": int(value), "name": name} for value, name in categories.items()]
        self.as_polygons = as_polygons
        self.images: dict[str, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []

    def add(
        self, file_name: str, cutouts: Iterable[Cutout], *, shape: tuple[int, int], category_id: int | None = None
    ) -> None:
        """Adds instances of a picture; may be called again for the same picture.

        Args:
            file_name: of the picture, as it shall stand in the file.
            cutouts: its instances.
            shape: (H, W) of the picture in pixels.
            category_id: class number of these instances; the first category where None.
        """
        height, width = (int(size) for size in shape)
        entry = {"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height}
        image_id = self.images.setdefault(file_name, entry)["id"]
        category_id = self.categories[0]["id"] if category_id is None else category_id
        for cutout in cutouts:
            box_height, box_width = cutout.mask.shape
            annotation = {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "segmentation": self._segmentation(cutout, (height, width)),
                "bbox": [cutout.column, cutout.row, box_width, box_height],
                "area": int(np.count_nonzero(cutout.mask)),
                "iscrowd": 0,
            }
            score = {} if cutout.score is None else {"score": round(cutout.score, 6)}
            self.annotations.append(annotation | score)

    def write(self, path: str | PathLike[str]) -> None:
        """Writes the file, whole or not at all."""
        content = {"images": list(self.images.values()), "annotations": self.annotations, "categories": self.categories}
        write_atomically(path, json.dumps(content, separators=(",", ":")))

    def _segmentation(self, cutout: Cutout, shape: tuple[int, int]) -> dict[str, Any] | list[list[int]]:
        parts = polygons(cutout) if self.as_polygons else []
        if parts and all(len(part) == 1 for part in parts):
            return [[number for vertex in part[0][:-1] for number in vertex] for part in parts]
        return run_lengths(cutout, shape=shape)


def run_lengths(cutout: Cutout, *, shape: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of an instance in a picture of ``shape`` (H, W): ``{"size", "counts"}``.

    Made from the cutout alone, so that the cost is that of the instance and not of the picture.
    """
    height, width = shape
    padded = np.zeros((cutout.mask.shape[1], cutout.mask.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = cutout.mask.T
    columns, rows = np.nonzero(np.diff(padded, axis=1))
    changes, times = np.unique((columns + cutout.column) * height + rows + cutout.row, return_counts=True)
    # A run that ends at the bottom and one that begins at the top of the next column are one.
    changes = changes[times == 1]
    counts = np.diff(changes, prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


class CocoReader:
    """The instances in a COCO file, by picture.

    Groups (``iscrowd`` 1) are no instances and are left out. Pixels are those that pycocotools gives a polygon.

    Args:
        path: the file.

    Raises:
        DataFault: where it cannot be read or is no COCO file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        expected = "a COCO JSON with images and annotations"
        try:
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))
            self.shapes = {str(one["file_name"]): (int(one["height"]), int(one["width"])) for one in content["images"]}
            names = {one["id"]: str(one["file_name"]) for one in content["images"]}
            self._annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
            for annotation in content["annotations"]:
                if not annotation.get("iscrowd", 0):
                    self._annotations[names[annotation["image_id"]]].append(annotation)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise fault(path, _KEY, found=f"it cannot be read ({cause_of(error)})", expected=expected) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise fault(path, _KEY, found=f"{type(error).__name__} {error} in it", expected=expected) from error

    def annotations(self, file_name: str) -> list[dict[str, Any]]:
        """The annotations of a picture, as they stand in the file.

        Args:
            file_name: as in the file; where the file has no such name, without folders on both sides.

        Raises:
            DataFault: where no picture or more than one has the name.
        """
        return self._annotations[self._name(file_name)]

    def shape(self, file_name: str) -> tuple[int, int]:
        """Height and width of a picture in pixels; raises as :meth:`annotations` does."""
        return self.shapes[self._name(file_name)]

    def masks(self, file_name: str) -> Iterator[NDArray[np.bool_]]:
        """Yields a mask (H, W), rows and columns, for each of :meth:`annotations`; masks may overlap.

        Raises:
            DataFault: as for :meth:`annotations`, and where a shape cannot be drawn.
        """
        for _, mask in self._drawn(self._name(file_name)):
            yield mask > 0

    def run_lengths(self, file_name: str) -> list[dict[str, Any]]:
        """The compressed run lengths of each of :meth:`annotations`; raises as :meth:`masks` does."""
        return [runs for runs, _ in self._drawn(self._name(file_name))]

    def label_map(self, file_name: str) -> NDArray[np.int32]:
        """Paints a picture's instances into a label map.

        Where instances overlap the higher score wins, of equal scores or none the smaller instance, so that none is
        hidden by one around it, and of equal sizes the earlier.

        Returns:
            (H, W), rows and columns: 0 for background, i + 1 for annotation i. MONAI's PILReader, which takes columns
            first, has pictures as the transpose of this.

        Raises:
            DataFault: as for :meth:`masks`.
        """
        name = self._name(file_name)
        painted = np.zeros(self.shapes[name], dtype=np.int32)
        crops = []
        for place, (runs, mask) in enumerate(self._drawn(name)):
            left, top, width, height = (int(number) for number in coco_mask.toBbox(runs))
            box = slice(top, top + height), slice(left, left + width)
            score = self._annotations[name][place].get("score", 0.0)
            crops.append((score, int(coco_mask.area(runs)), place, box, mask[box] > 0))
        for _, _, place, box, inside in sorted(crops, key=lambda crop: (crop[0], -crop[1], -crop[2])):
            painted[box][inside] = place + 1
        return painted

    def _name(self, file_name: str) -> str:
        if file_name in self._annotations:
            return file_name
        found = [name for name in self._annotations if Path(name).name == Path(file_name).name]
        if len(found) != 1:
            raise fault(self.path, "images", found=f"{len(found)} of its images are named {file_name}", expected="one")
        return found[0]

    def _drawn(self, name: str) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
        """Yields the run lengths of each of a picture's instances, and its pixels (H, W)."""
        for annotation in self._annotations[name]:
            try:
                runs = _packed(annotation.get("segmentation") or [], self.shapes[name])
                mask = coco_mask.decode(runs)
            except (KeyError, TypeError, ValueError) as error:
                found = f"annotation {annotation.get('id')} cannot be drawn ({cause_of(error)})"
                expected = "polygons of three vertices or more, or run lengths of its image's height and width"
                raise fault(self.path, _KEY, found=found, expected=expected) from error
            yield runs, mask


def _packed(segmentation: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Compressed run lengths of any kind of segmentation."""
    if not segmentation:
        segmentation = {"size": list(shape), "counts": [shape[0] * shape[1]]}
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != shape:
            raise ValueError(f"run lengths for {segmentation['size']}")
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return segmentation
        if sum(counts) != shape[0] * shape[1] or min(counts) < 0:
            raise ValueError(f"run lengths of {sum(counts)} pixels")
        return coco_mask.frPyObjects(segmentation, *shape)
    for polygon in segmentation:
        # pycocotools would take four numbers for a box.
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, *shape))
