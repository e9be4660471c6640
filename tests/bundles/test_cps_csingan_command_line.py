# SPDX-License-Identifier: Apache-2.0
"""The fourth stage's commands, each in a process of its own, and what a user's mistakes get."""

from __future__ import annotations

import json

import pytest

from tests.bundles.mistakes import OTHER, change_datalist, cut_short, weights

pytestmark = pytest.mark.slow


def test_train_evaluate_infer(cps_csingan, command_line):
    """With a network that is small enough: from the bundle's folder, and from elsewhere with ``--bundle_root``."""
    small = ["--backbone", "resnet18", "--pyramid_channels", 16, "--hidden", 16, "--score_threshold", 0.05]
    folder = cps_csingan.copy_configs()
    names, elsewhere = ["train", "smoke"], [f"{folder.name}/configs/{n}.json" for n in ("train", "smoke", "evaluate")]
    for arguments, where in (
        (["run", "training", *command_line.files(*names)], folder),
        (["run", "evaluating", "--config_file", str(elsewhere), "--bundle_root", folder.name], folder.parent),
        (["run", "inference", *command_line.files("inference"), "--dataset_dir", "output/phantom_smoke"], folder),
    ):
        status, errors = command_line(*arguments, *small, folder=where)
        assert status == 0, errors
    assert [row["epoch"] for row in cps_csingan.metrics()] == ["1", "2"]
    assert "phantom_test_000" in (folder / "output/evaluation/report.html").read_text()
    assert sorted(path.name for path in folder.parent.iterdir() if path != folder) == []
    assert json.loads((folder / "output/inference/cells.coco.json").read_text())["images"]


def no_validation(content):
    del content["validation"]


def no_names(content):
    del content["labels"]


def own_patches(change):
    """Patches that the annotator has not finished, beside the data."""

    def apply(folder):
        entry = {"image": "images/phantom_training_000.png", "label": "labels/phantom_training_000.png"}
        (folder / "data/patches.json").write_text(json.dumps({"labels": {"0": "no", "1": "yes"}, "training": [entry]}))
        change(folder)

    return apply


def not_annotated(folder):
    (folder / "data/labels/phantom_training_000.png").unlink()


TRAIN = ["train", "smoke", "tiny"]
OWN = ["--patches_dir", "data", "--patches_datalist", "data/patches.json"]
MISTAKES = {
    "misspelt": (None, "training", TRAIN, ["--pseudo_scores", 0.1], ["--pseudo_scores", "no such key", "pseudo_score"]),
    "no validation section": (change_datalist(no_validation), "training", TRAIN, OWN, ["validation", "no section"]),
    "no names": (change_datalist(no_names), "training", TRAIN, OWN, ["labels", "missing"]),
    "no patches": (None, "training", TRAIN, ["--patches_dir", "none"], ["none/datalist.json", "datalist"]),
    "not annotated": (own_patches(not_annotated), "training", TRAIN, OWN, ["phantom_training_000.png", "label"]),
    "no pairs": (own_patches(lambda _: 0), "training", TRAIN, [*OWN, "--synthetic_dir", "none"], ["none/datalist"]),
    "truncated": (own_patches(cut_short("phantom_training*")), "training", TRAIN, OWN, ["phantom_training", "read"]),
    "no first weights": (None, "training", TRAIN, ["--backbone_weights", "none.pth"], ["none.pth", "no such file"]),
    "other weights": (
        weights("model.pt", OTHER), "inference", ["inference", "tiny"], [], ["another network", "a.weight"],
    ),
    "other checkpoint": (
        own_patches(weights("checkpoint.pt", {"student": OTHER, "epoch": 1})), "training", TRAIN,
        [*OWN, "--resume", True], ["checkpoint.pt", "cannot resume"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(make_mistakes, make_cps_csingan):
    return make_mistakes(MISTAKES, make_cps_csingan)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(mistakes, name):
    mistakes.assert_one_sentence(name)
