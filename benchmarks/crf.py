# SPDX-License-Identifier: Apache-2.0
"""Multi-view CRF loss, forward and backward, against the plain unfolded version.

Time: both sides in turn, the least of several rounds. Memory: the rise of resident memory over the inputs, sampled
while one call runs in a process of its own (Linux only). Gradient error: largest difference over the largest gradient.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import peak_mb
from benchmarks.reference.crf_unfold import unfold_crf_loss
from monai_ext.losses.crf import MultiViewCRFLoss

SIZES = {(64, 64, 48): 5, (128, 128, 128): 1}  # rounds; one round of the largest size needs about 10 GB

LossFunction = Callable[[Tensor, Tensor], Tensor]


def _loss(side: str) -> LossFunction:
    return MultiViewCRFLoss() if side == "ours" else unfold_crf_loss


def _inputs(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, *size, generator=generator, requires_grad=True)
    image = F.avg_pool3d(torch.randn(1, 1, *size, generator=generator), 3, stride=1, padding=1)
    return logits, image


def _gradient(loss: LossFunction, logits: Tensor, image: Tensor) -> Tensor:
    return torch.autograd.grad(loss(logits, image), logits)[0]


def _measure_memory(side: str, size: tuple[int, ...], threads: int, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(threads)
    _gradient(_loss(side), *_inputs((12, 12, 12)))  # what the first call loads does not count
    logits, image = _inputs(size)
    results.put(peak_mb(lambda: _gradient(_loss(side), logits, image)))


def _memory_of(side: str, size: tuple[int, ...]) -> float:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_measure_memory, args=(side, size, torch.get_num_threads(), results))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise MemoryError(f"The memory benchmark of the CRF ({side}, {size}) ended with status {process.exitcode}.")
    return results.get()


def _seconds(side: str, logits: Tensor, image: Tensor) -> tuple[float, Tensor]:
    start = time.perf_counter()
    gradient = _gradient(_loss(side), logits, image)
    return time.perf_counter() - start, gradient


def run() -> list[dict]:
    """One row for each size: seconds, extra megabytes and their ratios (reference over ours)."""
    rows = []
    _gradient(_loss("ours"), *_inputs((12, 12, 12)))
    _gradient(_loss("reference"), *_inputs((12, 12, 12)))
    for size, rounds in SIZES.items():
        logits, image = _inputs(size)
        times: dict[str, list[float]] = {"ours": [], "reference": []}
        gradients: dict[str, Tensor] = {}
        for _ in range(rounds):
            for side in times:
                seconds, gradients[side] = _seconds(side, logits, image)
                times[side].append(seconds)
        ours, reference = min(times["ours"]), min(times["reference"])
        error = (gradients["ours"] - gradients["reference"]).abs().max() / gradients["reference"].abs().max()
        memory = {side: _memory_of(side, size) for side in times}
        rows.append(
            {
                "what": "multi-view CRF loss, forward and backward",
                "size": "x".join(map(str, size)),
                "ours_s": ours,
                "reference_s": reference,
                "ratio": reference / ours,
                "ours_mb": memory["ours"],
                "reference_mb": memory["reference"],
                "memory_ratio": memory["reference"] / memory["ours"],
                "gradient_error": error.item(),
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
