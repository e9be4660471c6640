# SPDX-License-Identifier: Apache-2.0
"""The set of made-up tissue on disk: pictures, label maps of their nuclei, and the data list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_ext.data.histology_phantom import draw_tissue_stain, tissue_field
from monai_ext.data.phantoms import _SECTIONS, _make, _write_pictures


def make_histology_phantoms(
    folder: str | os.PathLike[str],
    *,
    training: int = 8,
    validation: int = 4,
    test: int = 4,
    size: int = 512,
    diameter_px: float = 20.0,
    pictures_per_field: int = 2,
    seed: int = 0,
) -> str:
    """Write pictures of :func:`tissue_field` in the project's layout, unless the folder already holds this very set.

    ``images/`` holds 8-bit RGB and ``labels/`` 16-bit PNG files, the label maps of the nuclei. Pictures of a field
    share their stain, their mixture of tissues and their ``group``. Training items carry ``label`` as well: of the
    patches that are chosen, and for full supervision; the choice itself does not read it. ``datalist.json`` is written
    last, so an interrupted run leaves no list and is made again. Under ``torchrun`` the first process of each machine
    writes and the others wait for it.

    Args:
        folder: where to write. Other files in it are left alone.
        training: number of training pictures; likewise ``validation`` and ``test``.
        size: height and width in pixels.
        diameter_px: mean diameter of a nucleus, about.
        pictures_per_field: pictures that share a stain.
        seed: together with a picture's section and number it fixes that picture, whatever the other counts are.

    Returns:
        The path of ``datalist.json``.

    Raises:
        FileExistsError: if the folder holds a ``datalist.json`` that is not a phantom's.
        TimeoutError: if the writing process does not finish within ten minutes.
    """
    counts = dict(zip(_SECTIONS, (training, validation, test), strict=True))
    look = {"size": size, "diameter_px": diameter_px, "pictures_per_field": pictures_per_field, "seed": seed}
    parameters: dict[str, Any] = {**counts, **look, "kind": "tissue"}

    def draw(field: np.random.Generator, rng: np.random.Generator) -> tuple[dict[str, NDArray[Any]], None]:
        image, instances = tissue_field(size, rng=rng, stain=draw_tissue_stain(field), diameter_px=diameter_px)
        return {"image": image, "label": instances.astype(np.uint16)}, None

    head = {"name": "histology phantoms", "labels": {"0": "background", "1": "nucleus"}}
    layout: dict[str, Any] = {"sections": _SECTIONS, "per_field": pictures_per_field, "folders": ("images", "labels")}
    return _make(Path(folder), parameters, lambda draft: _write_pictures(draft, parameters, head, draw, **layout))
