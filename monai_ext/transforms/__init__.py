# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms for sparse labels."""

from monai_ext.transforms.seeds import ExpandSeedsd, ValidRegiond

__all__ = ["ExpandSeedsd", "ValidRegiond"]
