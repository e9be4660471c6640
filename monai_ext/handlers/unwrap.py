# SPDX-License-Identifier: Apache-2.0
"""The network inside its wrapper for several processes."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

T = TypeVar("T")


def unwrapped(network: T) -> T:
    """The network that a ``DistributedDataParallel`` holds; anything else as it is."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
