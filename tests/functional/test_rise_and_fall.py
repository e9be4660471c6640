# SPDX-License-Identifier: Apache-2.0
"""The weight of the unlabelled terms (lambda(t) of MMT-PSM, section 2.4) against both printed forms of it."""

from __future__ import annotations

import itertools
import math

import pytest

from monai_ext.functional.ramps import rise_and_fall

START, RISE, TOTAL, FALL = 1000, 250, 8000, 250
PAPER = {"start": START, "rise": RISE, "total": TOTAL, "fall": FALL}


@pytest.mark.parametrize("t", [1000, 1001, 1100, 1125.5, 1249, 1250])
def test_the_rise_is_that_of_the_paper_and_of_the_released_code(t):
    found = rise_and_fall(t, **PAPER)
    assert found == pytest.approx(math.exp(-125 * (1 - t / 1250) ** 2), rel=1e-12)
    assert found == pytest.approx(math.exp(-5 * (1 - (t - 1000) / 250) ** 2), rel=1e-12)


def test_both_forms_of_the_rise_agree_at_every_iteration():
    for t in range(1001, 1250):
        assert abs(rise_and_fall(t, **PAPER) - math.exp(-125 * (1 - t / 1250) ** 2)) < 1e-12


@pytest.mark.parametrize("t", [TOTAL - 250, TOTAL - 249, TOTAL - 125, TOTAL - 0.5, TOTAL])
def test_the_fall_is_that_of_the_paper(t):
    assert rise_and_fall(t, **PAPER) == pytest.approx(math.exp(-12 * (1 - (TOTAL - t) / 250) ** 2), rel=1e-12)


def test_values_by_hand():
    assert rise_and_fall(0, **PAPER) == rise_and_fall(999.9, **PAPER) == 0
    assert rise_and_fall(1000, **PAPER) == pytest.approx(math.exp(-5))
    assert rise_and_fall(1125, **PAPER) == pytest.approx(math.exp(-1.25))
    assert rise_and_fall(1250, **PAPER) == rise_and_fall(4000.5, **PAPER) == rise_and_fall(TOTAL - 250, **PAPER) == 1
    assert rise_and_fall(TOTAL - 125, **PAPER) == pytest.approx(math.exp(-3))
    assert rise_and_fall(TOTAL, **PAPER) == pytest.approx(math.exp(-12))


@pytest.mark.parametrize("corner", [1250, TOTAL - 250])
def test_continuous_where_the_pieces_meet(corner):
    for step in (1e-3, 1e-6):
        assert abs(rise_and_fall(corner - step, **PAPER) - 1) < step
        assert abs(rise_and_fall(corner + step, **PAPER) - 1) < step


def test_never_falls_before_the_plateau_and_never_rises_after_it():
    values = [rise_and_fall(t, **PAPER) for t in range(0, TOTAL + 1, 5)]
    peak = values.index(1)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert all(0 <= value <= 1 for value in values)


def test_times_in_other_units_give_the_same_weights():
    epochs = {name: time / 500 for name, time in PAPER.items()}
    for t in range(0, TOTAL + 1, 35):
        assert rise_and_fall(t / 500, **epochs) == pytest.approx(rise_and_fall(t, **PAPER), rel=1e-9)


def test_where_rise_and_fall_meet_the_smaller_holds():
    times = {"start": 2, "rise": 6, "total": 10, "fall": 7}  # the rise ends at 8, the fall begins at 3
    for t in (2, 3, 4.5, 5, 6, 7.5, 8, 9, 10):
        rise = math.exp(-5 * (1 - min((t - 2) / 6, 1)) ** 2)
        fall = math.exp(-12 * (1 - min((10 - t) / 7, 1)) ** 2)
        assert rise_and_fall(t, **times) == pytest.approx(min(rise, fall), rel=1e-12)


def test_no_rise_is_full_at_once_and_no_fall_stays_full():
    sudden = {"start": 3, "rise": 0, "total": 10, "fall": 0}
    assert [rise_and_fall(t, **sudden) for t in (0, 2.99, 3, 3.01, 9.99, 10, 12)] == [0, 0, 1, 1, 1, 1, 1]
    assert rise_and_fall(0, start=0, rise=0, total=10, fall=0) == 1
    assert rise_and_fall(0, start=0, rise=4, total=10, fall=0) == pytest.approx(math.exp(-5))


def test_a_run_that_is_over_in_time_stays_small():
    after = [rise_and_fall(t, **PAPER) for t in (TOTAL, TOTAL + 1, 2 * TOTAL)]
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(after))


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_negative_time_is_an_error(name):
    with pytest.raises(ValueError, match="0 or more"):
        rise_and_fall(5, **{**PAPER, name: -1})
