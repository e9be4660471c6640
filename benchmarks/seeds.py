# SPDX-License-Identifier: Apache-2.0
"""Seed expansion: CPU time and peak memory of one object, and the distance against a plain heap."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.memory import peak_mb
from benchmarks.reference.geodesic import gradient_distance
from monai_ext.functional.geodesic import COSTS, geodesic_distance
from monai_ext.functional.seed_expansion import expand_seeds

BOX = 96
REFERENCE_BOX = 40


def run() -> list[dict[str, Any]]:
    """Measure each side in a fresh process, in turn."""
    size = f"{REFERENCE_BOX}x{REFERENCE_BOX}x{REFERENCE_BOX}"
    ours_s, ours_mb = _in_new_process(_distance, REFERENCE_BOX)
    reference_s, reference_mb = _in_new_process(_plain_distance, REFERENCE_BOX)
    rows: list[dict[str, Any]] = [
        {
            "what": "geodesic distance, gradient cost",
            "size": size,
            "ours_s": ours_s,
            "reference_s": reference_s,
            "ratio": reference_s / ours_s,
            "ours_mb": ours_mb,
            "reference_mb": reference_mb,
        }
    ]
    for cost in COSTS:
        seconds, megabytes = _in_new_process(_expansion, BOX, cost)
        rows.append(
            {
                "what": f"seed expansion, {cost} cost",
                "size": f"{BOX}x{BOX}x{BOX}",
                "ours_s": seconds,
                "reference_s": None,
                "ratio": None,
                "ours_mb": megabytes,
                "reference_mb": None,
                "target_s": 3.0,
            }
        )
    return rows


def _in_new_process(task: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """CPU seconds and growth of peak memory in MB; in a fresh process no earlier task's peak hides this one's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (task, arguments))


def _measured(task: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float]:
    image = _image(arguments[0])
    seconds: list[float] = []

    def timed() -> None:
        start = time.process_time()
        task(image, *arguments[1:])
        seconds.append(time.process_time() - start)

    timed()  # the sampler of the memory costs time, so it watches a second call
    megabytes = peak_mb(timed)
    return seconds[0], megabytes


def _image(side: int) -> np.ndarray:
    image = gaussian_filter(np.random.default_rng(0).normal(size=(side, side, side)), 2)
    return image / image.std()


def _distance(image: np.ndarray) -> None:
    geodesic_distance(image, _centre(image))


def _plain_distance(image: np.ndarray) -> None:
    gradient_distance(image, _centre(image))


def _expansion(image: np.ndarray, cost: str) -> None:
    corners = [[0, 0, 0], [side - 1 for side in image.shape]]
    expand_seeds(image, [(_centre(image), corners)], epsilon=0.2, cost=cost)


def _centre(image: np.ndarray) -> tuple[int, ...]:
    return tuple(side // 2 for side in image.shape)


if __name__ == "__main__":
    for row in run():
        print(row)
