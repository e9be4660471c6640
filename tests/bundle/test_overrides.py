# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from monai_ext.bundle.overrides import stop_on_unknown_keys, unknown_keys

CONFIG = {"max_epochs": 3, "train": {"trainer": {"_target_": "T", "max_epochs": "@max_epochs"}, "handlers": [{"a": 1}]}}


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("max_epochs", True),
        ("epochz", False),
        ("train#trainer#max_epochs", True),
        ("train::trainer::max_epochs", True),
        ("train#trainer#amp", True),  # a new argument of a component
        ("train#trainr#amp", False),
        ("train#traner", False),
        ("train#handlers#0#a", True),
        ("train#handlers#1#a", False),
        ("max_epochs#deeper", False),
    ],
)
def test_paths(key, known):
    assert (unknown_keys(CONFIG, [key]) == []) is known


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_misspelt_key_stops_and_names_the_nearest(config_file):
    with pytest.raises(SystemExit, match=r"--max_epoch: no such key in .*did you mean --max_epochs\?"):
        stop_on_unknown_keys(["run", "training", "--config_file", str(config_file), "--max_epoch", "1"])


def test_equals_sign_list_of_files_and_args_file(config_file, tmp_path):
    files = f"['{config_file}','{config_file}']"
    stop_on_unknown_keys(["run", f"--config_file={files}", "--max_epochs=1", "--bundle_root", "x"])
    with pytest.raises(SystemExit, match="--max_epoch"):
        stop_on_unknown_keys(["run", "--config-file", str(config_file), "--max-epoch", "1"])
    args = tmp_path / "args.json"
    args.write_text(json.dumps({"config_file": str(config_file), "epochz": 1}))
    with pytest.raises(SystemExit, match="--epochz"):
        stop_on_unknown_keys(["run", "--args_file", str(args)])


@pytest.mark.parametrize("words", [["--max_epochs", "false"], ["--max_epochs=null"]])
def test_words_that_would_arrive_as_texts_stop(config_file, words):
    with pytest.raises(SystemExit, match=r"--max_epochs: found '(false|null)', .* expected (False|None)\."):
        stop_on_unknown_keys(["run", "--config_file", str(config_file), *words])
    stop_on_unknown_keys(["run", "--config_file", str(config_file), "--max_epochs", "False"])


def test_silent_outside_the_command_line():
    assert stop_on_unknown_keys(["-q", "tests"]) is None
