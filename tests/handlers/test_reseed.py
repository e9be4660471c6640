# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandScaleIntensityd

from monai_ext.data import TurnSampler
from monai_ext.handlers.reseed import Reseed


def draws(*, seed=3, start=0, epochs=3):
    """What the data loader and the generators give, epoch by epoch, in a run that starts after ``start`` epochs."""
    data = [{"image": torch.full((1, 2, 2), float(i))} for i in range(4)]
    dataset = Dataset(data, Compose([RandScaleIntensityd(keys="image", factors=0.9, prob=1.0)]))
    loader = DataLoader(dataset, batch_size=1, shuffle=True, num_workers=0)
    seen: dict[int, list] = {}

    def update(engine, batch):
        numbers = (random.random(), np.random.rand(), torch.rand(()).item())
        seen.setdefault(engine.state.epoch, []).append((batch["image"].mean().item(), *numbers))

    engine = Engine(update)
    Reseed(seed, dataset).attach(engine)
    if start:
        from ignite.engine import Events

        def skip(e):
            e.state.epoch, e.state.iteration = start, start * 4

        engine.add_event_handler(Events.STARTED, skip)
    engine.run(loader, max_epochs=epochs)
    return seen


def test_epochs_repeat_and_differ():
    first, again = draws(), draws()
    assert first == again
    assert first[1] != first[2] != first[3]
    assert draws(seed=4)[1] != first[1]


def test_a_run_started_later_draws_what_an_unbroken_one_does():
    assert draws(start=2)[3] == draws()[3]


def test_a_sampler_is_told_before_it_draws():
    dataset = Dataset([{"image": torch.full((1,), float(i))} for i in range(6)])
    sampler = TurnSampler([0, 0, 1, 1, 2, 2], turn_of=lambda epoch: epoch // 2)
    seen: dict[int, set] = {}

    def update(engine, batch):
        seen.setdefault(engine.state.epoch, set()).add(int(batch["image"]))

    engine = Engine(update)
    Reseed(0, dataset, sampler=sampler).attach(engine)
    engine.run(DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=0), max_epochs=5)
    assert list(seen.values()) == [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {4, 5}]
