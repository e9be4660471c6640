# SPDX-License-Identifier: Apache-2.0
"""Phantom data sets on disk: the data behind the demo, the smoke runs and the tests."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_ext.data.cell_phantom import cell_picture, draw_exposure
from monai_ext.data.files import wait_for_first_process
from monai_ext.data.membrane_phantom import draw_stain, membrane_tile
from monai_ext.data.mr_phantom import PhantomSpec, phantom_volume
from monai_ext.data.points_io import PointSet, write_points
from monai_ext.functional.simulate_points import simulate_points

_SECTIONS = ("training", "validation", "test")

_Pictures: TypeAlias = tuple[dict[str, NDArray[Any]], PointSet | None]
"""Pixels of the files of one picture by their key in the datalist, and its points, if there are any."""


def make_phantoms(
    folder: str | os.PathLike[str],
    *,
    training: int = 8,
    validation: int = 3,
    test: int = 3,
    shape: Sequence[int] = (64, 64, 48),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.5),
    seed: int = 0,
    spec: PhantomSpec | None = None,
) -> str:
    """Write a phantom data set in the project's layout, unless the folder already holds this very set.

    ``images/``, ``labels/`` and ``points/`` (seven simulated clicks per target, training cases only) are filled and
    ``datalist.json`` is written last, so an interrupted run leaves no list and is made again. Under ``torchrun`` the
    first process of each machine writes and the others wait for it. Training items carry ``label`` as well, for
    full supervision; training from points does not read it.

    Args:
        folder: where to write. Other files in it are left alone.
        training: number of training cases; likewise ``validation`` and ``test``.
        shape: voxels along (i, j, k).
        spacing_mm: voxel size along (i, j, k).
        seed: together with a case's section and number it fixes that case, whatever the other counts are.
        spec: the look; default ``PhantomSpec()``.

    Returns:
        The path of ``datalist.json``.

    Raises:
        FileExistsError: if the folder holds a ``datalist.json`` that is not a phantom's.
        TimeoutError: if the writing process does not finish within ten minutes.
        ValueError: see :func:`phantom_volume`.
    """
    spec = spec or PhantomSpec()
    counts = dict(zip(_SECTIONS, (training, validation, test), strict=True))
    parameters = {**counts, "shape": list(shape), "spacing_mm": list(spacing_mm), "seed": seed, **asdict(spec)}
    return _make(Path(folder), parameters, lambda draft: _write_cases(draft, parameters, spec))


def make_membrane_phantoms(
    folder: str | os.PathLike[str],
    *,
    training: int = 2,
    unlabeled: int = 38,
    validation: int = 8,
    test: int = 16,
    size: int = 256,
    tiles_per_field: int = 4,
    seed: int = 0,
) -> str:
    """Write tiles of :func:`membrane_tile` in the project's layout, unless the folder already holds this very set.

    ``images/`` and ``labels/`` hold PNG files. Tiles of a field share their stain and their ``group``. The items of
    ``unlabeled`` carry ``label`` as well, for full supervision and for other draws of which are labelled; methods do
    not read it.

    Args:
        folder: where to write. Other files in it are left alone.
        training: number of labelled tiles; likewise ``unlabeled``, ``validation`` and ``test``.
        size: height and width in pixels.
        tiles_per_field: tiles that share a stain.
        seed: together with a tile's section and number it fixes that tile, whatever the other counts are.

    Returns:
        The path of ``datalist.json``.

    Raises:
        FileExistsError: if the folder holds a ``datalist.json`` that is not a phantom's.
        TimeoutError: if the writing process does not finish within ten minutes.
    """
    counts = {"training": training, "unlabeled": unlabeled, "validation": validation, "test": test}
    parameters = {**counts, "size": size, "tiles_per_field": tiles_per_field, "seed": seed}

    def draw(field: np.random.Generator, rng: np.random.Generator) -> _Pictures:
        image, mask = membrane_tile(size, rng=rng, stain=draw_stain(field))
        return {"image": image, "label": mask}, None

    head = {"name": "membrane phantoms", "labels": {"0": "background", "1": "membrane"}}
    layout: dict[str, Any] = {"sections": list(counts), "per_field": tiles_per_field, "folders": ("images", "labels")}
    return _make(Path(folder), parameters, lambda draft: _write_pictures(draft, parameters, head, draw, **layout))


def make_cell_phantoms(
    folder: str | os.PathLike[str],
    *,
    training: int = 8,
    validation: int = 4,
    test: int = 4,
    size: int = 128,
    diameter_px: float = 18.0,
    style: str = "nuclei",
    seed: int = 0,
) -> str:
    """Write pictures of :func:`cell_picture` in the project's layout, unless the folder already holds this very set.

    ``images/`` holds 8-bit and ``labels/`` 16-bit PNG files, the label maps of the cells, and ``points/`` a click for
    each cell of the training pictures. Two pictures make a field: they share their exposure and their ``group``.
    Training items carry ``label`` as well, for full supervision; training from points does not read it.

    Args:
        folder: where to write. Other files in it are left alone.
        training: number of training pictures; likewise ``validation`` and ``test``.
        size: height and width in pixels.
        diameter_px: mean diameter of a cell.
        style: see :func:`cell_picture`.
        seed: together with a picture's section and number it fixes that picture, whatever the other counts are.

    Returns:
        The path of ``datalist.json``.

    Raises:
        FileExistsError: if the folder holds a ``datalist.json`` that is not a phantom's.
        TimeoutError: if the writing process does not finish within ten minutes.
        ValueError: at an unknown style.
    """
    counts = dict(zip(_SECTIONS, (training, validation, test), strict=True))
    parameters = {**counts, "size": size, "diameter_px": diameter_px, "style": style, "seed": seed}

    def draw(field: np.random.Generator, rng: np.random.Generator) -> _Pictures:
        exposure = draw_exposure(field, diameter_px=diameter_px)
        image, label, points = cell_picture(size, rng=rng, style=style, exposure=exposure)
        return {"image": image, "label": label}, PointSet(("cell",) * len(points), points, "voxel")

    head = {"name": "cell phantoms", "labels": {"0": "background", "1": "cell"}}
    layout: dict[str, Any] = {"sections": _SECTIONS, "per_field": 2, "folders": ("images", "labels", "points")}
    return _make(Path(folder), parameters, lambda draft: _write_pictures(draft, parameters, head, draw, **layout))


def _make(root: Path, parameters: dict[str, Any], write: Callable[[Path], None]) -> str:
    """Write a set and publish it, once, whoever else asks for it at the same time."""
    parameters = json.loads(json.dumps(parameters))  # as it will be read back
    path = root / "datalist.json"
    if _is_complete(root, parameters):
        return str(path)
    if wait_for_first_process(path, lambda: _is_complete(root, parameters)):
        return str(path)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".phantoms-", dir=root) as draft:
        write(Path(draft))
        if not _is_complete(root, parameters):  # another run may have finished meanwhile
            _publish(Path(draft), root)
    return str(path)


def _write_cases(root: Path, parameters: dict[str, Any], spec: PhantomSpec) -> None:
    for name in ("images", "labels", "points"):
        (root / name).mkdir()
    datalist: dict[str, Any] = {"name": "phantoms", "labels": {"0": "background", "1": "target"}}
    for index, section in enumerate(_SECTIONS):
        datalist[section] = []
        for case in range(parameters[section]):
            rng = np.random.default_rng([parameters["seed"], index, case])
            image, mask, affine = phantom_volume(
                shape=parameters["shape"],
                spacing_mm=parameters["spacing_mm"],
                objects=spec.objects[case % len(spec.objects)],
                spec=spec,
                rng=rng,
            )
            stem = f"phantom_{section}_{case:03d}"
            item = {"image": f"images/{stem}.nii.gz", "label": f"labels/{stem}.nii.gz", "group": stem}
            nib.save(nib.Nifti1Image(image, affine), root / item["image"])
            nib.save(nib.Nifti1Image(mask, affine), root / item["label"])
            if section == "training":
                item["points"] = f"points/{stem}.json"
                labels, positions = simulate_points(mask, seed=rng, affine=affine)
                write_points(root / item["points"], PointSet(tuple(labels), positions, "voxel"))
            datalist[section].append(item)
    (root / "datalist.json").write_text(json.dumps({**datalist, "phantom": parameters}, indent=1))


def _write_pictures(
    root: Path,
    parameters: dict[str, Any],
    head: dict[str, Any],
    draw: Callable[[np.random.Generator, np.random.Generator], _Pictures],
    *,
    sections: Sequence[str],
    per_field: int,
    folders: Sequence[str],
) -> None:
    """Write what ``draw`` makes of the random states of a field and of a picture; points for training only."""
    for name in folders:
        (root / name).mkdir()
    entries: dict[str, list[dict[str, str]]] = {section: [] for section in sections}
    for index, section in enumerate(sections):
        for number in range(parameters[section]):
            field = number // per_field
            pictures, points = draw(
                np.random.default_rng([parameters["seed"], index, field]),
                np.random.default_rng([parameters["seed"], index, field, number]),
            )
            stem = f"phantom_{section}_{number:03d}"
            item = {}
            for key, pixels in pictures.items():
                item[key] = f"{key}s/{stem}.png"
                Image.fromarray(pixels).save(root / item[key])
            if points is not None and section == "training":
                item["points"] = f"points/{stem}.json"
                write_points(root / item["points"], points)
            entries[section].append(item | {"group": f"phantom_{section}_field_{field:03d}"})
    (root / "datalist.json").write_text(json.dumps({**head, **entries, "phantom": parameters}, indent=1))


def _is_complete(root: Path, parameters: dict[str, Any]) -> bool:
    path = root / "datalist.json"
    if not path.exists():
        return False
    datalist = json.loads(path.read_text())
    if "phantom" not in datalist:
        raise FileExistsError(f"{path} is not a list of phantoms and is left alone: give phantoms another folder.")
    items = [item for entries in datalist.values() if isinstance(entries, list) for item in entries]
    files = [item[key] for item in items for key in ("image", "label", "points") if key in item]
    files += [datalist["annotations"]] if "annotations" in datalist else []
    return datalist["phantom"] == parameters and all((root / file).exists() for file in files)


def _publish(draft: Path, root: Path) -> None:
    """Move file by file, the list last: whoever sees the list sees all that it names."""
    (root / "datalist.json").unlink(missing_ok=True)
    for folder in [path for path in draft.iterdir() if path.is_dir()]:
        (root / folder.name).mkdir(exist_ok=True)
        for stale in (root / folder.name).glob("phantom_*"):
            stale.unlink()
        for file in folder.iterdir():
            file.replace(root / folder.name / file.name)
    for file in [path for path in draft.iterdir() if path.is_file() and path.name != "datalist.json"]:
        file.replace(root / file.name)
    (draft / "datalist.json").replace(root / "datalist.json")
