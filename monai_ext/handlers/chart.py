# SPDX-License-Identifier: Apache-2.0
"""A line chart as inline SVG that takes its colours from the page it stands in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Series = Mapping[str, Sequence[tuple[float, float]]]
Place = Callable[[float, float], tuple[float, float]]

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 26


def line_chart(series: Series, *, x_label: str = "epoch") -> str:
    """Draws lines over a common pair of axes.

    Args:
        series: points (x, y) by name, in order of x; values that are not finite leave a gap.
        x_label: under the x axis.

    Returns:
        An ``<svg>`` element. The stroke of line k is the CSS variable ``--line-k``, text and grid use ``--muted``
        and ``--rule``. Every point has a tooltip.
    """
    points = [p for line in series.values() for p in line if math.isfinite(p[1])]
    if not points:
        return '<p class="muted">No values yet.</p>'
    x_low, x_high = _widened(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = nice_ticks(*_widened(min(y for _, y in points), max(y for _, y in points)))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(series))}">']
    for y in y_ticks:
        _, down = place(x_low, y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down + 3.5:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in (x for x in nice_ticks(x_low, x_high, count=8) if x_low <= x <= x_high and x == round(x)):
        across, _ = place(x, y_low)
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{x:.6g}</text>')
    parts.append(f'<text x="{_LEFT - 6}" y="{_HEIGHT - 10}" text-anchor="end">{escape(x_label)}</text>')
    for number, (name, line) in enumerate(series.items()):
        parts += _line(name, line, number, place)
    return "".join([*parts, "</svg>"])


def _line(name: str, line: Sequence[tuple[float, float]], number: int, place: Place) -> list[str]:
    drawn = [(x, y, *place(x, y)) for x, y in line if math.isfinite(y)]
    path = " ".join(f"{across:.1f},{down:.1f}" for _, _, across, down in drawn)
    style = f'style="--line:var(--line-{number % 6})"'
    parts = [f'<polyline {style} points="{path}"/>'] if len(drawn) > 1 else []
    radius = 2.5 if len(drawn) <= 30 else 1.2
    for x, y, across, down in drawn:
        tip = f"<title>{escape(name)}, {x:g}: {y:.4g}</title>"
        parts.append(f'<circle {style} cx="{across:.1f}" cy="{down:.1f}" r="{radius}">{tip}</circle>')
    return parts


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) from at or below ``low`` to at or above ``high``."""
    rough = (high - low) / (count - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range itself, or one around a single value."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        return low, high
    half = abs(low) / 2 or 0.5
    return low - half, high + half
