# SPDX-License-Identifier: Apache-2.0
"""The value that marks a voxel nobody labelled, shared by the transforms that write it and the losses that skip it."""

from __future__ import annotations

UNLABELLED = 255
"""Value of an unlabelled voxel in a partial label map; 0 is background, 1, 2, ... are the classes."""
