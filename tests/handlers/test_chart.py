# SPDX-License-Identifier: Apache-2.0
"""Ticks and lines of the inline charts."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from monai_ext.handlers.chart import line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.12, 0.87, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3, 8, [-5, 0, 5, 10]),
        (1000, 1004, [1000, 1001, 1002, 1003, 1004]),
        (2e-5, 3e-5, [2e-5, 2.5e-5, 3e-5]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(e.get("cx")), float(e.get("cy"))) for e in ElementTree.fromstring(svg).iter("circle")]


def test_points_lie_where_they_should():
    (x0, y0), (x1, y1), (x2, y2) = circles(line_chart({"a": [(1, 0.0), (2, 1.0), (3, 0.5)]}))
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y2 == pytest.approx((y0 + y1) / 2)
    assert y1 < y2 < y0  # larger is higher


@pytest.mark.parametrize("line", [[(1, 5.0)], [(1, 0.0), (2, 0.0)], [(1, math.nan), (2, 3.0), (3, math.inf)]])
def test_single_constant_and_missing_values(line):
    svg = line_chart({"a": line})
    places = circles(svg)
    assert len(places) == sum(math.isfinite(y) for _, y in line)
    assert all(0 < x < 340 and 0 < y < 190 for x, y in places)
    assert not re.search(r"nan|inf", svg)


def test_no_values():
    assert "No values" in line_chart({"a": [(1, math.nan)]})
    assert "No values" in line_chart({})


def test_names_are_escaped_and_lines_have_their_colours():
    svg = line_chart({"<b>": [(1, 1.0), (2, 2.0)], "c": [(1, 2.0), (2, 1.0)]})
    assert "<b>" not in svg
    root = ElementTree.fromstring(svg)
    assert [e.get("style") for e in root.iter("polyline")] == ["--line:var(--line-0)", "--line:var(--line-1)"]
