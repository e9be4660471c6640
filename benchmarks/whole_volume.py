# SPDX-License-Identifier: Apache-2.0
"""Sliding-window inference of one whole 182x218x182 volume with PA-Seg's 3-D U-Net: seconds and peak memory."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from benchmarks.memory import peak_mb

SHAPE = (182, 218, 182)
PATCH = (96, 96, 96)


def run() -> list[dict[str, Any]]:
    """One row, measured in a fresh process; random weights and intensities (time does not depend on them)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, megabytes = pool.apply(_infer)
    size = "x".join(map(str, SHAPE))
    return [{"what": "sliding-window inference, patch 96", "size": size, "ours_s": seconds, "ours_mb": megabytes}]


def _infer() -> tuple[float, float]:
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import BasicUNet

    network = BasicUNet(3, 1, 2, features=(16, 32, 64, 128, 256, 16)).eval()
    inferer = SlidingWindowInferer(roi_size=PATCH, sw_batch_size=1, overlap=0.25, mode="gaussian")
    image = torch.randn(1, 1, *SHAPE)
    seconds = []

    @torch.no_grad()
    def segment() -> None:
        start = time.perf_counter()
        inferer(image, network).argmax(1)
        seconds.append(time.perf_counter() - start)

    megabytes = peak_mb(segment)
    return seconds[0], megabytes
