# SPDX-License-Identifier: Apache-2.0
"""An iteration of EUGMT beside a supervised one, and what taking each student's gradient at once saves."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.memory import peak_mb

BATCH, SIZE = 4, 128
ROUNDS = 3
FORWARDS = 11


def run() -> list[dict[str, Any]]:
    """Two rows: time as a multiple of a supervised iteration's; memory with groups and with all terms together."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        seconds, forwards = pool.apply(_seconds)
        groups, together = (pool.apply(_megabytes, (kind,)) for kind in ("groups", "together"))
    size = f"{BATCH} + {BATCH} of {SIZE}x{SIZE}, DeepLabV3+ on ResNet-50"
    assert forwards == FORWARDS, forwards
    return [
        {
            "what": "EUGMT iteration as a multiple of a supervised one of one student",
            "size": size,
            "ours_s": seconds["eugmt"],
            "reference_s": seconds["supervised"],
            "ratio": seconds["eugmt"] / seconds["supervised"],
            "forwards": float(forwards),
        },
        {
            "what": "EUGMT iteration, gradient of each student at once, against all terms together",
            "size": size,
            "ours_s": groups[1],
            "reference_s": together[1],
            "ratio": together[1] / groups[1],
            "ours_mb": groups[0],
            "reference_mb": together[0],
        },
    ]


def _iterations(kind: str) -> tuple[Any, list[int]]:
    """A function that does one iteration, and the list that its forwards are counted in."""
    import torch
    from monai.engines import SupervisedTrainer
    from monai.losses import DiceLoss
    from monai.utils import set_determinism

    from monai_ext.engines import EUGMTStep
    from monai_ext.handlers import MeanTeacher
    from monai_ext.losses import MaskedConsistencyLoss
    from monai_ext.networks import DeepLabV3Plus

    class Together(EUGMTStep):
        """All terms of an update in one graph, as most public code has it."""

        def passes(self, batch: Mapping[str, Any]) -> Iterator[Any]:
            for groups in super().passes(batch):
                merged: dict[str, Any] = {}
                for group in groups:
                    for name, term in group.items():
                        merged[name] = merged.get(name, 0) + term
                yield merged

    set_determinism(0)
    names = ("a",) if kind == "supervised" else ("a", "b")
    students = {name: DeepLabV3Plus() for name in names}
    teacher = MeanTeacher(students)
    terms = ["supervised"]
    if kind != "supervised":
        terms += ["cross_pseudo", "mean_teacher", "consistency"]
        terms += ["mixed_supervised", "mixed_cross_pseudo", "mixed_mean_teacher"]
    step = (Together if kind == "together" else EUGMTStep)(
        students=students,
        teacher=teacher.teacher,
        supervision=DiceLoss(to_onehot_y=True, softmax=True),
        consistency=MaskedConsistencyLoss(),
        weights=dict.fromkeys(terms, 1.0),
    )
    batch = {
        key: torch.rand(BATCH, 3, SIZE, SIZE) for key in ("image", "strong", "unlabeled", "strong_a", "strong_b")
    } | {"label": (torch.rand(BATCH, 1, SIZE, SIZE) > 0.8).long()}
    counted: list[int] = []
    for network in (*students.values(), teacher.teacher):
        network.register_forward_hook(lambda *_: counted.append(1))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=students["a"],
        optimizer=torch.optim.AdamW([p for s in students.values() for p in s.parameters()], lr=1e-4),
        loss_function=None,
        iteration_update=step,
        train_handlers=[] if kind == "supervised" else [teacher],
        decollate=False,
    )

    def iterate() -> None:
        counted.clear()
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    return iterate, counted


def _seconds() -> tuple[dict[str, float], int]:
    tasks = {kind: _iterations(kind) for kind in ("eugmt", "supervised")}
    measured: dict[str, list[float]] = {kind: [] for kind in tasks}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for kind, (iterate, _) in tasks.items():
            start = time.perf_counter()
            iterate()
            measured[kind].append(time.perf_counter() - start)
    return {kind: min(values[1:]) for kind, values in measured.items()}, len(tasks["eugmt"][1])


def _megabytes(kind: str) -> tuple[float, float]:
    iterate, _ = _iterations(kind)
    start = time.perf_counter()
    megabytes = peak_mb(iterate)
    return megabytes, time.perf_counter() - start
