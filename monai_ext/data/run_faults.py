# SPDX-License-Identifier: Apache-2.0
"""Checks that a run makes on a sound data set: is there enough of it, is it large enough, does it fit the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_ext.data.errors import fault


def check_counts(file: str | Path, entries: Mapping[str, int], fewest: int) -> None:
    """Refuse a section with fewer cases than a run needs, for example one for each process.

    Raises:
        DataFault: naming the section and both numbers.
    """
    for section, count in entries.items():
        if count < fewest:
            expected = f"at least {fewest}, one for each process of a distributed run"
            raise fault(file, section, found=f"it has {count} case{'s' * (count != 1)}", expected=expected)


def check_smallest(file: str | Path, shapes: Mapping[str, Sequence[Sequence[int]]], least: int) -> None:
    """Refuse images with a side of fewer pixels than a run needs, for example those of a patch.

    Raises:
        DataFault: naming the section, how many images are too small and the smallest of them.
    """
    for section, some in shapes.items():
        small = [tuple(shape) for shape in some if min(shape) < least]
        if small:
            found = f"{len(small)} of {len(some)} images are smaller, the smallest has {min(small, key=min)} pixels"
            raise fault(file, section, found=found, expected=f"{least} px or more on each side")


def check_memory(file: str | Path, needed_bytes: float) -> None:
    """Refuse to start where the machine has less free memory than a data set's cache needs.

    Does nothing where the free memory is not known (``/proc/meminfo`` is Linux's).

    Raises:
        DataFault: with both figures in GiB.
    """
    free = free_memory_bytes()
    if free is not None and free < needed_bytes:
        need, have = (f"{size / 2**30:.1f} GiB" for size in (needed_bytes, free))
        found = f"its volumes need {need} of memory when cached, and {have} are free"
        raise fault(file, "cache_rate", found=found, expected=f"at most {free / needed_bytes:.2f} times this rate")


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not tell."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    kibibytes = {name: value.split()[0] for name, value in (row.split(":") for row in table.read_text().splitlines())}
    return int(kibibytes["MemAvailable"]) * 1024
