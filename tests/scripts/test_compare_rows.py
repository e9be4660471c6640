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


def test_what_all_rows_start_from_is_said_once(compare, tmp_path):
    after = {"coco_weights": ["phantoms", "models/model.pt"]}
    rows = {"a": {"after": {"patches_dir": "x"}}, "b": {"values": {"n": 1}}, "c": {"after": {"coco_weights": "a"}}}
    stages = {"phantoms": {"run": "training"}}
    (tmp_path / "table.json").write_text(json.dumps({"after": after, "stages": stages, "rows": rows}))
    table = compare.read_table(tmp_path / "table.json")
    assert table["rows"] == {
        "a": {"after": {**after, "patches_dir": "x"}},
        "b": {"values": {"n": 1}, "after": after},
        "c": {"after": {"coco_weights": "a"}},
    }
    assert table["stages"] == stages


def test_a_finished_row_is_not_run_again(compare, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(compare, "_bundle_run", lambda *arguments: calls.append(arguments))
    folder = compare.folder_of("c", 0, tmp_path)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    compare.run_row({"rows": {"c": {}}}, "c", 0, options=argparse.Namespace(out=tmp_path))
    assert calls == []
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    assert (folder / "result.json").read_text() == "{}"


STAGED = {
    "bundle": "some_bundle",
    "stages": {
        "patches": {"run": "selecting", "configs": ["select"], "values": {"patches_dir": "{folder}/patches"}},
        "pairs": {"run": "synthesizing", "configs": ["synthesize"], "after": {"patches_dir": ["patches", "patches"]}},
        "unused": {"run": "selecting", "configs": ["select"]},
    },
    "rows": {
        "last": {"after": {"synthetic_dir": ["pairs", "."], "first_dir": "first"}},
        "first": {"after": {"patches_dir": ["patches", "patches"]}},
    },
}


def test_what_others_begin_with_runs_before_them(compare):
    assert compare.waves_of(STAGED, ["last"]) == [["patches"], ["pairs", "first"], ["last"]]
    assert compare.waves_of(STAGED, ["first"]) == [["patches"], ["first"]]
    assert compare.waves_of({"rows": {"a": {}, "b": {}}}, ["b", "a"]) == [["a", "b"]]
    with pytest.raises(SystemExit, match="gone: no such row"):
        compare.waves_of({"rows": {"a": {"after": {"x_dir": "gone"}}}}, ["a"])


def test_a_stage_gets_its_folder_and_what_the_one_before_wrote(compare, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(compare, "_bundle_run", lambda verb, _, configs, values, *__: runs.append((verb, values)))
    options = argparse.Namespace(out=tmp_path, dataset_dir=tmp_path / "data", threads=1)
    for _ in range(2):  # the second time they are finished
        for name in ("patches", "pairs"):
            compare.run_one(STAGED, name, 3, options=options)
    patches = tmp_path / "patches/seed3"
    assert [verb for verb, _ in runs] == ["selecting", "synthesizing"]
    assert [str(values["patches_dir"]) for _, values in runs] == [str(patches / "patches")] * 2
    assert all(values["seed"] == 3 and values["dataset_dir"] == tmp_path / "data" for _, values in runs)
    assert json.loads((patches / "result.json").read_text())["run"]["configs"] == ["select"]
