# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on (seed, epoch) alone, so that a resumed run draws what an unbroken one would."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd


class Reseed:
    """Reseeds Python, NumPy, torch and the data set's random transforms at the start of every epoch.

    Args:
        seed: the run's seed.
        dataset: the training data set; its random transforms are seeded too (with worker processes MONAI's
            ``DataLoader`` seeds them again from torch's generator, which this fixes as well).
        sampler: one that is told the number of finished epochs by its ``set_epoch``.

    The order of shuffling follows from torch's generator. Ranks of a distributed run get different numbers.
    """

    def __init__(self, seed: int, dataset: Any, *, sampler: Any = None) -> None:
        self.seed = seed
        self.dataset = dataset
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = int(np.random.SeedSequence((self.seed, engine.state.epoch, rank)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed=seed)
        if self.sampler is not None:
            self.sampler.set_epoch(engine.state.epoch - 1)
