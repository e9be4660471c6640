# SPDX-License-Identifier: Apache-2.0
"""Items of one part of a data set after another, a part for several epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TurnSampler(Sampler[int]):
    """Each epoch gives all items of the part whose turn it is, shuffled by torch's generator.

    Args:
        parts: of each item the part that it belongs to, from 0 on; all parts have as many items.
        epochs: of a part's turn. After the last part it is the first one's again.

    Raises:
        ValueError: parts of different sizes, or fewer than one epoch.
    """

    def __init__(self, parts: Sequence[int], *, epochs: int) -> None:
        sizes = Counter(parts)
        if len(set(sizes.values())) != 1 or sorted(sizes) != list(range(len(sizes))):
            raise ValueError(f"parts: found {dict(sorted(sizes.items()))} items, expected as many of each part.")
        if epochs < 1:
            raise ValueError(f"epochs: found {epochs}, expected 1 or more.")
        self.items = [[item for item, part in enumerate(parts) if part == one] for one in range(len(sizes))]
        self.epochs = epochs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says how many epochs are over."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items[0])

    def __iter__(self) -> Iterator[int]:
        items = self.items[self.epoch // self.epochs % len(self.items)]
        return iter([items[place] for place in torch.randperm(len(items)).tolist()])
