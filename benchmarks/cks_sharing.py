# SPDX-License-Identifier: Apache-2.0
"""All sharing losses of CKS, forward and backward, against one full map of the image for each cell.

Every measurement is made in a process of its own. Both sides: CPU seconds on one thread, the least of several rounds,
which other work on the machine disturbs little; and the rise of resident memory over the inputs (Linux only). Ours too:
the seconds that pass on two threads, true only where nothing else runs. Values and gradients are compared as well.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import peak_mb
from benchmarks.reference.sharing_dense import dense_sharing_losses
from monai_ext.functional.knowledge_sharing import foreground_of_instances
from monai_ext.functional.windows import Windows
from monai_ext.losses import BorderSharingLoss, CollapseLoss, ForegroundSharingLoss, InstanceSharingLoss

CELLS = (100, 300, 1000, 3000)
DENSE_UP_TO = 1000  # these need 9 GB; more cells need more in proportion
SIDE, WINDOW = 544, 96
PRIOR_PX, PRIOR_WEIGHT = 20.0, 2.0
ROUNDS = 2
TARGET_S, TARGET_MB = 3.0, 1500.0  # with 3000 cells, on 2 cores

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Losses = Callable[[Inputs], dict[str, Tensor]]


def run() -> Iterator[dict[str, Any]]:
    """One row a number of cells, each as soon as it is there, then how time and memory grow from 300 to 3000."""
    rows = {}
    for cells in CELLS:
        rows[cells] = _row(cells)
        yield rows[cells]
    few, many = rows[300], rows[3000]
    yield {
        "what": "sharing losses, growth with the cells",
        "size": "300 to 3000 cells",
        "ours_s": many["ours_s"],
        "ours_mb": many["ours_mb"],
        "time_growth": many["ours_s"] / few["ours_s"],
        "memory_growth": many["ours_mb"] / few["ours_mb"],
        "two_threads_s": many["two_threads_s"],
        "target_s": TARGET_S,
        "target_mb": TARGET_MB,
    }


def _row(cells: int) -> dict[str, Any]:
    dense = cells <= DENSE_UP_TO
    ours_s, ours_mb = _in_new_process(_measured, ours, cells)
    reference_s, reference_mb = _in_new_process(_measured, dense_losses, cells) if dense else (None, None)
    row: dict[str, Any] = {
        "what": "all sharing losses, forward and backward",
        "size": f"{cells} cells, windows of {WINDOW}, {SIDE}x{SIDE}",
        "ours_s": ours_s,
        "reference_s": reference_s,
        "ratio": reference_s / ours_s if dense else None,
        "ours_mb": ours_mb,
        "reference_mb": reference_mb,
        "memory_ratio": reference_mb / ours_mb if dense else None,
        "two_threads_s": _in_new_process(_passed, cells),
    }
    return {**row, **_in_new_process(_differences, cells)} if dense else row


def _in_new_process(task: Callable[..., Any], *arguments: Any) -> Any:
    # unlike a Pool, an executor tells when its process was killed for want of memory
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(task, *arguments).result()


def _measured(losses: Losses, cells: int) -> tuple[float, float]:
    """CPU seconds and megabytes of one call on one thread."""
    torch.set_num_threads(1)
    _gradients(losses, inputs(10))  # what the first call loads does not count
    given = inputs(cells)
    # memory comes first: what a call frees but keeps would hide there
    megabytes = peak_mb(lambda: _gradients(losses, given))
    return _least(time.process_time, losses, given), megabytes


def _passed(cells: int) -> float:
    torch.set_num_threads(2)
    given = inputs(cells)
    _gradients(ours, given)
    return _least(time.perf_counter, ours, given)


def _least(clock: Callable[[], float], losses: Losses, given: Inputs) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = clock()
        _gradients(losses, given)
        seconds.append(clock() - start)
    return min(seconds)


def _differences(cells: int) -> dict[str, float]:
    """Largest relative difference of a loss, and of a gradient over its largest entry."""
    torch.set_num_threads(1)
    given = inputs(cells)
    (values, gradients), (expected, reference) = (_gradients(losses, given) for losses in (ours, dense_losses))
    return {
        "value_difference": max(abs(values[name] / expected[name] - 1) for name in expected),
        "gradient_difference": max(
            ((mine - theirs).abs().max() / theirs.abs().max()).item()
            for mine, theirs in zip(gradients, reference, strict=True)
        ),
    }


def _gradients(losses: Losses, given: Inputs) -> tuple[dict[str, float], list[Tensor]]:
    logits, _, _, foreground, border = given
    terms = losses(given)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), (logits, foreground, border))
    return {name: term.item() for name, term in terms.items()}, list(gradients)


def inputs(cells: int) -> Inputs:
    """Noisy discs around random locations: logits, origins of the windows, locations, and the collaborator's maps."""
    generator = torch.Generator().manual_seed(0)
    locations = SIDE * torch.rand(cells, 2, generator=generator)
    axis = torch.arange(WINDOW) + 0.5 - WINDOW / 2
    disc = (12 - torch.hypot(axis[:, None], axis)) / 2
    logits = disc + torch.randn(cells, WINDOW, WINDOW, generator=generator)
    foreground, border = torch.rand(2, SIDE, SIDE, generator=generator)
    origin = locations.floor().long() - WINDOW // 2
    return logits.requires_grad_(), origin, locations, foreground.requires_grad_(), border.requires_grad_()


def ours(given: Inputs) -> dict[str, Tensor]:
    """The project's losses."""
    logits, origin, locations, foreground, border = given
    windows = Windows(origin.new_zeros(len(origin)), origin, WINDOW, (1, SIDE, SIDE))
    made = foreground_of_instances(logits, windows, locations=locations, prior_px=PRIOR_PX, prior_weight=PRIOR_WEIGHT)
    probs = logits.sigmoid()
    return {
        "foreground": ForegroundSharingLoss()(foreground[None], made),
        "instances": InstanceSharingLoss()(logits, windows, foreground[None]),
        "border": BorderSharingLoss()(border[None], probs, windows),
        "collapse": CollapseLoss()(probs, windows),
    }


def dense_losses(given: Inputs) -> dict[str, Tensor]:
    """The reference's."""
    return dense_sharing_losses(*given, prior_px=PRIOR_PX, prior_weight=PRIOR_WEIGHT)


if __name__ == "__main__":
    for row in run():
        print(row)
