# SPDX-License-Identifier: Apache-2.0
"""Pictures with different numbers of cells in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data.utils import list_data_collate

CELL_KEYS = ("locations", "prior_px", "numbers")
"""Items with one row a cell."""


def collate_cells(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """MONAI's collation of pictures; what has one row a cell is joined, and ``of_image`` says whose each row is.

    Args:
        items: dictionaries with pictures of one size, ``locations`` (N, 2) and perhaps the others of
            :data:`CELL_KEYS`, (N, ...); N differs.

    Returns:
        Pictures (B, C, X, Y); ``locations`` (M, 2) and the like; ``of_image`` int64 (M,).
    """
    rest = [{key: value for key, value in item.items() if key not in CELL_KEYS} for item in items]
    batch: dict[str, Any] = list_data_collate(rest)
    for key in CELL_KEYS:
        if key in items[0]:
            batch[key] = torch.cat([torch.as_tensor(item[key]) for item in items])
    counts = torch.tensor([len(item["locations"]) for item in items])
    batch["of_image"] = torch.arange(len(items)).repeat_interleave(counts)
    return batch
