# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all, and by one process of several."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to a temporary file beside ``path`` and renames it; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def path_in(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> Path:
    """A file's path from ``folder``, which may be empty text; its bare name where it lies elsewhere.

    Both may have ``..`` in them, as paths of configurations do; links are not followed.
    """
    path, root = Path(os.path.abspath(file)), Path(os.path.abspath(folder))
    return path.relative_to(root) if str(folder) and path.is_relative_to(root) else Path(path.name)


WAIT_S = 600.0


def wait_for_first_process(path: str | os.PathLike[str], is_whole: Callable[[], bool]) -> bool:
    """True in every process of a ``torchrun`` but the first of its machine, after that one has written a file.

    Args:
        path: the file, for the error's sentence.
        is_whole: tells whether it is there.

    Raises:
        TimeoutError: it is not there within ten minutes.
    """
    if int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) == 0:
        return False
    deadline = time.monotonic() + WAIT_S
    while not is_whole():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not written by the first process within {WAIT_S:.0f} s.")
        time.sleep(0.2)
    return True
