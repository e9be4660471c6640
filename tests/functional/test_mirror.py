# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from monai_ext.functional.mirror import mirrored_places


@pytest.mark.parametrize(
    ("side", "before", "after"), [(7, 3, 2), (7, 6, 6), (7, 20, 31), (2, 5, 4), (1, 3, 2), (4, 0, 0)]
)
def test_equals_numpys_reflection_however_much_is_added(side, before, after):
    expected = np.pad(np.arange(side), (before, after), mode="reflect")
    assert mirrored_places(side, before=before, after=after).tolist() == expected.tolist()


def test_by_hand():
    assert mirrored_places(3, before=2, after=4).tolist() == [2, 1, 0, 1, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("values", [(0, 1, 1), (3, -1, 0), (3, 0, -1)])
def test_nothing_to_mirror(values):
    with pytest.raises(ValueError, match="side, before, after"):
        mirrored_places(values[0], before=values[1], after=values[2])
