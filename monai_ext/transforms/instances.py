# SPDX-License-Identifier: Apache-2.0
"""Instances as what a detector learns from: from label maps to masks, from masks to its target."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor
from torchvision.ops import masks_to_boxes


class LabelMapToMasksd(MapTransform):
    """Take a label map apart into a mask an instance, all of one class.

    ``masks`` becomes bool (N, X, Y), by rising number, and ``classes`` int64 (N,); N may be 0.

    Args:
        keys: key of the label map (1, X, Y), 0 is background; it is taken out.
        class_number: of every instance.

    Raises:
        ValueError: more than one channel.
    """

    def __init__(self, keys: KeysCollection = "label", *, class_number: int = 1) -> None:
        super().__init__(keys)
        self.class_number = class_number

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with masks and classes."""
        out = dict(data)
        labels: Tensor = torch.as_tensor(out.pop(self.keys[0])).as_subclass(torch.Tensor)
        if labels.ndim != 3 or len(labels) != 1:
            raise ValueError(f"{self.keys[0]}: found shape {tuple(labels.shape)}, expected a label map (1, X, Y).")
        numbers = labels.unique()
        numbers = numbers[numbers > 0]
        out["masks"] = labels == numbers[:, None, None]
        out["classes"] = torch.full((len(numbers),), self.class_number, dtype=torch.int64)
        return out


class MasksToTargetd(MapTransform):
    """Gather masks and classes as a detector's target; what a crop left too little of goes.

    ``target`` becomes ``{"boxes": float32 (M, 4), "labels": int64 (M,), "masks": bool (M, X, Y)}`` with torchvision's
    boxes ``x1, y1, x2, y2``, whose x counts along the last axis; a box ends behind its last pixel, so that a mirrored
    picture has exactly mirrored boxes. M may be 0.

    Args:
        keys: key of the masks, (N, X, Y).
        classes_key: key of the classes, int64 (N,).
        target_key: where the target goes; masks and classes are taken out.
        smallest_px: instances of fewer pixels are left out.
    """

    def __init__(
        self,
        keys: KeysCollection = "masks",
        *,
        classes_key: str = "classes",
        target_key: str = "target",
        smallest_px: int = 10,
    ) -> None:
        super().__init__(keys)
        if smallest_px < 1:
            raise ValueError(f"smallest_px: found {smallest_px}, expected 1 or more.")
        self.classes_key = classes_key
        self.target_key = target_key
        self.smallest_px = smallest_px

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the target."""
        out = dict(data)
        masks: Tensor = torch.as_tensor(out.pop(self.keys[0])).as_subclass(torch.Tensor) > 0
        classes: Tensor = torch.as_tensor(out.pop(self.classes_key))
        kept = masks.flatten(1).sum(1) >= self.smallest_px
        masks, classes = masks[kept], classes[kept]
        boxes = masks_to_boxes(masks).float()
        boxes[:, 2:] += 1
        out[self.target_key] = {"boxes": boxes, "labels": classes, "masks": masks}
        return out
