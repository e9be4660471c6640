# SPDX-License-Identifier: Apache-2.0
"""What the scripts that make sets of 2-D tiles share: the split by group, files and the data list."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _files import place
from numpy.typing import NDArray
from PIL import Image

SECTIONS = ("training", "validation", "test")


def split_groups(counts: Mapping[str, int], shares: Sequence[float], *, seed: int) -> dict[str, str]:
    """Draw a section for each group (patient, slide or field), so that no group is in two.

    Args:
        counts: number of tiles of each group.
        shares: wanted shares of training, validation and test tiles, adding up to 1; 0 leaves a section empty.
        seed: of the draw.

    Returns:
        Section by group. Groups come in random order; each goes where most tiles are still missing, and each section
        with a share gets one.

    Raises:
        SystemExit: shares that do not add up, or fewer groups than sections.
    """
    if len(shares) != len(SECTIONS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise SystemExit(f"shares: found {list(shares)}, expected {len(SECTIONS)} numbers that add up to 1.")
    if len(counts) < sum(share > 0 for share in shares):
        raise SystemExit(f"found {len(counts)} groups, expected at least one for each section: give more fields.")
    missing = {section: share * sum(counts.values()) for section, share in zip(SECTIONS, shares, strict=True)}
    chosen: dict[str, str] = {}
    names = sorted(counts)
    for turn, number in enumerate(np.random.default_rng(seed).permutation(len(names))):
        empty = [name for name in missing if missing[name] > 0 and name not in chosen.values()]
        wanting = empty if len(names) - turn <= len(empty) else missing  # the last groups go where none is yet
        section = max(wanting, key=lambda name: missing[name])
        chosen[names[number]] = section
        missing[section] -= counts[names[number]]
    return chosen


class TileSetWriter:
    """Writes ``images``, ``labels`` and, at the end, ``datalist.json`` and a short table.

    Args:
        out: folder to write.
        name: the data set's name in the data list.
        labels: name of each class but the background, which is 0.
        copy: copy image files instead of linking them.
    """

    def __init__(self, out: Path, *, name: str, labels: Sequence[str], copy: bool = False) -> None:
        self.out, self.copy = out, copy
        names = {"0": "background", **{str(value): label for value, label in enumerate(labels, start=1)}}
        self.head: dict[str, Any] = {"name": name, "labels": names}
        self.items: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}

    def add(
        self, section: str, stem: str, *, image: Path | NDArray[np.uint8], label: NDArray[Any] | None, group: str
    ) -> None:
        """Write one tile.

        Args:
            section: training, validation, test or another.
            stem: file name without suffix.
            image: a PNG file, linked, or the pixels (H, W, 3).
            label: class of each pixel (H, W), below 256; None for a tile without mask.
            group: its patient, slide or field.
        """
        item = {"image": f"images/{stem}.png", "group": group}
        if isinstance(image, Path):
            place(image, self.out / item["image"], copy=self.copy)
        else:
            _save(image, self.out / item["image"])
        if label is not None:
            item["label"] = f"labels/{stem}.png"
            _save(label.astype(np.uint8), self.out / item["label"])
        self.items.setdefault(section, []).append(item)

    def finish(self) -> None:
        """Write ``datalist.json``, last, so that it names only what exists, and say what was done."""
        path = self.out / "datalist.json"
        path.write_text(json.dumps({**self.head, **{k: v for k, v in self.items.items() if v}}, indent=1) + "\n")
        print(f"{'section':<12}{'tiles':>7}{'groups':>8}{'masks':>7}")
        for section, rows in self.items.items():
            masks = sum("label" in row for row in rows)
            print(f"{section:<12}{len(rows):>7}{len({row['group'] for row in rows}):>8}{masks:>7}")
        print(f"written: {path}")


def _save(array: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never write through a link into the source
    Image.fromarray(array).save(path)
