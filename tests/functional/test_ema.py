# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.functional.ema import average_, warmed_up_decay


def test_warm_up_by_hand():
    assert [warmed_up_decay(step, decay=0.99) for step in (0, 1, 3, 98, 99, 1000)] == pytest.approx(
        [0, 0.5, 0.75, 98 / 99, 0.99, 0.99]
    )
    assert warmed_up_decay(5, decay=0.2) == 0.2


def test_warm_up_is_the_plain_mean():
    values, average = torch.randn(50, dtype=torch.float64), torch.full((1,), 1e6, dtype=torch.float64)
    for step, value in enumerate(values):
        average_([average], [[value[None]]], weights=[1.0], decay=warmed_up_decay(step, decay=1.0))
    assert average.item() == pytest.approx(values.mean().item())


def test_a_constant_source():
    average, source = torch.tensor([3.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    for _ in range(7):
        average_([average], [[source]], weights=[1.0], decay=0.9)
    assert average.item() == pytest.approx(0.9**7 * 3 + (1 - 0.9**7) * 1)


def test_several_weighted_sources_against_the_equation():
    generator = torch.Generator().manual_seed(0)
    average, *sources = torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    weights = [0.5, 0.3, 0.2]
    expected = 0.7 * average + 0.3 * sum(w * s for w, s in zip(weights, sources, strict=True))
    average_([average], [[s] for s in sources], weights=weights, decay=0.7)
    assert torch.allclose(average, expected, rtol=0, atol=1e-15)


def test_the_ends_are_exact_and_sources_stay():
    average, source = torch.randn(9), torch.randn(9)
    old, kept = average.clone(), source.clone()
    average_([average], [[source]], weights=[1.0], decay=1.0)
    assert torch.equal(average, old)
    average_([average], [[source]], weights=[1.0], decay=0.0)
    assert torch.equal(average, source)
    assert torch.equal(source, kept)


def test_unequal_lists_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        average_([torch.zeros(1)], [[torch.zeros(1)], []], weights=[0.5, 0.5], decay=0.5)
