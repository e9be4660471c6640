# SPDX-License-Identifier: Apache-2.0
"""Instances as GeoJSON outlines, which QuPath opens as objects on the picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np

from monai_ext.data.files import write_atomically
from monai_ext.functional.outlines import Cutout, polygons


def feature_collection(
    cutouts: Iterable[Cutout], *, name: str = "cell", object_type: str = "detection"
) -> dict[str, Any]:
    """Gives one feature for each instance, with the members that QuPath (0.4 and newer) reads.

    The geometry is a Polygon, or a MultiPolygon where the instance is in several parts, along the edges of its pixels:
    [x, y] in pixels from the picture's upper left corner (:func:`~monai_ext.functional.outlines.polygons`). The
    measurements are the instance's number, its area in pixels and its score, if it has one.

    Args:
        cutouts: the instances.
        name: of their class in QuPath.
        object_type: ``"detection"``, which QuPath draws fast by the thousand, or ``"annotation"``, which can be edited.

    Raises:
        ValueError: at another type of object.
    """
    if object_type not in ("detection", "annotation"):
        raise ValueError(f"object_type is {object_type!r}, expected 'detection' or 'annotation'.")
    properties = {"objectType": object_type, "classification": {"name": name}}
    return {"type": "FeatureCollection", "features": [_feature(cutout, properties) for cutout in cutouts]}


def write_geojson(
    path: str | PathLike[str], cutouts: Iterable[Cutout], *, name: str = "cell", object_type: str = "detection"
) -> None:
    """Writes :func:`feature_collection`, whole or not at all."""
    content = feature_collection(cutouts, name=name, object_type=object_type)
    write_atomically(path, json.dumps(content, separators=(",", ":")))


def _feature(cutout: Cutout, properties: dict[str, Any]) -> dict[str, Any]:
    parts = polygons(cutout)
    one = len(parts) == 1
    geometry = {"type": "Polygon" if one else "MultiPolygon", "coordinates": parts[0] if one else parts}
    measurements: dict[str, float] = {"Number": cutout.number, "Area px": int(np.count_nonzero(cutout.mask))}
    if cutout.score is not None:
        measurements["Score"] = round(cutout.score, 6)
    return {"type": "Feature", "geometry": geometry, "properties": {**properties, "measurements": measurements}}
