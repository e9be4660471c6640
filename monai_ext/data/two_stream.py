# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images side by side, and the choice of which are labelled."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset
from torch.utils.data import Dataset

from monai_ext.data.datalist import entries_of, read_datalist
from monai_ext.data.errors import DataFault, fault

Entry = dict[str, Any]


class TwoStreamDataset(Dataset):
    """One labelled and one unlabelled image as one dictionary; the shorter list is repeated as long as needed.

    Item i holds labelled item i and unlabelled item i, each modulo its number, so an epoch sees every unlabelled image
    once and every labelled one equally often but for the remainder. Shuffle in the ``DataLoader``: which images meet in
    a batch then changes, and nothing here is random but the transforms.

    Args:
        data: labelled entries, for example of ``image`` and ``label``.
        transform: of these.
        unlabeled_data: unlabelled entries.
        unlabeled_transform: of these.
        rename: keys of unlabelled items to their names in the joint dictionary.
        cache_rate: share of either list whose deterministic transforms are done once and kept in memory.
        progress: show a bar while the cache is filled.

    Raises:
        ValueError: one of the lists is empty.
        KeyError: from an item, where both give a key.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable | None = None,
        *,
        unlabeled_data: Sequence[Any],
        unlabeled_transform: Callable | None = None,
        rename: Mapping[str, str] | None = None,
        cache_rate: float = 0.0,
        progress: bool = True,
    ) -> None:
        if not len(data) or not len(unlabeled_data):
            raise ValueError(f"found {len(data)} labelled and {len(unlabeled_data)} unlabelled images, expected some.")
        self.data = data
        self.labeled = CacheDataset(data, transform, cache_rate=cache_rate, progress=progress)
        self.unlabeled = CacheDataset(unlabeled_data, unlabeled_transform, cache_rate=cache_rate, progress=progress)
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
    more than leaving it out would fall short is passed over. Where that leaves fewer than ``at_least``, images of the
    smallest group are added, and what remains of it is left out altogether, so that no group is on both sides.

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
    left_out: set[int] = set()
    for group in sorted(order, key=len):  # where every group is larger than what is wanted
        missing = at_least - len(chosen)
        if missing > 0 and not chosen & set(group):
            chosen.update(group[:missing])
            left_out.update(group[missing:])
    labeled = [dict(entry) for number, entry in enumerate(entries) if number in chosen]
    rest = [_unlabeled(e) for number, e in enumerate(entries) if number not in chosen | left_out]
    return labeled, rest


def draw_labeled(
    datalist: str | Path,
    out: str | Path,
    *,
    fraction: float,
    seed: int,
    at_least: int = 2,
    key: str | None = "label",
) -> dict[str, int]:
    """Write a datalist in which a fraction of the training images is labelled, to learn what few labels are worth.

    Images of ``training`` and ``unlabeled`` that have a ``label`` are drawn from, see :func:`labeled_fraction`; those
    without stay unlabelled. The other sections are kept, and ``drawn`` says how the draw was made.

    Args:
        datalist: the JSON file.
        out: the file to write, with paths relative to the same folder as before.
        fraction: share of the drawn-from images to label, in (0, 1].
        seed: of the draw.
        at_least: least number of labelled images.
        key: what a labelled entry has; None where all have their instances in the datalist's COCO file.

    Returns:
        Number of images in ``training`` and ``unlabeled``.

    Raises:
        DataFault: the datalist cannot be read, or fewer than ``at_least`` images have labels.
        ValueError: a fraction out of range.
    """
    content = read_datalist(datalist)
    sections = [section for section in ("training", "unlabeled") if section in content]
    entries = [entry for section in sections for entry in entries_of(datalist, content, section)]
    pool = [entry for entry in entries if key is None or key in entry]
    if len(pool) < at_least:
        found = f"{len(pool)} of the {len(entries)} training images have a label"
        raise fault(datalist, "training", found=found, expected=f"at least {at_least} to draw from")
    labeled, rest = labeled_fraction(pool, fraction=fraction, seed=seed, at_least=at_least)
    content["training"] = labeled
    content["unlabeled"] = [*rest, *(entry for entry in entries if key is not None and key not in entry)]
    if not content["unlabeled"]:
        del content["unlabeled"]
    content["drawn"] = {"fraction": fraction, "seed": seed, "at_least": at_least}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{out}.{os.getpid()}")  # of each process of a distributed run
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(out)
    return {section: len(content.get(section, [])) for section in ("training", "unlabeled")}


def draw_or_exit(
    datalist: str | Path, out: str | Path, *, fraction: float, seed: int, key: str | None = "label"
) -> dict[str, int]:
    """Do :func:`draw_labeled` for a bundle's ``initialize``: a fault ends the program with its sentence.

    Raises:
        SystemExit: with the sentence, which Python prints without a traceback, and exit status 1.
    """
    try:
        return draw_labeled(datalist, out, fraction=fraction, seed=seed, key=key)
    except (DataFault, ValueError) as error:
        raise SystemExit(str(error)) from None


def _unlabeled(entry: Mapping[str, Any]) -> Entry:
    return {key: value for key, value in entry.items() if key != "label"}
