# SPDX-License-Identifier: Apache-2.0
"""Result files of handlers: their names, and tables."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.data.files import path_in, write_atomically

__all__ = ["case_name", "path_in", "write_atomically", "write_table"]


def case_name(file: str | os.PathLike[str]) -> str:
    """A file's or DICOM folder's name without folders and NIfTI suffix."""
    return Path(file).name.removesuffix(".gz").removesuffix(".nii")


def write_table(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV; the last one, which adds up, names the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
