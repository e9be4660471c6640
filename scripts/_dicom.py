# SPDX-License-Identifier: Apache-2.0
"""DICOM series as volumes, and RTSTRUCT contours as masks on their grid.

Inside, positions are DICOM's (LPS millimetres); affines that leave this file are to RAS millimetres, as in NIfTI.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from skimage.draw import polygon2mask

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class CaseError(Exception):
    """One case cannot be converted; the message is one sentence."""


@dataclass(frozen=True)
class Volume:
    """A series: array (i, j, k) = (column, row, slice), its affine to RAS mm, and its series UID."""

    array: NDArray[Any]
    affine: NDArray[np.float64]
    series_uid: str


def read_headers(folder: Path) -> list[pydicom.Dataset]:
    """Return the headers of all DICOM files below a folder; each knows its ``filename``."""
    files = sorted(folder.rglob("*.dcm"))
    headers: list[pydicom.Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    if not headers:
        raise CaseError(f"{folder} holds no .dcm files.")
    return headers


def read_series(headers: Sequence[pydicom.Dataset], *, description: str) -> Volume:
    """Read the one MR series whose SeriesDescription contains ``description``."""
    series = defaultdict(list)
    for header in headers:
        if header.Modality == "MR" and description in header.get("SeriesDescription", ""):
            series[header.SeriesInstanceUID].append(header)
    if len(series) != 1:
        raise CaseError(f"found {len(series)} MR series with {description!r} in SeriesDescription, expected one.")
    ((uid, slices),) = series.items()
    slices, affine = _sort_slices(slices)
    planes = []
    for header in slices:
        data = pydicom.dcmread(header.filename)
        scale, offset = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        planes.append((data.pixel_array * scale + offset).astype(np.float32).T)
    return Volume(np.stack(planes, axis=-1), _RAS_FROM_LPS @ affine, str(uid))


def _sort_slices(slices: Sequence[pydicom.Dataset]) -> tuple[list[pydicom.Dataset], NDArray[np.float64]]:
    """Sort along the normal and return the affine from (i, j, k) to LPS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    across, down = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(across, down)
    ordered = sorted(slices, key=lambda s: float(np.dot(normal, np.array(s.ImagePositionPatient, dtype=float))))
    positions = np.array([s.ImagePositionPatient for s in ordered], dtype=float)
    steps = np.diff(positions, axis=0)
    if len(steps) == 0 or np.abs(steps - steps.mean(axis=0)).max() > 0.05 * np.linalg.norm(steps.mean(axis=0)):
        raise CaseError(f"the {len(slices)} slices of the series are not evenly spaced.")
    row_spacing, column_spacing = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_spacing, down * row_spacing
    affine[:3, 2], affine[:3, 3] = steps.mean(axis=0), positions[0]
    return ordered, affine


def read_structure(headers: Sequence[pydicom.Dataset], volume: Volume, *, name: str) -> NDArray[np.uint8]:
    """Rasterise a structure of the RTSTRUCT that was drawn on this series.

    Args:
        headers: all of the case's headers.
        volume: the image whose grid the mask gets.
        name: regular expression for the structure's name, upper or lower case. Where several names match, the first
            in the file is taken.
    """
    drawn_on = [h for h in headers if h.Modality == "RTSTRUCT" and volume.series_uid in _referenced_series(h)]
    if len(drawn_on) != 1:
        raise CaseError(f"found {len(drawn_on)} RTSTRUCT files that refer to the image series, expected one.")
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in drawn_on[0].StructureSetROISequence}
    matching = [number for number, found in names.items() if re.search(name, found, re.IGNORECASE)]
    if not matching:
        raise CaseError(f"no structure matches {name!r}, found {', '.join(names.values())}: give another --roi.")
    contours = [
        np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        for roi in drawn_on[0].ROIContourSequence
        if int(roi.ReferencedROINumber) == matching[0]
        for contour in roi.get("ContourSequence", [])
    ]
    mask = rasterise(contours, volume.array.shape, _RAS_FROM_LPS @ volume.affine)
    if not mask.any():
        raise CaseError(f"structure {names[matching[0]]!r} covers no voxel of the image.")
    return mask


def rasterise(
    contours: Sequence[NDArray[np.float64]], shape: Sequence[int], affine: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Fill planar contours.

    Contours of one plane are combined by exclusive or, so an inner one is a hole; planes that fall into the same
    slice are united.

    Args:
        contours: each (N, 3), corners in the world of ``affine``, in one plane parallel to the slices.
        shape: of the grid, (i, j, k).
        affine: (4, 4), voxel indices to world.

    Returns:
        (i, j, k), uint8: 1 where a voxel's centre is inside.
    """
    to_voxels = np.linalg.inv(affine)
    planes: dict[float, NDArray[np.bool_]] = {}
    for contour in contours:
        corners = contour @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if np.ptp(corners[:, 2]) > 0.5:
            raise CaseError("a contour does not lie in a plane of the image's slices.")
        height = round(float(corners[:, 2].mean()), 1)
        filled = polygon2mask(tuple(shape[:2]), corners[:, :2])
        planes[height] = planes[height] ^ filled if height in planes else filled
    mask = np.zeros(shape, dtype=np.uint8)
    for height, filled in planes.items():
        if 0 <= round(height) < shape[2]:
            mask[..., round(height)] |= filled
    return mask


def _referenced_series(structure: pydicom.Dataset) -> set[str]:
    return {
        str(series.SeriesInstanceUID)
        for frame in structure.get("ReferencedFrameOfReferenceSequence", [])
        for study in frame.get("RTReferencedStudySequence", [])
        for series in study.get("RTReferencedSeriesSequence", [])
    }
