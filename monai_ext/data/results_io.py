# SPDX-License-Identifier: Apache-2.0
"""Masks as DICOM SEG, for images that came as a DICOM series."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom
from pydicom.sr.codedict import codes

from monai_ext import __version__
from monai_ext.data.errors import fault
from monai_ext.data.points_io import to_ras

logger = logging.getLogger(__name__)

_TOLERANCE = 0.1
"""Largest distance, in voxels, between the corners of a mask and of its series: readers round the affine."""

_PLACING = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
"""What a slice needs to lie in the patient; X-rays and multi-frame files have none of it at their top level."""

_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""Attributes that DICOM wants present but lets be empty; anonymised files often lack them."""


class SaveDicomSegd(MapTransform):
    """Write the mask at each key as a DICOM SEG, where the image was read from a DICOM series; else do nothing.

    The file ``<case>_seg.dcm`` refers to the slices it was made from, so that a viewer lays it over them; the case is
    the name of the series' folder. An image is a DICOM series where its ``filename_or_obj`` is a folder of slices or
    one slice among them. An empty mask gives a file whose frames are all zero: nothing was found. A mask that is not
    3-D, and a series whose files do not say where their slices lie (multi-frame files), are left out with a warning.
    An image that names no file, as an application that holds it in memory hands it over, is no series.

    Args:
        keys: keys of the masks, ``MetaTensor`` (1, i, j, k) of whole numbers on the grid of the input, in any order
            and direction of the axes.
        image_key: key of the image, whose ``meta`` names its file.
        output_dir: folder to write; made where absent.
        labels: name of each mask value, one segment each; 0 is background and left out. Keys may be text as in JSON.
        data_root_dir: where given, folders between it and the series are kept below ``output_dir``.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: where ``labels`` names no value but 0, or one that is not in 1 to 255.
        DataFault: where the mask is not on the grid of the series or holds a value without a name.
        ImportError: at the first DICOM series where highdicom is not installed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        *,
        output_dir: str | PathLike[str],
        labels: Mapping[Any, str],
        data_root_dir: str | PathLike[str] = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.output_dir = Path(output_dir)
        self.data_root_dir = data_root_dir
        self.names = {int(value): str(name) for value, name in labels.items() if int(value) != 0}
        if not self.names or not 0 < min(self.names) <= max(self.names) < 256:
            raise ValueError(f"labels: found {dict(labels)}, expected names of values from 1 to 255.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        file = data[self.image_key].meta.get("filename_or_obj")
        for key in self.key_iterator(dict(data)) if file else ():
            self._save(data[key], Path(str(file)), str(key))
        return dict(data)

    def _save(self, mask: MetaTensor, path: Path, key: str) -> None:
        if not (path.is_dir() or (path.is_file() and is_dicom(path))):
            return
        slices = read_slices(path, voxels=mask.numel())
        if mask.ndim != 4 or len(mask) != 1 or not slices:
            logger.warning("%s (%s): no DICOM SEG, which needs a 3-D mask and slices placed in the patient.", path, key)
            return
        values = set(np.unique(mask.cpu().numpy()).tolist())
        if unknown := sorted(values - {0, *self.names}):
            named = ", ".join(map(str, self.names)) or "none"
            raise fault(path, key, found=f"the mask holds the value {unknown[0]:g}", expected=f"0 or a label ({named})")
        folder = path if path.is_dir() else path.parent
        target = self.output_dir / _folders_between(self.data_root_dir, folder) / f"{folder.name}_seg.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        encode(slices_of(mask, slices, path, key), slices, self.names, path).save_as(target)
        logger.info("DICOM SEG written: %s", target)


def read_slices(path: Path, *, voxels: int) -> list[Dataset]:
    """Read the headers of a series, sorted along the normal of its slices.

    Args:
        path: the folder, or one file of the series.
        voxels: size of the volume read from it, which tells a single slice from the series around it.

    Returns:
        The headers without pixels; none where there are no DICOM files or they do not say where they lie.

    Raises:
        DataFault: where a folder holds several series.
    """
    folder = path if path.is_dir() else path.parent
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.name.upper() != "DICOMDIR" and is_dicom(f)]
    found = [dcmread(file, stop_before_pixels=True) for file in files]
    if path.is_file():
        given = dcmread(path, stop_before_pixels=True)
        alone = voxels == given.get("Rows", 0) * given.get("Columns", 0)
        found = [given] if alone else [h for h in found if h.get("SeriesInstanceUID") == given.get("SeriesInstanceUID")]
    if (count := len({header.get("SeriesInstanceUID") for header in found})) > 1:
        raise fault(path, "image", found=f"{count} DICOM series", expected="one in a folder")
    if not all(keyword in header for header in found for keyword in _PLACING):
        return []
    return sorted(found, key=lambda header: float(_normal(header) @ _position(header)))


def slices_of(mask: MetaTensor, slices: Sequence[Dataset], path: Path, key: str) -> NDArray[np.uint8]:
    """Bring a mask (1, i, j, k) in any axis order onto the slices, (slices, rows, columns).

    Raises:
        DataFault: where the mask has another grid than the slices.
    """
    grid = (int(slices[0].Columns), int(slices[0].Rows), len(slices))
    to_slices = np.linalg.inv(_affine_of(slices)) @ to_ras(mask.affine, mask.meta.get("space"))
    if len(slices) == 1:
        to_slices[2] /= np.abs(to_slices[2, :3]).max()  # a slice alone has no distance to the next
    turn = np.rint(to_slices[:3, :3])
    order = np.abs(turn).argmax(axis=1)
    volume = mask[0].cpu().numpy().astype(np.uint8)
    corners = np.array(list(product(*[(0, size - 1) for size in volume.shape])))
    landed = corners @ to_slices[:3, :3].T + to_slices[:3, 3]
    apart = max(np.abs(landed.min(axis=0)).max(), np.abs(landed.max(axis=0) - grid + 1).max())
    straight = sorted(order) == [0, 1, 2] and np.abs(turn).sum() == 3
    if not straight or volume.transpose(order).shape != grid or not apart <= _TOLERANCE:
        found = f"a mask of shape {volume.shape} whose corners lie up to {apart:.3g} voxels off the series"
        raise fault(path, key, found=found, expected=f"the series' own {grid[0]} x {grid[1]} x {grid[2]} voxels")
    backward = tuple(axis for axis in range(3) if turn[axis, order[axis]] < 0)
    return np.ascontiguousarray(np.flip(volume.transpose(order), backward).transpose(2, 1, 0))


def encode(frames: NDArray[np.uint8], slices: Sequence[Dataset], names: Mapping[int, str], path: Path) -> Dataset:
    """Build the DICOM SEG, binary, with one segment for each name.

    Args:
        frames: (slices, rows, columns), values as in ``names`` and 0.
        slices: the headers of the series, in the order of the frames.
        names: name of each value.
        path: the series, for the sentence of an error.

    Raises:
        ImportError: where highdicom is not installed.
    """
    hd = _highdicom(path)
    numbers = np.zeros(256, np.uint8)
    numbers[list(names)] = np.arange(1, len(names) + 1)
    for header in slices:
        for keyword in _MAY_BE_EMPTY:
            header.setdefault(keyword, "")
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=numbers[frames],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(hd, number, name) for number, name in enumerate(names.values(), start=1)],
        series_instance_uid=hd.UID(),
        series_number=1000 + int(slices[0].get("SeriesNumber") or 0),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Frugal",
        manufacturer_model_name="monai_ext",
        software_versions=__version__,
        device_serial_number="0",
        omit_empty_frames=bool(frames.any()),
    )


def _highdicom(path: Path) -> ModuleType:
    try:
        import highdicom
    except ImportError as error:
        raise ImportError(
            f"{path}: writing its mask as DICOM SEG needs highdicom, which is not installed: "
            "pip install monai_ext[dicom], or set save_dicom_seg to False."
        ) from error
    return highdicom


def _describe(hd: ModuleType, number: int, name: str) -> Any:
    """Describe a segment by its label's name; whether it is organ, lesion or tissue is not known here."""
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.cid7150.SpatialAndRelationalConcept,
        segmented_property_type=hd.sr.CodedConcept(str(number), "99FRUGAL", name[:64]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Frugal", family=codes.cid7162.ArtificialIntelligence, version=__version__
        ),
    )


def _folders_between(root: str | PathLike[str], folder: Path) -> Path:
    parent = folder.absolute().parent
    root = Path(root).absolute() if str(root) else parent
    return parent.relative_to(root) if parent.is_relative_to(root) else Path()


def _position(header: Dataset) -> NDArray[np.float64]:
    return np.array(header.ImagePositionPatient, dtype=np.float64)


def _normal(header: Dataset) -> NDArray[np.float64]:
    across, down = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    return np.cross(across, down)


def _affine_of(slices: Sequence[Dataset]) -> NDArray[np.float64]:
    """Matrix from (column, row, slice) to RAS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    across, down = np.array(slices[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = map(float, slices[0].PixelSpacing)
    first, last = _position(slices[0]), _position(slices[-1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = across * between_columns, down * between_rows, first
    affine[:3, 2] = (last - first) / (len(slices) - 1) if len(slices) > 1 else _normal(slices[0])
    return to_ras(affine, "LPS")
