# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms for sparse labels and for views of one image."""

from monai_ext.transforms.colour import ToRGBd
from monai_ext.transforms.seeds import ExpandSeedsd, ValidRegiond
from monai_ext.transforms.strong import StrongPhotometricd

__all__ = ["ExpandSeedsd", "StrongPhotometricd", "ToRGBd", "ValidRegiond"]
