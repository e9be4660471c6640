# SPDX-License-Identifier: Apache-2.0
"""Bringing files of a data set where its data list names them."""

from __future__ import annotations

import shutil
from pathlib import Path


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Put ``source`` at ``target`` as a link, or as a copy where asked or where the system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if not copy:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError:  # Windows without the right to make links
            pass
    shutil.copyfile(source, target)
