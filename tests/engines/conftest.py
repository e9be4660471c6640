# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch


@pytest.fixture
def numbers_of_the_cpu(monkeypatch):
    """Every device gets the random numbers of the CPU and rounds as it does, so that steps of both can be compared."""
    for name in ("rand", "randn", "randperm"):
        monkeypatch.setattr(torch, name, _moved(getattr(torch, name)))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def assert_same_on_the_gpu(numbers_of_the_cpu):
    """Takes a function of ``device`` and ``amp`` that trains and gives the last output, and compares the terms."""

    def compare(train, *, amp, **tolerance):
        found = []
        for options in ({"device": "cpu", "amp": False}, {"device": "cuda", "amp": amp}):
            torch.manual_seed(3)
            found.append({name: float(term) for name, term in train(**options)["terms"].items()})
        assert found[1] == pytest.approx(found[0], **tolerance)

    return compare


def _moved(drawn):
    return lambda *size, device=None, **kwargs: drawn(*size, **kwargs).to(device or "cpu")
