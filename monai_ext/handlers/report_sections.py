# SPDX-License-Identifier: Apache-2.0
"""The parts of a run's report, each from plain values to HTML."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monai_ext.handlers.chart import line_chart
from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB
from monai_ext.handlers.report_data import Cases, Epochs, Picture
from monai_ext.handlers.report_page import legend, tiles

_ACRONYMS = {
    "dice": "Dice", "iou": "IoU", "asd": "ASD", "hd95": "HD95", "px": "(px)", "mm": "(mm)",
    "ap50": "AP50", "ap75": "AP75", "map": "mAP", "coco": "COCO",
}  # fmt: skip
_LABELS = {
    "dice": "Dice",
    "mean_dice": "Dice",
    "mean_iou": "IoU",
    "assd": "ASSD (mm)",
    "hd95": "HD95 (mm)",
    "lr": "learning rate",
}
_HIGHER_IS_BETTER = ("dice", "iou", "aji", "f1", "precision", "recall", "accuracy", "ap", "ap50", "ap75", "map")
_LOWER_IS_BETTER = ("assd", "asd", "hd", "hd95", "distance", "loss", "error")


def header(*, status: str, info: Mapping[str, Any], note: str) -> str:
    """The lines below the title."""
    time = str(info.get("time", "")).replace("T", " ")[:16]
    seed = f"seed {info['seed']}" if info.get("seed") is not None else ""
    line = " · ".join(escape(part) for part in (time, str(info.get("device", "")), seed) if part)
    kind = "status failed" if status.startswith("failed") else "status"
    badge = f'<span class="{kind}">{escape(status)}</span>' if status else ""
    remark = f'<p class="muted">{escape(note)}</p>' if note else ""
    return f'<p class="muted">{line}</p><p>{badge}</p>{remark}'


def summary(epochs: Epochs, cases: Cases) -> str:
    """Mean and standard deviation of each metric over the cases; epochs and hours of training."""
    values: dict[str, str] = {}
    for name in _columns(cases):
        numbers = [case[name] for case in cases.values() if name in case and math.isfinite(case[name])]
        values[f"{label(name)}, {len(numbers)} case{'s' * (len(numbers) != 1)}"] = mean_sd(numbers)
    if epochs:
        values["epochs"] = str(max(epochs))
        values["training time"] = duration(sum(row.get("epoch_s", 0.0) for row in epochs.values()))
    return tiles(values)


def curves(epochs: Epochs, *groups: str, together: bool = False) -> str:
    """Charts of the columns in these groups (``val/...``): one per column, or ``together`` one per group."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in _columns(epochs):
        group, _, rest = name.partition("/")
        if group in groups:
            points = [(float(epoch), row[name]) for epoch, row in sorted(epochs.items()) if name in row]
            title = {"weight": "loss weights", "lr": "learning rate"}.get(group, group) if together else name
            charts.setdefault(title, {})[rest or group] = points
    return f'<div class="grid">{"".join(_chart(*chart) for chart in charts.items())}</div>' if charts else ""


def _chart(title: str, series: Mapping[str, list[tuple[float, float]]]) -> str:
    lines = {label(name): points for name, points in series.items()}
    name = title.partition("/")[2]
    remark = _last_and_best(name or title, next(iter(series.values()))) if len(series) == 1 else ""
    heading = f"<h3>{escape(label(name or title))}<span>{escape(remark)}</span></h3>"
    return f'<div class="card">{heading}{line_chart(lines)}{legend(list(lines))}</div>'


def _last_and_best(name: str, points: Sequence[tuple[float, float]]) -> str:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return ""
    last = f"{finite[-1][1]:.4g}"
    words = set(name.lower().split("_"))
    for pick, good in ((max, _HIGHER_IS_BETTER), (min, _LOWER_IS_BETTER)):
        if words & set(good) and name != "loss":
            epoch, value = pick(finite, key=lambda point: point[1])
            return f"{last}, best {value:.4g} (epoch {epoch:g})"
    return last


def gallery(pictures: Sequence[Picture]) -> str:
    """Overlays with captions and the key to their colours."""
    if not pictures:
        return ""
    keys = "".join(
        f'<span class="key" style="--line:rgb{colour}">{name}</span>'
        for name, colour in (("reference", REFERENCE_RGB), ("prediction", PREDICTION_RGB))
    )
    figures = ""
    for picture in pictures:
        dice = "" if picture.dice is None else f", Dice {picture.dice:.3f}"
        rank = picture.rank.replace("_", " ").capitalize()
        source = base64.b64encode(picture.png).decode()
        figures += (
            f'<figure><img alt="{escape(rank)} case" src="data:image/png;base64,{source}">'
            f"<figcaption>{escape(rank)} <span>{escape(picture.name)}{dice}</span></figcaption></figure>"
        )
    return f'<div class="legend above">{keys}</div>{figures}'


def cases_table(cases: Cases) -> str:
    """One row per case and a last one with mean ± standard deviation."""
    columns = _columns(cases)
    if not columns:
        return ""
    head = "".join(f"<th>{escape(label(name))}</th>" for name in columns)
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{_number(case.get(c))}</td>' for c in columns)}</tr>"
        for name, case in cases.items()
    )
    means = [mean_sd([case[c] for case in cases.values() if math.isfinite(case.get(c, math.nan))]) for c in columns]
    foot = "".join(f"<td>{mean}</td>" for mean in means)
    return (
        f'<div class="card scroll"><table><thead><tr><th>Case</th>{head}</tr></thead><tbody>{body}</tbody>'
        f"<tfoot><tr><td>Mean ± SD</td>{foot}</tr></tfoot></table></div>"
        '<p class="muted">SD: sample standard deviation (n − 1). Cases without a value (–) are left out of both.</p>'
    )


def mean_sd(values: Sequence[float]) -> str:
    """``0.850 ± 0.071``; without the second part for a single value, a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def label(name: str) -> str:
    """A metric's or term's name as people write it."""
    metric, _, rest = name.partition(" ")
    return " ".join(part for part in (_LABELS.get(metric) or _words(metric), rest) if part)


def _words(metric: str) -> str:
    return " ".join(_ACRONYMS.get(word, word) for word in metric.split("_"))


def _columns(rows: Mapping[Any, Mapping[str, float]]) -> list[str]:
    """Names in order of appearance, Dice first."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return sorted(names, key=lambda name: not label(name.removeprefix("val/")).startswith("Dice"))


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "–"
