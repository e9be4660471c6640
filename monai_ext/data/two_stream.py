# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images side by side, and the choice of which are labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

Entry = dict[str, Any]


class TwoStreamDataset(Dataset):
    """One item of each of two data sets, as one dictionary; the shorter data set is repeated as long as needed.

    Item i holds labelled item i and unlabelled item i, each modulo its number, so an epoch sees every unlabelled image
    once and every labelled one equally often but for the remainder. Shuffle in the ``DataLoader``: which images meet in
    a batch then changes, and nothing here is random.

    Args:
        labeled: gives dictionaries, for example of ``image`` and ``label``.
        unlabeled: gives dictionaries, some of whose keys are renamed.
        rename: keys of unlabelled items to their names in the joint dictionary.

    Raises:
        ValueError: one of the data sets is empty.
        KeyError: from an item, where both data sets give a key.
    """

    def __init__(
        self, labeled: Sequence[Entry], unlabeled: Sequence[Entry], rename: Mapping[str, str] | None = None
    ) -> None:
        if not len(labeled) or not len(unlabeled):
            raise ValueError(f"found {len(labeled)} labelled and {len(unlabeled)} unlabelled images, expected some.")
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.rename = {"image": "unlabeled"} if rename is None else dict(rename)

    def __len__(self) -> int:
        return max(len(self.labeled), len(self.unlabeled))

    def __getitem__(self, index: int) -> Entry:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        joint = dict(self.labeled[index % len(self.labeled)])
        for key, value in self.unlabeled[index % len(self.unlabeled)].items():
            name = self.rename.get(key, key)
            if name in joint:
                raise KeyError(f"Labelled and unlabelled images both give {name!r}: rename it.")
            joint[name] = value
        return joint


def labeled_fraction(
    entries: Sequence[Mapping[str, Any]], *, fraction: float, seed: int, at_least: int = 2
) -> tuple[list[Entry], list[Entry]]:
    """Draw the images that are labelled, by whole groups; the rest lose their labels.

    Groups are taken in random order; one that would overshoot the wanted number of images, which is rounded up, by
    more than leaving it out would fall short is passed over. Where that leaves fewer than ``at_least``, the smallest
    groups are added.

    Args:
        entries: of a datalist; an entry without ``group`` is a group of its own.
        fraction: share of the images to label, in (0, 1].
        seed: of the draw.
        at_least: least number of labelled images, however small the fraction.

    Returns:
        labelled and unlabelled entries, each in the order of ``entries``; the latter without ``label``.

    Raises:
        ValueError: a fraction out of range, or fewer entries than ``at_least``.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: found {fraction}, expected a number above 0 and at most 1.")
    if len(entries) < at_least:
        raise ValueError(f"entries: found {len(entries)} images, expected at least {at_least}.")
    groups: dict[Any, list[int]] = {}
    for number, entry in enumerate(entries):
        groups.setdefault(entry.get("group", (number,)), []).append(number)
    wanted = max(at_least, math.ceil(fraction * len(entries) - 1e-9))
    chosen: set[int] = set()
    members = list(groups.values())
    order = [members[n] for n in np.random.default_rng(seed).permutation(len(groups))]
    for group in order:
        missing = wanted - len(chosen)
        if len(group) - missing < missing:
            chosen.update(group)
    for group in sorted(order, key=len):  # where every group is larger than what is wanted
        if len(chosen) < at_least:
            chosen.update(group)
    labeled = [dict(entry) for number, entry in enumerate(entries) if number in chosen]
    rest = [{k: v for k, v in e.items() if k != "label"} for n, e in enumerate(entries) if n not in chosen]
    return labeled, rest
