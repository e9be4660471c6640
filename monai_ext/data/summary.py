# SPDX-License-Identifier: Apache-2.0
"""What the data check found, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class SectionSummary:
    """What the check saw in one section; the lists have one item for each entry that has such a thing.

    Attributes:
        section: its name.
        entries: number of entries.
        shapes: spatial shape of each image.
        spacings_mm: voxel spacing of each image; of a 2-D picture, 1 a pixel.
        intensities: lowest and highest value of each image.
        label_volumes: name of each class with its volume in each mask, in ml (3-D) or pixels (2-D).
        instances: number of instances in each instance label map.
        points: numbers of points and objects of each points file.
        annotations: number of COCO annotations of its images, where the section uses them.
    """

    section: str
    entries: int
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    spacings_mm: list[tuple[float, ...]] = field(default_factory=list)
    intensities: list[tuple[float, float]] = field(default_factory=list)
    label_volumes: dict[str, list[float]] = field(default_factory=dict)
    instances: list[int] = field(default_factory=list)
    points: list[tuple[int, int]] = field(default_factory=list)
    annotations: int | None = None


def format_table(rows: Sequence[SectionSummary]) -> str:
    """Lay out summaries as a table to print; a range covers all files of the section."""
    head = ("section", "files", "shape", "spacing mm", "intensity", "labels", "points")
    body = [
        (
            row.section,
            str(row.entries),
            _ranges(row.shapes),
            _ranges(row.spacings_mm),
            f"{min(low for low, _ in row.intensities):g} .. {max(high for _, high in row.intensities):g}"
            if row.intensities
            else "-",
            _labels(row),
            f"{sum(n for n, _ in row.points)} for {sum(n for _, n in row.points)} objects" if row.points else "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *body)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _ranges(tuples: Sequence[tuple[float, ...]]) -> str:
    if not tuples or len({len(one) for one in tuples}) > 1:
        return "mixed" if tuples else "-"
    return " x ".join(_range(axis, "g") for axis in zip(*tuples, strict=True))


def _range(values: Sequence[float], form: str = ".3g") -> str:
    low, high = (f"{round(value, 3):{form}}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def _labels(row: SectionSummary) -> str:
    unit = "ml" if row.shapes and len(row.shapes[0]) == 3 else "px"
    parts = [f"{name} {_range(volumes)} {unit}" for name, volumes in row.label_volumes.items()]
    if row.instances:
        parts.append(f"{sum(row.instances)} instances")
    if row.annotations is not None:
        parts.append(f"{row.annotations} annotations")
    return ", ".join(parts) or "-"
