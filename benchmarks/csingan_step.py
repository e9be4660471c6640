# SPDX-License-Identifier: Apache-2.0
"""An iteration of CSinGAN at its finest scale, against one that resizes and masks on the host."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from benchmarks.memory import peak_mb

ROUNDS = 3
ON_GPU, ON_CPU = (256, 0.75), (128, 0.5)
"""Side of the patch, whose coarsest scale has half of it, and the factor between scales before it is made to fit."""


def run() -> list[dict[str, Any]]:
    """One row: an iteration, three updates of the critics and one of the generator, for one mask."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        size, seconds = pool.apply(_seconds)
        megabytes = {kind: pool.apply(_megabytes, (kind,)) for kind in ("device", "host")}
    return [
        {
            "what": "CSinGAN iteration against one that resizes and masks on the host",
            "size": size,
            "ours_s": seconds["device"],
            "reference_s": seconds["host"],
            "ratio": seconds["host"] / seconds["device"],
            "ours_mb": megabytes["device"],
            "reference_mb": megabytes["host"],
            "iterations_per_s": 1 / seconds["device"],
        }
    ]


def _iterations(kind: str) -> tuple[str, Callable[[], None]]:
    """What it works on, and a function that does one iteration."""
    import torch
    from monai.engines import SupervisedTrainer
    from monai.utils import set_determinism

    from benchmarks.reference.csingan_host import on_host
    from monai_ext.engines import CSinGANStep
    from monai_ext.engines.csingan import Stage
    from monai_ext.losses import WassersteinCriticLoss
    from monai_ext.networks import make_critics, make_generators

    class Finest(CSinGANStep):
        """Trains the last scale from the start."""

        def stage_of(self, epoch: int) -> Stage:
            return Stage(0, len(self.generators[0].sizes) - 1)

    set_determinism(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, factor = ON_GPU if device.type == "cuda" else ON_CPU
    generators = make_generators([(side, side)], smallest_px=side // 2, factor=factor)
    critics = make_critics(generators)
    components = ("global", "foreground", "background")
    step = Finest(
        generators=[network.to(device) for network in generators],
        critics=[[one.to(device) for one in some] for some in critics],
        critic_loss=WassersteinCriticLoss(),
        weights={name: 1.0 for part in components for name in (part, f"critic_{part}")} | {"reconstruction": 10.0},
        epochs_per_scale=10**9,
    )
    mask, real_mask = ((torch.rand(1, 1, side, side) > 0.7).float() for _ in range(2))
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[{"image": torch.rand(1, 3, side, side) * 2 - 1, "mask": mask, "real_mask": real_mask}],
        network=generators[0],
        optimizer=torch.optim.Adam([p for n in (*generators, *critics[0]) for p in n.parameters()], lr=5e-4),
        loss_function=None,
        iteration_update=step,
        decollate=False,
    )

    def iterate() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        with on_host() if kind == "host" else nullcontext():
            trainer.run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return f"{side}x{side}, finest of {len(generators[0].sizes)} scales, {device.type}", iterate


def _seconds() -> tuple[str, dict[str, float]]:
    made = {kind: _iterations(kind) for kind in ("device", "host")}
    measured: dict[str, list[float]] = {kind: [] for kind in made}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for kind, (_, iterate) in made.items():
            start = time.perf_counter()
            iterate()
            measured[kind].append(time.perf_counter() - start)
    return made["device"][0], {kind: min(values[1:]) for kind, values in measured.items()}


def _megabytes(kind: str) -> float:
    return peak_mb(_iterations(kind)[1])
