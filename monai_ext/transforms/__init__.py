# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms for sparse labels and for views of one image."""

from monai_ext.transforms.cells import LocationsFromInstancesd, PointsToLocationsd, RescaleToCelld
from monai_ext.transforms.colour import ThreeChannelsd, ToRGBd
from monai_ext.transforms.hover import HoVerTargetd
from monai_ext.transforms.instances import LabelMapToMasksd, MasksToTargetd
from monai_ext.transforms.seeds import ExpandSeedsd, ValidRegiond
from monai_ext.transforms.strong import StrongPhotometricd

__all__ = [
    "ExpandSeedsd",
    "HoVerTargetd",
    "LabelMapToMasksd",
    "LocationsFromInstancesd",
    "MasksToTargetd",
    "PointsToLocationsd",
    "RescaleToCelld",
    "StrongPhotometricd",
    "ThreeChannelsd",
    "ToRGBd",
    "ValidRegiond",
]
