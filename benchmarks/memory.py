# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call (Linux): the rise of resident memory above what the process held before."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path


def peak_mb(task: Callable[[], object]) -> float:
    """Megabytes that ``task`` needs beyond what is there already, sampled every millisecond while it runs.

    Call it in a fresh process: memory that was freed but kept would hide the first megabytes. ``ru_maxrss`` does not
    serve here, as a started process inherits its parent's peak.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_mb()
    peak, stop = [before], threading.Event()

    def sample() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], resident_mb())
            time.sleep(0.001)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        task()
    finally:
        stop.set()
        sampler.join()
    return peak[0] - before


def resident_mb() -> float:
    """Resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
