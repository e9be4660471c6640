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


def _moved(drawn):
    return lambda *size, device=None, **kwargs: drawn(*size, **kwargs).to(device or "cpu")
