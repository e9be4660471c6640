# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that turn seven clicks per object into a partial label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.functional.geodesic import checked_weight
from monai_ext.functional.points import group_points
from monai_ext.functional.seed_expansion import ObjectDistance, object_distance, threshold_distances

FOREGROUND_LETTER = "F"


class ExpandSeedsd(MapTransform):
    r"""Expand the clicks of each object to a partial label map (Zhai et al., IEEE TMI 2023, Eq. 1 and 2).

    Reads the image (channels, \*S), the points on its grid (``points_key``: float (N, D) voxel coordinates,
    its ``_label``: F, L, R, A, P, I, S with an optional instance suffix) and, where present, the valid region
    (1, \*S). Writes a uint8 ``MetaTensor`` (1, \*S) with the image's affine: 0 background, 1 foreground, 255
    unlabelled. The points are removed, as nothing keeps them on the grid from here on.

    Place it after the last change of grid that reads the points and after ``NormalizeIntensityd``; the distance
    depends on the scale of the intensities. No randomness.

    Args:
        keys: the image; one key.
        output_key: where the partial label map goes.
        points_key: where the positions are; their labels are at this key with ``_label`` appended.
        valid_key: where the valid region is; None or an absent key means everywhere.
        channel: the channel of the image that distances are measured on.
        epsilon: degree of expansion, from 0 to 1.
        cost: edge cost, see :func:`~monai_ext.functional.geodesic.geodesic_distance`.
        spatial_weight: weight of the step length in the cost; None takes the cost's default.

    Raises:
        ValueError: for more than one key or an option out of range.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        output_key: str = "seeds",
        points_key: str = "points",
        valid_key: str | None = "valid",
        *,
        channel: int = 0,
        epsilon: float = 0.2,
        cost: str = "gradient",
        spatial_weight: float | None = None,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys: found {self.keys}, expected the key of one image.")
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon: found {epsilon}, expected a number from 0 to 1.")
        self.output_key = output_key
        self.points_key = points_key
        self.points_label_key = f"{points_key}_label"
        self.valid_key = valid_key
        self.channel = channel
        self.epsilon = epsilon
        self.cost = cost
        self.spatial_weight = checked_weight(cost, spatial_weight)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a shallow copy of ``data`` with the partial label map and without the points.

        Raises:
            ValueError: naming the image, for points that are missing, outside the image or enclose nothing.
            TypeError: where the image carries no affine.
        """
        out = dict(data)
        image = out[self.keys[0]]
        distances = self.distances(out)
        seeds = threshold_distances(distances, tuple(image.shape[1:]), epsilon=self.epsilon)
        out[self.output_key] = _on_grid_of(image, seeds)
        del out[self.points_key], out[self.points_label_key]
        return out

    def distances(self, data: Mapping[Hashable, Any]) -> list[ObjectDistance]:
        """Distance map of each object of one case, to which any epsilon may then be applied."""
        key = self.keys[0]
        image = data[key]
        if not isinstance(image, MetaTensor):
            raise TypeError(f"{key}: found {type(image).__name__}, expected a MetaTensor that knows its voxel size.")
        name = image.meta.get("filename_or_obj", key)
        valid = data.get(self.valid_key) if self.valid_key is not None else None
        try:
            return [
                object_distance(
                    np.asarray(image[self.channel]),
                    *clicks,
                    cost=self.cost,
                    spacing=[float(size) for size in image.pixdim[: image.ndim - 1]],
                    spatial_weight=self.spatial_weight,
                    valid=None if valid is None else np.asarray(valid[0]),
                )
                for clicks in clicks_per_object(data[self.points_label_key], data[self.points_key])
            ]
        except ValueError as error:
            raise ValueError(f"{name} ({self.points_key}): {error}") from error


class ValidRegiond(MapTransform):
    r"""Write the valid image region Omega_M, uint8 (1, \*S), 1 where a voxel may belong to an object.

    Place it before any padding: padded voxels would count as valid, or change the minimum.

    Args:
        keys: the image; one key.
        output_key: where the region goes.
        mode: ``"all"``: every voxel; ``"above_minimum"``: voxels brighter than the darkest one, for skull-stripped
            images such as BraTS. Elsewhere the darkest value may occur inside an object.
        channel: the channel of the image that ``"above_minimum"`` looks at.

    Raises:
        ValueError: for an unknown mode or more than one key.
    """

    def __init__(
        self, keys: KeysCollection = "image", output_key: str = "valid", mode: str = "all", *, channel: int = 0
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys: found {self.keys}, expected the key of one image.")
        if mode not in ("all", "above_minimum"):
            raise ValueError(f"mode: found {mode!r}, expected 'all' or 'above_minimum'.")
        self.output_key = output_key
        self.mode = mode
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a shallow copy of ``data`` with the valid region."""
        out = dict(data)
        image = out[self.keys[0]]
        values = np.asarray(image[self.channel])
        valid = np.ones(values.shape, dtype=bool) if self.mode == "all" else values > values.min()
        out[self.output_key] = _on_grid_of(image, valid.astype(np.uint8))
        return out


def clicks_per_object(labels: Sequence[str], positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Foreground point (D,) and background points (2 D, D) of each object, in order of first appearance.

    Raises:
        ValueError: where an object lacks its foreground point or has other than two background points per axis.
    """
    clicks = []
    needed = 2 * positions.shape[1]
    for instance, by_letter in group_points(labels, positions).items():
        foreground = by_letter.pop(FOREGROUND_LETTER, None)
        if foreground is None or len(by_letter) != needed:
            found = ", ".join(by_letter if foreground is None else [FOREGROUND_LETTER, *by_letter])
            raise ValueError(
                f"object {instance or '1'}: found points {found}, expected {FOREGROUND_LETTER} and {needed} others."
            )
        clicks.append((foreground, np.stack(list(by_letter.values()))))
    return clicks


def _on_grid_of(image: torch.Tensor, values: np.ndarray) -> MetaTensor:
    """Channel-first ``MetaTensor`` of a spatial array with the affine and the file name of ``image``."""
    tensor = torch.from_numpy(values)[None]
    if not isinstance(image, MetaTensor):
        return MetaTensor(tensor)
    meta = {key: image.meta[key] for key in ("filename_or_obj",) if key in image.meta}
    return MetaTensor(tensor, affine=image.affine.clone(), meta=meta)
