# SPDX-License-Identifier: Apache-2.0
"""The single checks on a user's data; each raises a :class:`DataFault` or says nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from pydicom.misc import is_dicom

from monai_ext.data.errors import DataFault, fault
from monai_ext.data.points_formats import cause_of, image_loader
from monai_ext.data.points_io import read_points, to_voxels
from monai_ext.functional.points import LETTERS, group_points, world_from_voxels
from monai_ext.functional.seed_expansion import box_of_points, nearest_voxels

_AFFINE_TOLERANCE = 0.1
"""Largest distance, in voxels, between the corners of an image and its label: writers round the affine."""

_MIRRORED = (("L", "R", 0), ("P", "A", 1), ("I", "S", 2))


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


def check_points(file: str, image: MetaTensor) -> tuple[int, int]:
    """Refuse points that do not fit their image; on a 3-D image they must be the seven clicks of PA-Seg.

    Returns:
        Number of points and of objects; in 2-D every point is an object.
    """
    points = read_points(file)
    shape, affine = tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64)
    if points.positions.shape[1] != len(shape):
        found = f"positions have {points.positions.shape[1]} numbers"
        raise fault(file, "points", found=found, expected=f"{len(shape)} as the image has axes")
    try:
        voxels = to_voxels(points, affine=affine)
    except ValueError as error:
        found = f"its image has an affine without inverse, {affine.tolist()}"
        raise fault(file, "points", found=found, expected="one that places the voxels in the world") from error
    outside = ((voxels < -0.5) | (voxels > np.array(shape) - 0.5)).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        found = (
            f"point {points.labels[first]!r} at {points.positions[first].round(2).tolist()} ({points.space}) is voxel "
        )
        found += f"{voxels[first].round(1).tolist()}"
        raise fault(file, "points", found=found, expected=f"a voxel inside the image of shape {shape}")
    if len(shape) == 2:
        return len(voxels), len(voxels)
    try:
        groups = group_points(points.labels, voxels)
    except ValueError as error:
        found, _, expected = str(error).rstrip(".").partition(", expected ")
        raise fault(file, "points", found=found, expected=expected) from error
    for instance, clicks in groups.items():
        check_enclosed(clicks, instance, shape, file)
        check_sides(clicks, instance, affine, file)
    return len(voxels), len(groups)


def check_enclosed(clicks: Mapping[str, NDArray[np.float64]], instance: str, shape: Sequence[int], file: str) -> None:
    """Refuse an object that lacks a click or whose F is not inside the box that the six others leave it.

    The planes of the six clicks are outside the box, but for those in the image's border
    (:func:`~monai_ext.functional.seed_expansion.box_of_points`).
    """
    missing = [letter + instance for letter in LETTERS if letter not in clicks]
    if missing:
        found = f"there is no point {' or '.join(missing)}"
        raise fault(file, "points", found=found, expected="F, L, R, A, P, I and S for each object")
    names = ", ".join(letter + instance for letter in LETTERS if letter != "F")
    try:
        box = box_of_points([clicks[letter] for letter in LETTERS if letter != "F"], shape)
    except ValueError as error:
        found = f"the points {names} enclose no voxel"
        raise fault(file, "points", found=found, expected="each pair further apart than the object") from error
    click = nearest_voxels(clicks["F"], shape)[0]
    if not all(axis.start <= c < axis.stop for c, axis in zip(click, box, strict=True)):
        bounds = " x ".join(f"{axis.start}..{axis.stop - 1}" for axis in box)
        found = f"point {'F' + instance!r} at voxel {click.tolist()} is not enclosed by {names}"
        raise fault(file, "points", found=found, expected=f"a voxel in {bounds}")


def check_sides(clicks: Mapping[str, NDArray[np.float64]], instance: str, affine: Any, file: str) -> None:
    """Refuse a pair of letters in the wrong order along its axis, which a file of the wrong space (RAS, LPS) shows.

    On an oblique image the order along the world's axis may differ from that along the nearest voxel axis; only a pair
    that is wrong along both is refused.
    """
    linear = np.asarray(affine)[:3, :3]
    for low, high, axis in _MIRRORED:
        step = clicks[high] - clicks[low]
        nearest = int(np.argmax(np.abs(linear[axis]) / np.linalg.norm(linear, axis=0)))
        along_voxels = step[nearest] * np.sign(linear[axis, nearest])
        if (linear @ step)[axis] < 0 and along_voxels < 0:
            found = f"point {low + instance!r} lies beyond {high + instance!r} along the RAS axis {'xyz'[axis]}"
            expected = (
                f"{low} before {high}: the sides are the patient's, and the file must say its space (RAS, LPS) right"
            )
            raise fault(file, "points", found=found, expected=expected)


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


def check_counts(file: str | Path, entries: Mapping[str, int], fewest: int) -> None:
    """Refuse a section with fewer cases than a run needs, for example one for each process.

    Raises:
        DataFault: naming the section and both numbers.
    """
    for section, count in entries.items():
        if count < fewest:
            expected = f"at least {fewest}, one for each process of a distributed run"
            raise fault(file, section, found=f"it has {count} case{'s' * (count != 1)}", expected=expected)


def check_smallest(file: str | Path, shapes: Mapping[str, Sequence[Sequence[int]]], least: int) -> None:
    """Refuse images with a side of fewer pixels than a run needs, for example those of a patch.

    Raises:
        DataFault: naming the section, how many images are too small and the smallest of them.
    """
    for section, some in shapes.items():
        small = [tuple(shape) for shape in some if min(shape) < least]
        if small:
            found = f"{len(small)} of {len(some)} images are smaller, the smallest has {min(small, key=min)} pixels"
            raise fault(file, section, found=found, expected=f"{least} px or more on each side")


def check_memory(file: str | Path, needed_bytes: float) -> None:
    """Refuse to start where the machine has less free memory than a data set's cache needs.

    Does nothing where the free memory is not known (``/proc/meminfo`` is Linux's).

    Raises:
        DataFault: with both figures in GiB.
    """
    free = free_memory_bytes()
    if free is not None and free < needed_bytes:
        need, have = (f"{size / 2**30:.1f} GiB" for size in (needed_bytes, free))
        found = f"its volumes need {need} of memory when cached, and {have} are free"
        raise fault(file, "cache_rate", found=found, expected=f"at most {free / needed_bytes:.2f} times this rate")


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not tell."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    kibibytes = {name: value.split()[0] for name, value in (row.split(":") for row in table.read_text().splitlines())}
    return int(kibibytes["MemAvailable"]) * 1024
