# SPDX-License-Identifier: Apache-2.0
"""Clicked points: read any supported file, write ours, and bring them onto an image in a MONAI pipeline."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import ArrayLike, NDArray

from monai_ext.data.errors import fault
from monai_ext.data.points_formats import PointSet, read_csv, read_json, read_label_volume
from monai_ext.functional.points import ras_from_lps, voxels_from_world, world_from_voxels

__all__ = ["LoadPointsd", "PointSet", "read_points", "to_voxels", "write_points"]

_READERS = {".json": read_json, ".geojson": read_json, ".csv": read_csv, ".tsv": read_csv, ".txt": read_csv}


def read_points(path: str | Path, *, affine: ArrayLike | None = None) -> PointSet:
    """Read a file of points.

    Formats, told apart by suffix and content: this project's JSON (``{"space": "voxel"|"RAS"|"LPS", "points":
    [{"label": "F", "position": [..]}]}``), 3D Slicer's ``.mrk.json``, a CSV table (see
    :func:`~monai_ext.data.points_formats.read_csv` for how its header tells the space), a QuPath GeoJSON of Point and
    MultiPoint features, and the released PA-Seg code's annotation volume (any image suffix).

    Args:
        path: the file.
        affine: voxel-to-RAS matrix of the image the points lie on. With it, positions in mm come back as voxel indices
            of that image; without it they stay in the file's space.

    Returns:
        The points, at least one.

    Raises:
        DataFault: where the file is missing, cannot be read, or holds anything but points.
    """
    file = Path(path)
    if not file.is_file():
        raise fault(file, "points", found="there is no such file", expected="a points file")
    if file.suffix.lower() == ".fcsv":
        raise fault(file, "points", found="it is Slicer's legacy .fcsv", expected="the list saved as .mrk.json")
    points = _READERS.get(file.suffix.lower(), read_label_volume)(file)
    if affine is None or points.space == "voxel":
        return points
    return PointSet(points.labels, to_voxels(points, affine=affine), "voxel")


def write_points(path: str | Path, points: PointSet) -> None:
    """Write this project's JSON, which :func:`read_points` reads back bit for bit."""
    rows = [
        {"label": label, "position": position.tolist()}
        for label, position in zip(points.labels, points.positions, strict=True)
    ]
    Path(path).write_text(json.dumps({"space": points.space, "points": rows}, indent=1) + "\n", encoding="utf-8")


def to_voxels(points: PointSet, *, affine: ArrayLike, original_affine: ArrayLike | None = None) -> NDArray[np.float64]:
    """Give positions as array indices of an image, unrounded.

    Args:
        points: N points in any space.
        affine: voxel-to-RAS matrix of the image as it is now.
        original_affine: that of the image as its file holds it, to which voxel positions refer; as ``affine`` where
            None.

    Returns:
        (N, D) array indices.
    """
    if points.space == "voxel":
        if original_affine is None:
            return points.positions.copy()
        world = world_from_voxels(points.positions, affine=original_affine)
    else:
        world = ras_from_lps(points.positions) if points.space == "LPS" else points.positions
    return voxels_from_world(world, affine=affine)


class LoadPointsd(MapTransform):
    """Read the points file at each key and give its positions in voxels of the image as it is now.

    It may stand anywhere after ``LoadImaged``: reorientation, resampling, flips, crops and pads before it are followed
    through the image's affine. ``data[key]`` becomes a float64 (N, D) array of unrounded array indices and
    ``data[key + "_label"]`` the tuple of N labels.

    2-D pixels are [x, y], column and row. MONAI's readers give a 2-D image as an array (W, H) (``PILReader`` with its
    default ``reverse_indexing=True``, and ``ITKReader``), so that [x, y] is already the array index; an array (H, W)
    needs ``xy=False``, which exchanges the two.

    Args:
        keys: keys of the points files.
        image_key: key of the loaded image, a ``MetaTensor`` with channel first.
        xy: False where 2-D images were read with ``reverse_indexing=False``.
        allow_missing_keys: as in MONAI.

    Raises:
        DataFault: where a file cannot be read, or its positions have another dimension than the image.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", *, xy: bool = True, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.xy = xy

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        image = output[self.image_key]
        dims = image.ndim - 1
        affine = to_ras(image.affine, image.meta.get("space"))
        # PILReader records no original affine because a PNG has none: its pixels are its world.
        original = image.meta.get("original_affine")
        original = np.eye(dims + 1) if original is None else to_ras(original, image.meta.get("space"))
        for key in self.key_iterator(output):
            points = read_points(output[key])
            if points.positions.shape[1] != dims:
                found = f"positions have {points.positions.shape[1]} numbers"
                raise fault(output[key], str(key), found=found, expected=f"{dims} as in the {dims}-D image")
            if dims == 2 and points.space == "voxel" and not self.xy:
                points = PointSet(points.labels, points.positions[:, ::-1].copy(), "voxel")
            output[key] = to_voxels(points, affine=affine, original_affine=original)
            output[f"{key}_label"] = points.labels
        return output


def to_ras(affine: ArrayLike, space: Any) -> NDArray[np.float64]:
    """Bring a voxel-to-world matrix to RAS where the reader was told to keep LPS (``affine_lps_to_ras=False``)."""
    matrix = np.array(affine, dtype=np.float64)
    if space is not None and str(space).rpartition(".")[2].upper() == "LPS":
        matrix[:2] *= -1
    return matrix
