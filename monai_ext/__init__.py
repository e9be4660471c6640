# SPDX-License-Identifier: Apache-2.0

"""Frugal: MONAI bundles for segmentation with few labels, and the package they share."""

__version__ = "0.1.0"
