# SPDX-License-Identifier: Apache-2.0
"""Checks on a user's COCO file; each raises a :class:`DataFault` or says nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.data.errors import DataFault, fault
from monai_ext.data.points_formats import cause_of


def check_coco(
    file: str, sizes: Mapping[str, Collection[tuple[int, int]]], labels: Collection[int] = ()
) -> dict[str, int]:
    """Refuse polygons outside their image, and categories that the datalist does not know.

    Args:
        file: the COCO JSON.
        sizes: for each bare file name the (width, height) in pixels of the images read that have it.
        labels: the categories that there may be; empty for any.

    Returns:
        Number of annotations of each of its images, by its name in the file.
    """
    key, expected = "annotations", "a COCO JSON with images and annotations"
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        images = {image["id"]: image for image in content["images"]}
        for image in images.values():
            name, size = Path(image["file_name"]).name, (image["width"], image["height"])
            real = sizes.get(name)
            if real and size not in real:
                wanted = " or ".join(f"{width} x {height}" for width, height in sorted(real))
                raise fault(file, key, found=f"{name} is said to be {size[0]} x {size[1]}", expected=f"{wanted} pixels")
        counts = {str(image["file_name"]): 0 for image in images.values()}
        for annotation in content["annotations"]:
            _check_polygons(file, annotation, images)
            if labels and annotation["category_id"] not in labels:
                named = {one["id"]: one.get("name") for one in content.get("categories", [])}
                category = annotation["category_id"]
                found = f"annotation {annotation.get('id')} is of category {category} ({named.get(category)!r})"
                raise fault(file, key, found=found, expected=f"one of the datalist's labels, {sorted(labels)}")
            counts[str(images[annotation["image_id"]]["file_name"])] += 1
        return counts
    except DataFault:
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise fault(file, key, found=f"it cannot be read ({cause_of(error)})", expected=expected) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise fault(file, key, found=f"{type(error).__name__} {error} in it", expected=expected) from error


def _check_polygons(file: str, annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]]) -> None:
    name = f"annotation {annotation.get('id')}"
    if annotation["image_id"] not in images:
        found = f"{name} is on image {annotation['image_id']!r}"
        raise fault(file, "annotations", found=found, expected="the id of an image in it")
    image = images[annotation["image_id"]]
    size = np.array([image["width"], image["height"]])
    polygons = annotation.get("segmentation", [])
    for polygon in polygons if isinstance(polygons, list) else []:
        if len(polygon) < 6 or len(polygon) % 2:
            found = f"{name} has a polygon of {len(polygon)} numbers"
            raise fault(file, "annotations", found=found, expected="x and y of three vertices or more")
        vertices = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        outside = ~((vertices >= 0) & (vertices <= size)).all(axis=1)
        if outside.any():
            found = f"{name} has a polygon vertex at {vertices[outside.argmax()].tolist()}"
            expected = f"one inside {image['file_name']} of {size[0]} x {size[1]} pixels"
            raise fault(file, "annotations", found=found, expected=expected)
