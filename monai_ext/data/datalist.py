# SPDX-License-Identifier: Apache-2.0
"""The datalist: one JSON file for every bundle, in MONAI's decathlon form."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from monai_ext.data.errors import fault

PATH_KEYS = ("image", "label", "points")
"""Keys of an entry that name files; ``image`` may be a list of files, one a channel."""

SECTIONS = ("training", "unlabeled", "validation", "test")


def read_datalist(datalist: str | Path) -> dict[str, Any]:
    """Parse a datalist file.

    Returns:
        Its top-level object.

    Raises:
        DataFault: where the file is missing, is not JSON or holds no object.
    """
    file = Path(datalist)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise fault(
            file, "datalist", found=f"it cannot be opened ({error.strerror})", expected="a JSON file"
        ) from error
    except json.JSONDecodeError as error:
        found = f"it is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise fault(file, "datalist", found=found, expected="a JSON object") from error
    except UnicodeDecodeError as error:
        raise fault(file, "datalist", found="it is not UTF-8 text", expected="a JSON object") from error
    if not isinstance(content, dict):
        raise fault(file, "datalist", found=f"a JSON {type(content).__name__}", expected="an object with sections")
    return content


def sections_of(content: Mapping[str, Any]) -> list[str]:
    """Name the sections of a datalist: the known ones, and every other list of objects."""
    return [
        key
        for key, value in content.items()
        if key in SECTIONS or (isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value))
    ]


def entries_of(datalist: str | Path, content: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    """Give the entries of a section as written, a bare file name of decathlon's ``test`` list as ``{"image": name}``.

    Raises:
        DataFault: where the section is missing, is no list, or an entry is no object.
    """
    if section not in content:
        found = f"there is no section {section!r} beside {', '.join(sections_of(content)) or 'no other'}"
        raise fault(datalist, section, found=found, expected="a list of entries")
    entries = content[section]
    if not isinstance(entries, list):
        raise fault(datalist, section, found=f"a JSON {type(entries).__name__}", expected="a list of entries")
    whole = [{"image": entry} if isinstance(entry, str) else entry for entry in entries]
    for number, entry in enumerate(whole, start=1):
        if not isinstance(entry, dict):
            raise fault(
                datalist, section, found=f"entry {number} is {entry!r}", expected='an object such as {"image": ..}'
            )
    return whole


def resolve(datalist: str | Path, dataset_dir: str | Path, name: Any, *, key: str) -> str:
    """Turn a relative path of a datalist into an absolute one; symbolic links stay as they are and may lead anywhere.

    Raises:
        DataFault: where the path is no text, is absolute, or leaves ``dataset_dir`` by ``..`` (in the way of any
            operating system, since a datalist travels).
    """
    expected = "a path relative to and inside dataset_dir"
    if not isinstance(name, str) or not name.strip():
        raise fault(datalist, key, found=f"{name!r}", expected=expected)
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    if any(kind.is_absolute() or kind.drive or kind.root for kind in kinds):
        raise fault(datalist, key, found=f"the absolute path {name!r}", expected=expected)
    if any(".." in kind.parts for kind in kinds):
        raise fault(datalist, key, found=f"the path {name!r} that goes up by '..'", expected=expected)
    return os.path.normpath(os.path.join(os.path.abspath(dataset_dir), name))


def load_datalist(datalist: str | Path, dataset_dir: str | Path, section: str = "training") -> list[dict[str, Any]]:
    """Read one section of a datalist with absolute paths, ready for a MONAI ``Dataset``.

    ``monai.data.load_decathlon_datalist(datalist, data_list_key=section, base_dir=dataset_dir)`` reads the same file,
    without the checks.

    Args:
        datalist: the JSON file.
        dataset_dir: folder that its paths are relative to.
        section: ``training``, ``unlabeled``, ``validation``, ``test`` or any other list in the file.

    Returns:
        A new dictionary for each entry: ``image``, ``label`` and ``points`` as absolute paths, other keys as written.

    Raises:
        DataFault: where the file or section cannot be read or a path leaves ``dataset_dir``.
    """
    content = read_datalist(datalist)
    return [located(datalist, dataset_dir, entry) for entry in entries_of(datalist, content, section)]


def located(datalist: str | Path, dataset_dir: str | Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an entry with its paths made absolute, see :func:`load_datalist`."""
    output = dict(entry)
    for key in PATH_KEYS:
        if key not in entry:
            continue
        value = entry[key]
        if key == "image" and isinstance(value, list) and value:
            output[key] = [resolve(datalist, dataset_dir, name, key=key) for name in value]
        else:
            output[key] = resolve(datalist, dataset_dir, value, key=key)
    return output


def labels_of(datalist: str | Path) -> dict[int, str]:
    """Read the top-level ``labels``: the name of each mask value, 0 included.

    Raises:
        DataFault: where ``labels`` is missing, or is not an object with whole numbers as keys.
    """
    expected = 'an object such as {"0": "background", "1": "tumour"}'
    labels = read_datalist(datalist).get("labels")
    if not isinstance(labels, dict) or not labels:
        raise fault(datalist, "labels", found="missing" if labels is None else f"{labels!r}", expected=expected)
    try:
        return {int(value): str(name) for value, name in labels.items()}
    except ValueError as error:
        raise fault(datalist, "labels", found=f"the values {', '.join(labels)}", expected=expected) from error


def label_names(datalist: str | Path) -> dict[int, str]:
    """Name the mask values for a result file: as ``labels`` does, or 1 ``object`` where there is none to read.

    An application that serves a bundle has no datalist.

    Raises:
        DataFault: where the file or its ``labels`` are there but cannot be read.
    """
    named = Path(datalist).exists() and read_datalist(datalist).get("labels")
    return labels_of(datalist) if named else {1: "object"}
