# SPDX-License-Identifier: Apache-2.0
"""A folder of patches to annotate: pictures, where they lie, their data list, and the label maps that are added.

``patches/<name>.png`` are the pictures, ``labels/<name>.png`` their instance maps (16 bits, 0 is background), which an
annotator adds; ``selection.json`` says where each patch lies and how it was chosen, ``annotate/<image>.geojson`` shows
it to QuPath on its image, and ``datalist.json`` names the patches as a training section.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_ext.data.errors import fault
from monai_ext.data.files import write_atomically

SELECTION, LIST = "selection.json", "datalist.json"

Patch = dict[str, Any]
"""``name``, ``image`` (from dataset_dir, with slashes), ``group``, ``row``, ``column``, ``size``, and why it was
chosen."""


def patch_at(image: str, *, row: int, column: int, size: int, group: str | None = None, **why: Any) -> Patch:
    """A patch as ``selection.json`` has it, named after its image and place."""
    name = f"{Path(image).with_suffix('').as_posix().replace('/', '_')}_r{row}_c{column}"
    return {"name": name, "image": image, "group": group, "row": row, "column": column, "size": size, **why}


def cut(pixels: NDArray[Any], patch: Patch) -> NDArray[Any]:
    """A patch (size, size, ...) of its image or label map (H, W, ...)."""
    row, column, size = patch["row"], patch["column"], patch["size"]
    return pixels[row : row + size, column : column + size]


def write_patches(
    folder: str | Path, patches: Sequence[Patch], pictures: Sequence[NDArray[np.uint8]], *, how: Mapping[str, Any]
) -> None:
    """Writes all but the labels and the data list, and takes away the pictures of an earlier choice.

    Args:
        folder: where to write.
        patches: see :func:`patch_at`.
        pictures: what was cut for each, (size, size, 3).
        how: the choice, as it goes into ``selection.json``.

    Raises:
        ValueError: two patches of one name.
    """
    folder, names = Path(folder), [patch["name"] for patch in patches]
    if len(set(names)) < len(names):
        raise ValueError(f"patches: found the name {max(names, key=names.count)!r} twice, expected each name once.")
    if (folder / SELECTION).exists():
        for former in read_selection(folder):
            _picture(folder, former).unlink(missing_ok=True)
            _outlines(folder, former["image"]).unlink(missing_ok=True)
    for patch, picture in zip(patches, pictures, strict=True):
        write_atomically(_picture(folder, patch), png_file(picture))
    for image in dict.fromkeys(patch["image"] for patch in patches):
        features = [_rectangle(patch) for patch in patches if patch["image"] == image]
        content = json.dumps({"type": "FeatureCollection", "features": features})
        write_atomically(_outlines(folder, image), content)
    write_atomically(folder / SELECTION, json.dumps({**how, "patches": list(patches)}, indent=1))


def write_patch_list(folder: str | Path, patches: Sequence[Patch]) -> None:
    """Writes ``datalist.json``, last, so that it names pictures that are there."""
    entries = []
    for patch in patches:
        entry = {"image": f"patches/{patch['name']}.png", "label": f"labels/{patch['name']}.png"}
        entries.append(entry | ({} if patch["group"] is None else {"group": patch["group"]}))
    write_training_list(folder, entries, name="patches to annotate")


def write_training_list(folder: str | Path, entries: Sequence[Mapping[str, str]], *, name: str) -> None:
    """Writes the ``datalist.json`` of a folder whose pictures, with label maps of nuclei, are a training section."""
    head = {"name": name, "labels": {"0": "background", "1": "nucleus"}}
    write_atomically(Path(folder) / LIST, json.dumps({**head, "training": list(entries)}, indent=1))


def read_selection(folder: str | Path) -> list[Patch]:
    """The patches of a folder.

    Raises:
        DataFault: there is no ``selection.json`` that names patches.
    """
    file = Path(folder) / SELECTION
    try:
        return list(json.loads(file.read_text(encoding="utf8"))["patches"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"it cannot be read ({type(error).__name__})"
        raise fault(file, "patches", found=found, expected="the file that the selection writes") from error


def png_file(pixels: NDArray[Any]) -> bytes:
    """A picture or label map of 16 bits as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="png")
    return buffer.getvalue()


def _picture(folder: Path, patch: Patch) -> Path:
    return folder / f"patches/{patch['name']}.png"


def _outlines(folder: Path, image: str) -> Path:
    return folder / "annotate" / Path(image).with_suffix(".geojson")


def _rectangle(patch: Patch) -> dict[str, Any]:
    """A patch as a feature of GeoJSON that QuPath opens as an annotation, [x, y] in pixels."""
    left, top, side = patch["column"], patch["row"], patch["size"]
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    properties = {"objectType": "annotation", "name": patch["name"], "isLocked": True}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
