# SPDX-License-Identifier: Apache-2.0
"""Pictures of cells brought to one cell size, and the cells in them as locations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, Zoom
from monai.utils import TraceKeys

from monai_ext.functional.instances import centroids

MODES = {"image": "bilinear", "label": "nearest-exact"}


class RescaleToCelld(MapTransform, InvertibleTransform):
    """Zoom pictures so that cells have about one diameter, which windows and distances of a method are chosen for.

    The factor of an entry is its ``rescale``, if it has one; else ``cell_px`` divided by its ``diameter_px``, or by the
    argument of that name; else 1. It comes from what a person sees at a glance, not from masks.

    Args:
        keys: pictures (C, X, Y), and label maps.
        cell_px: diameter wanted, in px; None leaves entries without ``rescale`` as they are.
        diameter_px: diameter of the cells in entries that do not say their own.
        modes: of interpolation, one for each key; ``nearest-exact`` for label maps.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: a factor that is not above 0.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        cell_px: float | None = None,
        diameter_px: float | None = None,
        modes: tuple[str, ...] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cell_px = cell_px
        self.diameter_px = diameter_px
        self.modes = modes or tuple(MODES.get(str(key), "bilinear") for key in self.keys)

    def factor_of(self, data: Mapping[Hashable, Any]) -> float:
        """How much an entry is enlarged."""
        if data.get("rescale") is not None:
            factor = float(data["rescale"])
        else:
            diameter = self.diameter_px if data.get("diameter_px") is None else data["diameter_px"]
            if diameter is not None and not float(diameter) > 0:
                raise ValueError(f"diameter_px: found {diameter}, expected a number above 0.")
            factor = 1.0 if diameter is None or self.cell_px is None else self.cell_px / float(diameter)
        if not factor > 0:
            raise ValueError(f"found a rescaling factor of {factor}, expected one above 0.")
        return factor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the pictures zoomed."""
        out = dict(data)
        factor = self.factor_of(out)
        for key, mode in self.key_iterator(out, self.modes):
            out[key] = self._zoom(factor, mode)(out[key])
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undone by MONAI's record of the zoom."""
        out = dict(data)
        for key, mode in self.key_iterator(out, self.modes):
            zoom = self._zoom(1.0, mode)  # another one than did it, which MONAI's check would refuse
            done = zoom.pop_transform(out[key], check=False)
            info = done[TraceKeys.EXTRA_INFO]
            if info["mode"] == "nearest":  # as Invertd has it for label maps, half a pixel off on average
                done = {**done, TraceKeys.EXTRA_INFO: {**info, "mode": "nearest-exact"}}
            out[key] = zoom.inverse_transform(out[key], done)
        return out

    @staticmethod
    def _zoom(factor: float, mode: str) -> Zoom:
        return Zoom(factor, mode=mode, keep_size=False)


class PointsToLocationsd(MapTransform):
    """Points of cells as a network wants them: those in the picture, as locations in px with the corner origin.

    ``data["locations"]`` becomes float32 (N, 2), and ``data["prior_px"]`` float32 (N,), the cells' expected size: the
    entry's own or the default, in px of the picture as it is now.

    Args:
        keys: points (N, 2) in array indices, as :class:`monai_ext.data.LoadPointsd` leaves them.
        image_key: picture (C, X, Y) that they lie on.
        prior_px: of entries that do not say their own.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection = "points",
        image_key: str = "image",
        *,
        prior_px: float = 20.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.prior_px = prior_px

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with both."""
        out = dict(data)
        for key in self.key_iterator(out):
            locations = torch.as_tensor(np.asarray(out[key]), dtype=torch.float32) + 0.5
            size = torch.tensor(out[self.image_key].shape[1:])
            locations = locations[((locations >= 0) & (locations < size)).all(1)]
            out["locations"] = locations
            out["prior_px"] = torch.full((len(locations),), float(out.get("prior_px", self.prior_px)))
        return out


class LocationsFromInstancesd(MapTransform):
    """Cells of a label map as locations, for training with masks.

    ``data["locations"]`` becomes float32 (N, 2), the centres of mass moved into the cells, in px with the corner
    origin; ``data["numbers"]`` int64 (N,), each cell's number in the map.

    Args:
        keys: label map (1, X, Y).
        min_px: cells with fewer pixels in the picture, as a crop may leave, are left out.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection = "label", *, min_px: int = 10, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_px = min_px

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with both."""
        out = dict(data)
        for key in self.key_iterator(out):
            label = np.rint(np.asarray(out[key])[0]).astype(np.int64)
            numbers, positions = centroids(label, inside=True)
            wanted = np.bincount(label.ravel())[numbers] >= self.min_px
            out["locations"] = torch.as_tensor(positions[wanted] + 0.5, dtype=torch.float32)
            out["numbers"] = torch.as_tensor(numbers[wanted])
        return out
