# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.data.turn_sampler import TurnSampler


def test_a_part_for_some_epochs_then_the_next():
    sampler = TurnSampler([0, 1, 0, 1, 2, 2, 0, 1, 2], turn_of=lambda epoch: epoch // 2 % 3)
    seen = []
    for epoch in range(7):
        sampler.set_epoch(epoch)
        seen.append(sorted(sampler))
    parts = [[0, 2, 6], [1, 3, 7], [4, 5, 8]]
    assert seen == [parts[0]] * 2 + [parts[1]] * 2 + [parts[2]] * 2 + [parts[0]]
    assert len(sampler) == 3


def test_the_order_follows_torchs_generator():
    sampler, orders = TurnSampler([0] * 30, turn_of=lambda _: 0), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(30))


def test_an_epoch_of_several_passes():
    torch.manual_seed(0)
    sampler = TurnSampler([0, 1] * 10, turn_of=lambda _: 1, passes=3)
    seen = list(sampler)
    assert len(seen) == len(sampler) == 30
    passes = [seen[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(one) == list(range(1, 20, 2)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("parts", [[0, 0, 1], [1], []])
def test_parts_of_different_sizes(parts):
    with pytest.raises(ValueError, match="parts: found"):
        TurnSampler(parts, turn_of=lambda _: 0)


def test_no_pass():
    with pytest.raises(ValueError, match="passes: found 0"):
        TurnSampler([0], turn_of=lambda _: 0, passes=0)
