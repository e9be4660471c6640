# SPDX-License-Identifier: Apache-2.0
"""The set of made-up smears on disk: pictures, a COCO file of the cells that overlap, and the data list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_ext.data.coco import CocoReader, CocoWriter
from monai_ext.data.errors import DataFault
from monai_ext.data.phantoms import _make, _write_pictures
from monai_ext.data.smear_phantom import CYTOPLASM, NUCLEUS, draw_smear_stain, smear_field
from monai_ext.functional.outlines import Cutout, cutouts_of_masks

_CATEGORIES = {CYTOPLASM: "cytoplasm", NUCLEUS: "nucleus"}
_ANNOTATIONS = "annotations.json"


def make_smear_phantoms(
    folder: str | os.PathLike[str],
    *,
    training: int = 8,
    unlabeled: int = 32,
    validation: int = 8,
    test: int = 16,
    size: int = 256,
    diameter_px: float = 56.0,
    spread: float = 1.0,
    pictures_per_field: int = 2,
    seed: int = 0,
) -> str:
    """Write pictures of :func:`smear_field` in the project's layout, unless the folder already holds this very set.

    ``images/`` holds PNG files and ``annotations.json`` the cells of all pictures, as run lengths: category 1 is
    cytoplasm, 2 nucleus. Pictures of a field share their stain and their ``group``. The pictures of ``unlabeled`` are
    annotated as well, for full supervision and for other draws of which are labelled; methods do not read that.
    ``datalist.json`` is written last, so an interrupted run leaves no list and is made again. Under ``torchrun`` the
    first process of each machine writes and the others wait for it.

    Args:
        folder: where to write. Other files in it are left alone.
        training: number of labelled pictures; likewise ``unlabeled``, ``validation`` and ``test``.
        size: height and width in pixels.
        diameter_px: mean diameter of a cell.
        spread: how much fields differ, see :func:`draw_smear_stain`.
        pictures_per_field: pictures that share a stain.
        seed: together with a picture's section and number it fixes that picture, whatever the other counts are.

    Returns:
        The path of ``datalist.json``.

    Raises:
        FileExistsError: if the folder holds a ``datalist.json`` or an ``annotations.json`` that is not a phantom's.
        TimeoutError: if the writing process does not finish within ten minutes.
    """
    counts = {"training": training, "unlabeled": unlabeled, "validation": validation, "test": test}
    look = {"size": size, "diameter_px": diameter_px, "spread": spread, "pictures_per_field": pictures_per_field}
    root, parameters = Path(folder), {**counts, **look, "seed": seed, "kind": "smears"}

    def write(draft: Path) -> None:
        _refuse_foreign(root / _ANNOTATIONS)
        _write(draft, parameters, list(counts))

    return _make(root, parameters, write)


def _write(draft: Path, parameters: dict[str, Any], sections: list[str]) -> None:
    drawn: list[list[tuple[int, Cutout]]] = []

    def draw(field: np.random.Generator, rng: np.random.Generator) -> tuple[dict[str, NDArray[Any]], None]:
        stain = draw_smear_stain(field, spread=parameters["spread"])
        image, instances = smear_field(parameters["size"], rng=rng, stain=stain, diameter_px=parameters["diameter_px"])
        masks = [mask for _, mask in instances]
        drawn.append([(kind, cut) for (kind, _), cut in zip(instances, cutouts_of_masks(masks), strict=True)])
        return {"image": image}, None

    labels = {"0": "background", **{str(number): name for number, name in _CATEGORIES.items()}}
    head = {"name": "smear phantoms", "labels": labels, "annotations": _ANNOTATIONS}
    per_field = parameters["pictures_per_field"]
    _write_pictures(draft, parameters, head, draw, sections=sections, per_field=per_field, folders=("images",))
    content = json.loads((draft / "datalist.json").read_text())
    names = [item["image"] for section in sections for item in content[section]]
    writer = CocoWriter(_CATEGORIES)
    for name, instances in zip(names, drawn, strict=True):
        for kind, cutout in instances:
            writer.add(name, [cutout], shape=(parameters["size"], parameters["size"]), category_id=kind)
    writer.write(draft / _ANNOTATIONS)


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    try:
        own = all(name.startswith("images/phantom_") for name in CocoReader(path).shapes)
    except DataFault:
        own = False
    if not own:
        raise FileExistsError(f"{path} is not of phantoms and is left alone: give phantoms another folder.")
