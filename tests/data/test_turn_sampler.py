# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.data.turn_sampler import TurnSampler


def test_a_part_for_some_epochs_then_the_next():
    sampler = TurnSampler([0, 1, 0, 1, 2, 2, 0, 1, 2], epochs=2)
    seen = []
    for epoch in range(7):
        sampler.set_epoch(epoch)
        seen.append(sorted(sampler))
    parts = [[0, 2, 6], [1, 3, 7], [4, 5, 8]]
    assert seen == [parts[0]] * 2 + [parts[1]] * 2 + [parts[2]] * 2 + [parts[0]]
    assert len(sampler) == 3


def test_the_order_follows_torchs_generator():
    sampler, orders = TurnSampler([0] * 30, epochs=1), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(30))


def test_parts_of_different_sizes():
    with pytest.raises(ValueError, match=r"parts: found {0: 2, 1: 1} items"):
        TurnSampler([0, 0, 1], epochs=1)
    with pytest.raises(ValueError, match=r"parts: found {1: 1} items"):
        TurnSampler([1], epochs=1)
    with pytest.raises(ValueError, match="epochs: found 0"):
        TurnSampler([0], epochs=0)
