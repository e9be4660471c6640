# SPDX-License-Identifier: Apache-2.0
"""Items of one part of a data set after another, a part for several epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TurnSampler(Sampler[int]):
    """Each epoch gives all items of the part whose turn it is, shuffled by torch's generator.

    Args:
        parts: of each item the part that it belongs to, from 0 on; all parts have as many items.
        turn_of: the part whose turn it is after so many epochs.
        passes: times that an epoch goes over the items, each in an order of its own.

    Raises:
        ValueError: parts of different sizes, or fewer than one pass.
    """

    def __init__(self, parts: Sequence[int], *, turn_of: Callable[[int], int], passes: int = 1) -> None:
        sizes = Counter(parts)
        if len(set(sizes.values())) != 1 or sorted(sizes) != list(range(len(sizes))):
            raise ValueError(f"parts: found {dict(sorted(sizes.items()))} items, expected as many of each part.")
        if passes < 1:
            raise ValueError(f"passes: found {passes}, expected 1 or more.")
        self.items = [[item for item, part in enumerate(parts) if part == one] for one in range(len(sizes))]
        self.turn_of = turn_of
        self.passes = passes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says how many epochs are over."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items[0]) * self.passes

    def __iter__(self) -> Iterator[int]:
        items = self.items[self.turn_of(self.epoch)]
        orders = [torch.randperm(len(items)).tolist() for _ in range(self.passes)]
        return iter([items[place] for order in orders for place in order])
