# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks [name ...]``: run all or some, print a line for each row, write ``results/<host>.json``."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from pathlib import Path
from typing import Any

from monai_ext.handlers import run_info

BENCHMARKS = (
    "seeds",
    "crf",
    "pa_seg_step",
    "whole_volume",
    "label_noise",
    "eugmt_step",
    "cks_sharing",
    "cks_inference",
    "mmt_psm_step",
    "patch_selection",
    "csingan_step",
)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, print and store."""
    parser = argparse.ArgumentParser(description="Speed and memory against a reference, as ratios in one run.")
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="default: all")
    names = parser.parse_args(arguments).names or BENCHMARKS
    rows: list[dict[str, Any]] = []
    for name in names:
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(line(row), flush=True)
            rows.append({"benchmark": name, **row})
    target = Path(__file__).parent / "results" / f"{platform.node()}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"run": run_info(), "rows": rows}, indent=1), encoding="utf8")
    print(target)


def line(row: dict[str, Any]) -> str:
    """What, size, ours, reference, ratio of time and of memory, and whatever else the row holds."""
    known = {"what", "size", "ours_s", "reference_s", "ratio", "ours_mb", "reference_mb", "memory_ratio"}
    parts = [f"{row['what']}, {row['size']}: {row['ours_s']:.3g} s"]
    if row.get("reference_s") is not None:
        parts.append(f"reference {row['reference_s']:.3g} s, ratio {row['ratio']:.3g}")
    if row.get("ours_mb") is not None:
        parts.append(f"{row['ours_mb']:.0f} MB")
    if row.get("reference_mb"):
        ratio = f", ratio {row['reference_mb'] / row['ours_mb']:.3g}" if row["ours_mb"] else ""
        parts.append(f"reference {row['reference_mb']:.0f} MB{ratio}")
    parts += [f"{key} {value:.3g}" for key, value in row.items() if key not in known and isinstance(value, float)]
    return "; ".join(parts)


if __name__ == "__main__":
    main()
