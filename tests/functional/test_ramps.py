# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from monai_ext.functional.ramps import sigmoid_ramp


def test_sigmoid_ramp_by_hand():
    assert sigmoid_ramp(0, peak=2.0, length=30) == pytest.approx(2 * math.exp(-5))
    assert sigmoid_ramp(15, peak=2.0, length=30) == pytest.approx(2 * math.exp(-1.25))
    assert sigmoid_ramp(30, peak=2.0, length=30) == 2.0


def test_ramps_rise_then_stay_and_are_clipped_below_zero():
    values = [sigmoid_ramp(e / 2, peak=0.3, length=5) for e in range(-4, 20)]
    assert values == sorted(values)
    assert values[0] == sigmoid_ramp(0, peak=0.3, length=5) < values[6]
    assert values[14:] == [0.3] * len(values[14:])


def test_length_zero_is_the_peak_and_a_negative_one_an_error():
    assert sigmoid_ramp(0, peak=0.3, length=0) == 0.3
    with pytest.raises(ValueError, match="0 or more epochs, found -1"):
        sigmoid_ramp(0, length=-1)
