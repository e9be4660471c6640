# SPDX-License-Identifier: Apache-2.0
"""Instances of a COCO file as part of a MONAI pipeline, and batches of pictures with different numbers of them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import MapTransform

from monai_ext.data.coco import CocoReader


class _FromCocod(MapTransform):
    """Looks pictures up in a COCO file.

    Args:
        keys: key of the picture's path.
        annotations: the COCO file.
        dataset_dir: folder that the file's names are relative to; where a name is not found so, it is looked up
            without folders.
    """

    def __init__(
        self, keys: KeysCollection, annotations: str | PathLike[str], *, dataset_dir: str | PathLike[str] = "."
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys: found {self.keys}, expected the picture's alone.")
        self.reader = CocoReader(annotations)
        self.dataset_dir = os.path.abspath(dataset_dir)

    def name_of(self, data: Mapping[Hashable, Any]) -> str:
        """The picture's name relative to the data set."""
        return Path(os.path.relpath(str(data[self.keys[0]]), self.dataset_dir)).as_posix()

    def classes_of(self, name: str) -> torch.Tensor:
        """Category of each of a picture's instances, int64 (N,)."""
        return torch.tensor([int(one["category_id"]) for one in self.reader.annotations(name)], dtype=torch.int64)


class LoadInstancesd(_FromCocod):
    """Read the instances of a picture from a COCO file, to learn from.

    It stands before ``LoadImaged``, as it looks the picture up by its path. ``masks`` becomes a uint8 ``MetaTensor``
    (N, X, Y), one channel an instance, on the grid that MONAI's PILReader gives the picture (columns first), so that
    spatial transforms take it along with ``mode="nearest"``; ``classes`` is int64 (N,), the category ids. N may be 0.

    Args:
        keys, annotations, dataset_dir: the picture's key, the COCO file, and the folder its names are relative to;
            where a name is not found so, it is looked up without folders.

    Raises:
        DataFault: where the file cannot be read, or names no such picture.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with masks and classes."""
        name = self.name_of(data)
        height, width = self.reader.shape(name)
        classes = self.classes_of(name)
        masks = np.zeros((len(classes), width, height), dtype=np.uint8)
        for place, mask in enumerate(self.reader.masks(name)):
            masks[place] = mask.T
        return {**data, "masks": MetaTensor(torch.from_numpy(masks)), "classes": classes}


class LoadInstanceRunsd(_FromCocod):
    """Read the instances of a picture from a COCO file, to compare with: never unpacked, and on the file's own grid.

    ``label`` becomes ``{"masks": N compressed run lengths, "labels": int64 (N,)}``, as
    :class:`~monai_ext.handlers.ClassInstanceMetricHandler` takes a reference.

    Args:
        keys, annotations, dataset_dir: as in :class:`LoadInstancesd`.

    Raises:
        DataFault: where the file cannot be read, or names no such picture.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the label."""
        name = self.name_of(data)
        return {**data, "label": {"masks": self.reader.run_lengths(name), "labels": self.classes_of(name)}}


def collate_instances(
    items: Sequence[Mapping[str, Any]], *, keys: Sequence[str] = ("target", "label")
) -> dict[str, Any]:
    """MONAI's collation of pictures; what belongs to instances stays a list, one entry a picture.

    Args:
        items: dictionaries with pictures of one size.
        keys: items that stay lists.
    """
    batch: dict[str, Any] = list_data_collate([{k: v for k, v in item.items() if k not in keys} for item in items])
    for key in keys:
        if key in items[0]:
            batch[key] = [item[key] for item in items]
    return batch
