# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison, from results as its rows leave them."""

from __future__ import annotations

import argparse
import json

import pytest


@pytest.fixture
def compare(script):
    return script("compare_rows")


def result(dice, pooled, seconds):
    cases = {"val_mean_dice": {f"{n}.png": value for n, value in enumerate(dice)}}
    return {"cases": cases, "pooled": pooled, "run": {"training_seconds": seconds}}


def test_table_means_over_cases_and_seeds_and_takes_pooled_metrics_as_they_are(compare, tmp_path, capsys):
    runs = {
        ("a b", 0): result([0.2, 0.4], {"pooled_dice": 0.9}, 10),
        ("a b", 1): result([0.5, 0.5], {"pooled_dice": 0.7}, 20),
        ("c", 0): result([1.0], {"pooled_dice": 0.5}, 5),
    }
    for (name, seed), content in runs.items():
        folder = compare.folder_of(name, seed, tmp_path)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(content))
    metrics = {"pooled_dice": ["pooled Dice", 3], "val_mean_dice": ["Dice", 2]}
    table = {"metrics": metrics, "rows": {"a b": {}, "c": {}, "not run": {}}}
    compare.write_table(table, argparse.Namespace(seeds=[0, 1], out=tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "|  | pooled Dice | Dice | seconds |",
        "|---|---|---|---|",
        "| a b | 0.800 ± 0.141 | 0.40 ± 0.14 | 15 |",
        "| c | 0.500 ± 0.000 | 1.00 ± 0.00 | 5 |",
    ]
    summary = json.loads((tmp_path / "table.json").read_text())
    assert summary["a b"]["pooled_dice"] == [0.9, 0.7]
    assert summary["a b"]["val_mean_dice"] == pytest.approx([0.3, 0.5])


def test_a_finished_row_is_not_run_again(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_bundle_run", lambda *_: pytest.fail("ran again"))
    folder = compare.folder_of("c", 0, tmp_path)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    compare.run_row({"rows": {"c": {}}}, "c", 0, options=argparse.Namespace(out=tmp_path))
