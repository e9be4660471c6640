# SPDX-License-Identifier: Apache-2.0
"""What lies beyond a picture's border if the border is a mirror."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored_places(side: int, *, before: int, after: int) -> Tensor:
    """Which pixel to show at each place of an axis that is made longer, as far as one likes.

    Mirrors stand on the first and the last pixel, which are not doubled, as in NumPy's ``reflect``. Unlike torch's
    padding it goes on from mirror to mirror where the picture is shorter than what is added to it.

    Args:
        side: pixels of the axis.
        before, after: pixels added at its ends.

    Returns:
        int64 (before + side + after,) with numbers from 0 to ``side`` - 1.

    Raises:
        ValueError: an axis without pixels, or fewer than none to add.
    """
    if side < 1 or before < 0 or after < 0:
        raise ValueError(f"side, before, after: found {side}, {before}, {after}, expected 1, 0 and 0 or more.")
    # There and back again is one period.
    places = torch.arange(-before, side + after) % max(2 * (side - 1), 1)
    return torch.where(places < side, places, 2 * (side - 1) - places)
