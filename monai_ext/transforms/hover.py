# SPDX-License-Identifier: Apache-2.0
"""What HoVer-Net should answer for a label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import ComputeHoVerMaps, MapTransform
from monai.utils.enums import HoVerNetBranch
from skimage.measure import label as connected_pieces


class HoVerTargetd(MapTransform):
    """What HoVer-Net should answer for a label map, which it replaces.

    ``target`` becomes ``{"nucleus_prediction": (2, t, t), "horizontal_vertical": (2, t, t)}``, float32, of the t x t
    pixels in the middle: background and nucleus as 0 and 1; and from -1 to 1 where a pixel lies in its nucleus along
    the last and the first axis, counted from the centre of mass, 0 on background. The maps are made of all that the
    label shows, so that what reaches beyond the middle keeps its centre.

    Each connected piece of a number counts as a nucleus: mirrors double some, and a crop may cut one in two.

    Args:
        keys: key of the label map (1, X, Y), 0 is background; it is taken out.
        answer_px: t.
        target_key: where the target goes.

    Raises:
        ValueError: another shape, or one smaller than the answer.
    """

    def __init__(self, keys: KeysCollection = "label", *, answer_px: int, target_key: str = "target") -> None:
        super().__init__(keys)
        self.answer_px, self.target_key = answer_px, target_key
        self.maps_of = ComputeHoVerMaps()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the target."""
        out = dict(data)
        labels = np.asarray(out.pop(self.keys[0]))
        if labels.ndim != 3 or len(labels) != 1 or min(labels.shape[1:]) < self.answer_px:
            expected = f"a label map (1, X, Y) of {self.answer_px} px or more"
            raise ValueError(f"{self.keys[0]}: found shape {labels.shape}, expected {expected}.")
        first, second = ((side - self.answer_px) // 2 for side in labels.shape[1:])
        middle = (slice(None), slice(first, first + self.answer_px), slice(second, second + self.answer_px))
        pieces = connected_pieces(labels[0])[None]
        nuclei = torch.from_numpy(pieces[middle] > 0)
        maps = torch.as_tensor(self.maps_of(pieces)).as_subclass(torch.Tensor)[middle]
        out[self.target_key] = {
            HoVerNetBranch.NP.value: torch.cat([~nuclei, nuclei]).float(),
            HoVerNetBranch.HV.value: maps.contiguous(),
        }
        return out
