# SPDX-License-Identifier: Apache-2.0
"""The label noise mask of a batch of tiles against cleanlab's, image by image."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.memory import peak_mb
from monai_ext.functional.confident_joint import noisy_pixels

BATCH, SIDE, REPEATS = 6, 256, 5


def run() -> list[dict[str, Any]]:
    """Both sides in turn, on one thread, the median of five; cleanlab is a development dependency."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    labels, probs = tiles()
    times: dict[Callable[..., Tensor], list[float]] = {with_cleanlab: [], ours: []}
    for _ in range(REPEATS):
        for task, seconds in times.items():
            start = time.perf_counter()
            task(labels, probs)
            seconds.append(time.perf_counter() - start)
    ours_s, reference_s = (statistics.median(times[task]) for task in (ours, with_cleanlab))
    row = {
        "what": "label noise mask, two classes",
        "size": f"{BATCH}x{SIDE}x{SIDE}",
        "ours_s": ours_s,
        "reference_s": reference_s,
        "ratio": reference_s / ours_s,
        "ours_mb": peak_mb(lambda: ours(labels, probs)),
        "reference_mb": peak_mb(lambda: with_cleanlab(labels, probs)),
        "target_ratio": 3.0,
        "pixels_that_differ": float((ours(labels, probs) ^ with_cleanlab(labels, probs)).sum()),
    }
    torch.set_num_threads(threads)
    return [row]


def tiles() -> tuple[Tensor, Tensor]:
    """Labels and smooth probabilities that agree on most pixels, as a student's and its teacher's do."""
    noise = torch.randn(2, BATCH, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).numpy()
    field, disturbed = (torch.from_numpy(gaussian_filter(n, (0, 3, 3))) for n in noise)
    probs = torch.stack([-field, field], 1).mul(40).softmax(1)
    return (field + 0.4 * disturbed > 0).long(), probs


def ours(labels: Tensor, probs: Tensor) -> Tensor:
    """All images at once."""
    return noisy_pixels(labels, probs, trim=True)


def with_cleanlab(labels: Tensor, probs: Tensor) -> Tensor:
    """One call an image."""
    from cleanlab.filter import find_label_issues

    masks = []
    for y, p in zip(labels, probs, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find_label_issues(y.flatten().numpy(), p.flatten(1).T.numpy(), filter_by="prune_by_class", n_jobs=1)
        masks.append(torch.from_numpy(found).view(y.shape))
    return torch.stack(masks)


if __name__ == "__main__":
    for row in run():
        print(row)
