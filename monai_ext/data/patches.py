# SPDX-License-Identifier: Apache-2.0
"""Labels of chosen patches from a set that is labelled already, and random patches in place of chosen ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import relabel_sequential

from monai_ext.data import faults
from monai_ext.data.datalist import load_datalist
from monai_ext.data.errors import DataFault, fault
from monai_ext.data.files import wait_for_first_process, write_atomically
from monai_ext.data.patch_folder import (
    LIST,
    Patch,
    cut,
    patch_at,
    png_file,
    read_selection,
    write_patch_list,
    write_patches,
)
from monai_ext.functional.patch_selection import window_corners
from monai_ext.transforms.colour import ToRGBd

STEPS = 8
"""Random patches lie at multiples of this share of their side."""


def annotate_patches(folder: str | Path, *, datalist: str | Path, dataset_dir: str | Path) -> None:
    """Cuts the label maps of a folder's patches out of those of their images: for sets that are labelled already.

    Nuclei are numbered anew in each patch.

    Args:
        folder: of the patches; ``labels/`` is written, over what is there.
        datalist: names the label maps of the images, in its section ``training``.
        dataset_dir: folder that its paths are relative to.

    Raises:
        SystemExit: with one sentence: an image that the list has no label map of, a mask instead of a label map, or
            one of another size than its image.
    """
    try:
        labels = {image: entry.get("label") for image, entry in _entries(datalist, dataset_dir).items()}
        for patch in read_selection(folder):
            file = labels.get(patch["image"])
            if file is None:
                found = f"it has no label of {patch['image']}, from which {patch['name']} was chosen"
                raise fault(datalist, "label", found=found, expected="the label map of each such image")
            numbers, _, _ = relabel_sequential(cut(_label_map(file, Path(dataset_dir) / patch["image"]), patch))
            write_atomically(Path(folder) / f"labels/{patch['name']}.png", png_file(numbers.astype(np.uint16)))
    except DataFault as error:
        raise SystemExit(str(error)) from None


def make_random_patches(
    folder: str | Path, *, datalist: str | Path, dataset_dir: str | Path, size: int, number: int, seed: int = 0
) -> str:
    """Writes random patches with their labels, unless the folder holds patches already: to try what comes after.

    Under ``torchrun`` the first process of each machine writes and the others wait for it.

    Args:
        folder: where to write.
        datalist, dataset_dir: of the images and their label maps, see :func:`annotate_patches`.
        size: side of the patches in px.
        number: of patches.
        seed: of the draw.

    Returns:
        The path of ``datalist.json``.

    Raises:
        SystemExit: with one sentence, as for :func:`annotate_patches`, or where the images have no so many patches.
        TimeoutError: the writing process does not finish within ten minutes.
    """
    path = Path(folder) / LIST
    if path.exists():
        return str(path)
    if wait_for_first_process(path, path.exists):
        return str(path)
    try:
        entries = _entries(datalist, dataset_dir)
        pictures = {image: _rgb(entry["image"]) for image, entry in entries.items()}
        patches = _draw(datalist, pictures, entries, size=size, number=number, seed=seed)
    except DataFault as error:
        raise SystemExit(str(error)) from None
    cuts = [cut(pictures[patch["image"]], patch) for patch in patches]
    write_patches(folder, patches, cuts, how={"method": "make_random_patches", "seed": seed})
    annotate_patches(folder, datalist=datalist, dataset_dir=dataset_dir)
    write_patch_list(folder, patches)
    return str(path)


def _draw(
    datalist: str | Path,
    pictures: Mapping[str, NDArray[np.uint8]],
    entries: Mapping[str, dict[str, Any]],
    *,
    size: int,
    number: int,
    seed: int,
) -> list[Patch]:
    places: list[tuple[str, int, int]] = []
    for image, picture in pictures.items():
        if size <= min(picture.shape[:2]):
            corners = window_corners(*picture.shape[:2], size=size, stride=max(1, size // STEPS))
            places += [(image, row, column) for row, column in corners.tolist()]
    if number > len(places):
        found = f"its images have {len(places)} patches of {size} px"
        raise fault(datalist, "training", found=found, expected=f"{number} or more")
    drawn = [places[n] for n in np.random.default_rng(seed).choice(len(places), number, replace=False)]
    return [patch_at(i, row=row, column=column, size=size, group=entries[i].get("group")) for i, row, column in drawn]


def _entries(datalist: str | Path, dataset_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The training entries by their image's path from ``dataset_dir``."""
    found = {}
    for entry in load_datalist(datalist, dataset_dir, "training"):
        if not isinstance(entry.get("image"), str):
            raise fault(datalist, "image", found=f"{entry.get('image')!r}", expected="one file for each image")
        found[Path(os.path.relpath(entry["image"], dataset_dir)).as_posix()] = entry
    return found


def _label_map(file: str, image: Path) -> NDArray[Any]:
    """Number of the nucleus of each pixel (H, W) of an image."""
    faults.check_exists(file, key="label")
    label = faults.read_volume(file, key="label")
    if len(label) != 1 or not faults.is_instance_map(label, file):
        found = f"a {label.numpy().dtype} file of {len(label)} channels, which is a mask"
        raise fault(file, "label", found=found, expected="an instance map, a PNG or TIFF file of 16 bits")
    faults.check_same_grid(faults.read_volume(str(image), key="image"), label, file)
    return label.numpy()[0].T.astype(np.int64)


def _rgb(file: str) -> NDArray[np.uint8]:
    faults.check_exists(file, key="image")
    return ToRGBd("image")({"image": faults.read_volume(file, key="image")})["image"].numpy().transpose(2, 1, 0)
