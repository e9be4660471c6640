# SPDX-License-Identifier: Apache-2.0
"""The look of a run's report: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

CSS = """
:root { color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1f2328; --muted: #656d76; --rule: #e3e5e8; --accent: #0b6bcb;
  --line-0: #0b6bcb; --line-1: #d9730d; --line-2: #2f8f5b; --line-3: #a8459b; --line-4: #8a6d00; --line-5: #555c66; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #16181b; --card: #1e2125; --ink: #e4e6e9; --muted: #979fa8; --rule: #33383e; --accent: #6cb2ff;
  --line-0: #6cb2ff; --line-1: #ffa657; --line-2: #6fcf97; --line-3: #e29ad8; --line-4: #e3c558; --line-5: #aab2bd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .9rem; }
h3 { font-size: .9rem; font-weight: 600; margin: 0 0 .4rem; display: flex; justify-content: space-between;
  flex-wrap: wrap; gap: 0 1rem; }
h3 span, .muted, figcaption span { color: var(--muted); font-weight: 400; }
p { margin: .3rem 0; max-width: 46rem; }
.status { display: inline-block; padding: .1rem .6rem; border: 1px solid var(--rule); border-radius: 1rem;
  font-size: .85rem; background: var(--card); }
.status.failed { border-color: #c9372c; color: #c9372c; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.card, figure { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .9rem 1rem; }
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); margin-top: 1.4rem; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: .85rem; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { font-size: 10px; fill: var(--muted); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg polyline { fill: none; stroke: var(--line); stroke-width: 1.8; stroke-linejoin: round; }
svg circle { fill: var(--line); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .8rem; color: var(--muted); margin-top: .4rem; }
.legend.above { margin: 0 0 .7rem; font-size: .9rem; }
.key::before { content: ""; display: inline-block; width: .8rem; height: .2rem; margin-right: .4rem;
  vertical-align: middle; border-radius: 1px; background: var(--line); }
figure { margin: 0 0 1rem; padding: 0; overflow: hidden; }
figure img { display: block; width: 100%; max-height: 34rem; object-fit: contain; background: #000; }
figcaption { padding: .6rem 1rem; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
td:first-child { overflow-wrap: anywhere; white-space: normal; }
tfoot td { font-weight: 600; border-bottom: 0; border-top: 2px solid var(--rule); }
table.facts { width: auto; max-width: 100%; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
table.facts td:first-child { color: var(--muted); white-space: nowrap; }
@media print { body { max-width: none; padding: 0; } .card, figure, tr { break-inside: avoid; } }
"""


def page(*, title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole document; ``lead`` and the sections' bodies are HTML, titles are text. Empty sections are left out."""
    body = "".join(f"<section><h2>{escape(name)}</h2>{html}</section>" for name, html in sections if html)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{lead}</header>{body}</body></html>\n"
    )


def facts_table(facts: Mapping[str, Any]) -> str:
    """Names and values, two columns."""
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(_text(v))}</td></tr>" for k, v in facts.items())
    return f'<div class="card scroll"><table class="facts"><tbody>{rows}</tbody></table></div>' if rows else ""


def tiles(values: Mapping[str, str]) -> str:
    """The few numbers that matter, large."""
    each = "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in values.items())
    return f'<div class="tiles">{each}</div>' if each else ""


def legend(names: Sequence[str]) -> str:
    """Keys to the lines of one chart; none for a single line."""
    if len(names) < 2:
        return ""
    keys = "".join(
        f'<span class="key" style="--line:var(--line-{i % 6})">{escape(name)}</span>' for i, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return "–" if value is None else str(value)
