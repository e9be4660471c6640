# SPDX-License-Identifier: Apache-2.0
"""The commands of CKS's page, each in a process of its own, and what a user's mistakes get."""

from __future__ import annotations

import json

import pytest

from tests.bundles.mistakes import OTHER, change_datalist, cut_short, weights

pytestmark = pytest.mark.slow


def test_train_evaluate_infer(cks, command_line):
    """From the bundle's folder, and from elsewhere with ``--bundle_root``; a small network, the paper's is 56 M."""
    output = cks.run_the_pages_commands(command_line, "--network_def#backbone#size", "micro")
    assert len(list((output / "inference/images").glob("*_cells.png"))) == 2


def points_of(change):
    """What ``change`` does to the text of the first training image's points."""

    def apply(folder):
        file = next((folder / "data/points").glob("phantom_training*"))
        file.write_text(change(file.read_text()))

    return apply


def outside(text):
    content = json.loads(text)
    content["points"][0]["position"][0] = 1000.0
    return json.dumps(content)


def no_points(content):
    del content["training"][0]["points"]


def no_masks(content):
    for entry in content["validation"]:
        del entry["label"]


TRAIN = ["train", "smoke", "tiny"]
RESUME = ["--resume", True]
MISTAKES = {
    "misspelt": (None, "training", TRAIN, ["--priorpx", 9], ["--priorpx", "no such key", "prior_px"]),
    "no points": (change_datalist(no_points), "training", TRAIN, [], ["points", "training"]),
    "no masks": (change_datalist(no_masks), "training", TRAIN, [], ["label", "validation"]),
    "point off the image": (points_of(outside), "training", TRAIN, [], ["phantom_training", "1000"]),
    "points of no format": (points_of(lambda text: text[:20]), "training", TRAIN, [], ["phantom_training"]),
    "truncated": (cut_short("phantom_training*"), "training", TRAIN, [], ["phantom_training", "cannot be read"]),
    "other weights": (weights("model.pt", OTHER), "inference", ["inference"], [], ["another network", "a.weight"]),
    "no first network": (
        None, "training", [*TRAIN, "ablations/pretrained"], ["--principal_weights", "models/none.pt"],
        ["none.pt", "no such"],
    ),
    "other checkpoint": (
        weights("checkpoint.pt", {"principal": OTHER, "epoch": 1}), "training", TRAIN, RESUME,
        ["checkpoint.pt", "cannot resume"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(make_mistakes, make_cks):
    return make_mistakes(MISTAKES, make_cks)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(mistakes, name):
    mistakes.assert_one_sentence(name)
