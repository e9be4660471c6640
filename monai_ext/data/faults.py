# SPDX-License-Identifier: Apache-2.0
"""Checks on the files and pixels of a user's images and labels; each raises a :class:`DataFault` or says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from pydicom.misc import is_dicom

from monai_ext.data.errors import fault
from monai_ext.data.points_formats import cause_of, image_loader
from monai_ext.functional.points import world_from_voxels

_AFFINE_TOLERANCE = 0.1
"""Largest distance, in voxels, between the corners of an image and its label: writers round the affine."""


def check_exists(file: str, *, key: str) -> None:
    """Refuse a path that is no file and no filled folder."""
    path = Path(file)
    if not path.exists():
        raise fault(file, key, found="there is no such file", expected="a file in dataset_dir")
    if path.is_dir() and not any(path.iterdir()):
        raise fault(file, key, found="the folder is empty", expected="a DICOM series")
    if path.is_file() and path.stat().st_size == 0:
        raise fault(file, key, found="the file has no bytes", expected="a whole file")


def read_volume(files: str | Sequence[str], *, key: str) -> MetaTensor:
    """Read an image (C, *S) in its file's type, and refuse what MONAI cannot read, truncated files included."""
    name = files if isinstance(files, str) else ", ".join(files)
    try:
        volume = image_loader()(files)
    except Exception as error:  # readers raise whatever their library raises
        found = f"it cannot be read ({cause_of(error)})"
        raise fault(name, key, found=found, expected="a whole image file that MONAI reads") from error
    if isinstance(files, str) and Path(files).is_dir():
        _check_series(Path(files), volume.shape[-1], key=key)
    if 0 in volume.shape:
        raise fault(name, key, found=f"the shape is {tuple(volume.shape)}", expected="at least one voxel")
    return volume


def _check_series(folder: Path, slices: int, *, key: str) -> None:
    """Refuse a folder of which MONAI's reader left files out, as it does without a word where one is truncated."""
    count = sum(is_dicom(file) for file in folder.iterdir() if file.is_file() and file.name.upper() != "DICOMDIR")
    if count > 1 and count != slices:
        found = f"{count} DICOM files, of which the reader takes {slices} slices"
        raise fault(folder, key, found=found, expected="the whole files of one series and no others")


def check_finite(volume: MetaTensor, file: str, *, key: str) -> None:
    """Refuse NaN and Inf."""
    values = volume.numpy()
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        count = finite.size - int(np.count_nonzero(finite))
        raise fault(file, key, found=f"{count} voxels are NaN or Inf", expected="finite numbers only")


def check_same_grid(image: MetaTensor, label: MetaTensor, file: str) -> None:
    """Refuse a label of another shape or affine than its image.

    Affines are compared in 3-D only: the affine of a 2-D picture is made up by MONAI's reader, and differs between PNG
    and TIFF.
    """
    shape, expected = tuple(label.shape[1:]), tuple(image.shape[1:])
    if shape != expected:
        raise fault(file, "label", found=f"the shape is {shape}", expected=f"{expected} as its image has")
    if len(shape) != 3:
        return
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape], indexing="ij"), -1).reshape(-1, 3)
    apart = world_from_voxels(corners, affine=image.affine) - world_from_voxels(corners, affine=label.affine)
    distance_mm = float(np.linalg.norm(apart, axis=1).max())
    if not distance_mm <= _AFFINE_TOLERANCE * float(image.pixdim.min()):
        found = f"its affine lays it up to {distance_mm:.3g} mm away from its image"
        raise fault(file, "label", found=found, expected="the affine of the image")


def check_mask(label: MetaTensor, names: Mapping[int, str], file: str) -> dict[int, int]:
    """Refuse a mask that holds values that the datalist does not name, and a volume's that is empty.

    A tile of a slide may show nothing, a volume is there for what is in it.

    Returns:
        Number of voxels for each value.
    """
    if len(label) != 1:
        raise fault(file, "label", found=f"{len(label)} channels", expected="one channel of class numbers")
    values, counts = np.unique(label.numpy(), return_counts=True)
    unknown = [f"{value:g}" for value in values.tolist() if value not in names]
    if unknown:
        found = f"the values {', '.join(unknown[:8])}{' and more' if len(unknown) > 8 else ''} are not in the datalist"
        raise fault(
            file, "label", found=found, expected=f"only {', '.join(map(str, sorted(names)))} as in its 'labels'"
        )
    if label.ndim == 4 and not values.any():
        raise fault(file, "label", found="every voxel is 0, the mask is empty", expected="at least one labelled voxel")
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def is_instance_map(label: MetaTensor, file: str) -> bool:
    """Tell an instance label map, a PNG or TIFF of more than 8 bits, from a mask."""
    return Path(file).suffix.lower() in (".png", ".tif", ".tiff") and label.numpy().dtype.itemsize > 1
