# SPDX-License-Identifier: Apache-2.0
"""The one error that a user's data can raise."""

from __future__ import annotations

from os import PathLike


class DataFault(ValueError):  # noqa: N818 - the name is what a user reads: the fault lies in the data, not in the program
    """A fault in the user's data, told in one sentence: the file, the key, what was found and what was expected."""


def fault(file: str | PathLike[str], key: str, *, found: str, expected: str) -> DataFault:
    """Word a :class:`DataFault`; ``found`` continues the sentence after the file and key."""
    return DataFault(f"{file} ({key}): {found}, expected {expected}.")
