# SPDX-License-Identifier: Apache-2.0
"""Result files of handlers: their names, and tables."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.data.files import write_atomically

__all__ = ["case_name", "path_in", "write_atomically", "write_table"]


def case_name(file: str | os.PathLike[str]) -> str:
    """A file's or DICOM folder's name without folders and NIfTI suffix."""
    return Path(file).name.removesuffix(".gz").removesuffix(".nii")


def path_in(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> Path:
    """A file's path from ``folder``, which may be empty text; its bare name where it lies elsewhere."""
    path = Path(file).absolute()
    root = Path(folder).absolute()
    return path.relative_to(root) if str(folder) and path.is_relative_to(root) else Path(path.name)


def write_table(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV; the last one, which adds up, names the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
