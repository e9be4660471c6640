# SPDX-License-Identifier: Apache-2.0
"""Selection of patches on 12 made-up images of 1000x1000 pixels: features of windows, and what an approximation costs.

``exact`` puts every window and its quarters through the ResNet-50, ``dense`` takes means over one map of an image, and
the exact features of a short list. All windows of all images would take a CPU hours, so that ``exact`` and the plain
loop are timed on some windows, and the picks are compared at a larger stride, or at that of the environment variable
``FRUGAL_PICKS_STRIDE``; the printed line says so. Without a file of weights the network's are random.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.reference.windows_one_by_one import features_one_by_one
from monai_ext.data import draw_tissue_stain, tissue_field
from monai_ext.functional.patch_selection import join_windows, select_patches, window_corners
from monai_ext.inferers import WindowFeatureInferer
from monai_ext.networks import PatchFeatures

IMAGES, SIDE, SIZE, STRIDE, CLUSTERS = 12, 1000, 256, 15, 9
TIMED = {"cpu": 16, "cuda": 625}
"""Windows on which ``exact`` and the loop are timed; a square number."""
PICKS_STRIDE = {"cpu": 93, "cuda": 62}
SHORT_LIST = {"cheapest": 32, "spread": 96}
"""Windows of each cluster, at most."""
ROUNDS = 2


def run() -> Iterator[dict[str, Any]]:
    """Three rows: exact by the loop, dense by exact, and, much later, dense's picks; on CUDA where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = PatchFeatures().to(device)
    pictures = _pictures()
    timed = window_corners(SIDE, SIDE, size=SIZE, stride=STRIDE)
    total, some = len(timed), TIMED[device.type]
    part = pictures[0][: SIZE + STRIDE * (round(some**0.5) - 1), : SIZE + STRIDE * (round(some**0.5) - 1)]
    seconds = _seconds(part, pictures[0], network, device)
    per_window = {name: seconds[name] / some for name in ("exact", "loop")}
    listed = CLUSTERS * sum(SHORT_LIST.values()) / IMAGES
    each = f"{SIZE} px, stride {STRIDE}, ResNet-50, {device.type}"
    yield _row(
        "exact features by one window at a time through files",
        f"{some} of the {IMAGES * total} windows of {IMAGES} images of {SIDE}x{SIDE}, {each}",
        seconds["exact"],
        seconds["loop"],
        **{f"windows/s {name}": 1 / value for name, value in per_window.items()},
    )
    yield _row(
        "dense features by exact ones",
        f"{total} windows of an image of {SIDE}x{SIDE}, exact and {listed:g} listed reckoned from {some}, {each}",
        seconds["dense"] + listed * per_window["exact"],
        per_window["exact"] * total,
        **{"map alone s": seconds["dense"]},
    )
    yield _picks(pictures, network, device)


def _row(what: str, size: str, ours: float, reference: float, **more: float) -> dict[str, Any]:
    return {"what": what, "size": size, "ours_s": ours, "reference_s": reference, "ratio": reference / ours, **more}


def _pictures() -> list[NDArray[np.uint8]]:
    made = []
    for number in range(IMAGES):
        stain = draw_tissue_stain(np.random.default_rng([0, number // 2]))
        made.append(tissue_field(SIDE, rng=np.random.default_rng([1, number]), stain=stain, diameter_px=20.0)[0])
    return made


def _tensor(picture: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """(1, 3, columns, rows), as MONAI reads pictures."""
    return torch.from_numpy(picture.transpose(2, 1, 0) / np.float32(255))[None].to(device)


def _seconds(
    part: NDArray[np.uint8], picture: NDArray[np.uint8], network: PatchFeatures, device: torch.device
) -> dict[str, float]:
    """The least of the rounds: exact and the loop on a part of an image, dense on the whole."""
    corners = window_corners(*part.shape[:2], size=SIZE, stride=STRIDE).tolist()
    exact, dense = (WindowFeatureInferer(size=SIZE, stride=STRIDE, mode=mode) for mode in ("exact", "dense"))

    def loop() -> None:
        with tempfile.TemporaryDirectory() as folder:
            features_one_by_one(part, corners, size=SIZE, network=network, folder=Path(folder), device=device)

    tasks: dict[str, Callable[[], Any]] = {
        "exact": lambda: exact(_tensor(part, device), network),
        "loop": loop,
        "dense": lambda: dense(_tensor(picture, device), network),
    }
    network(torch.zeros(1, 3, SIZE, SIZE, device=device))  # warms up
    found = dict.fromkeys(tasks, float("inf"))
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def _picks(pictures: list[NDArray[np.uint8]], network: PatchFeatures, device: torch.device) -> dict[str, Any]:
    """Mean criterion, with the exact features and their clusters, of what each mode picks, and dense with no list.

    Each pick is judged in the cluster of ``exact`` that it lies in, so that picks crowding in cheap clusters have a low
    mean; how many of the clusters they cover stands beside it.
    """
    stride = int(os.environ.get("FRUGAL_PICKS_STRIDE", PICKS_STRIDE[device.type]))
    windows, chosen, seconds = {}, {}, {}
    for mode in ("exact", "dense"):
        inferer = WindowFeatureInferer(size=SIZE, stride=stride, mode=mode)
        start = time.perf_counter()
        windows[mode] = join_windows([inferer(_tensor(picture, device), network)[0] for picture in pictures])
        chosen[mode] = select_patches(windows[mode], clusters=CLUSTERS, **SHORT_LIST)
        seconds[mode] = time.perf_counter() - start
    chosen["no list"] = select_patches(windows["dense"], clusters=CLUSTERS, cheapest=0)
    exact = chosen["exact"]
    means = {name: float(exact.costs[one.picks].mean()) for name, one in chosen.items()}
    covered = {name: float(len(np.unique(exact.clusters[one.picks]))) for name, one in chosen.items()}
    return _row(
        "criterion of dense's picks by exact's, with the exact features",
        f"{CLUSTERS} of {len(windows['exact'].image)} windows of {IMAGES} images, stride {stride}, random weights",
        seconds["dense"],
        seconds["exact"],
        **{f"criterion {name}": value for name, value in means.items()},
        **{f"criterion ratio {name}": means[name] / means["exact"] for name in ("dense", "no list")},
        **{f"clusters covered {name}": covered[name] for name in ("dense", "no list")},
    )
