# SPDX-License-Identifier: Apache-2.0
"""The commands of MMT-PSM's page, each in a process of its own, and what a user's mistakes get."""

from __future__ import annotations

import json

import pytest

from tests.bundles.mistakes import OTHER, change_datalist, cut_short, weights

pytestmark = pytest.mark.slow


def test_train_evaluate_infer(mmt_psm, command_line):
    """With the paper's network: from the bundle's folder, and from elsewhere with ``--bundle_root``."""
    output = mmt_psm.run_the_pages_commands(command_line)
    assert json.loads((output / "inference/instances.coco.json").read_text())["images"]


def no_unlabeled(content):
    del content["unlabeled"]


def no_annotations(content):
    del content["annotations"]


def one_class_less(content):
    del content["labels"]["2"]


def change_coco(change):
    """What ``change`` does to the COCO file's content."""

    def apply(folder):
        path = folder / "data/annotations.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        change_datalist(lambda content: None)(folder)

    return apply


def outside(content):
    content["annotations"][0]["segmentation"] = [[10.0, 10.0, 900.0, 10.0, 900.0, 40.0]]


def nobody(content):
    content["annotations"].clear()


TRAIN = ["train", "smoke", "tiny"]
MISTAKES = {
    "misspelt": (None, "training", TRAIN, ["--temprature", 0.1], ["--temprature", "no such key", "temperature"]),
    "no unlabelled section": (change_datalist(no_unlabeled), "training", TRAIN, [], ["unlabeled", "no section"]),
    "no annotations": (change_datalist(no_annotations), "training", TRAIN, [], ["annotations", "missing"]),
    "polygon off the image": (change_coco(outside), "training", TRAIN, [], ["annotations.json", "900"]),
    "nothing annotated": (change_coco(nobody), "training", TRAIN, [], ["(training)", "none of its 2 images"]),
    "category beyond": (change_datalist(one_class_less), "training", TRAIN, [], ["annotations.json", "nucleus"]),
    "truncated": (cut_short("phantom_unlabeled*"), "training", TRAIN, [], ["phantom_unlabeled", "cannot be read"]),
    "fraction": (None, "training", TRAIN, ["--labeled_fraction", 5], ["fraction", "found 5"]),
    "no first weights": (None, "training", TRAIN, ["--coco_weights", "none.pth"], ["none.pth", "no such file"]),
    "other weights": (
        weights("model.pt", OTHER), "inference", ["inference", "tiny"], [], ["another network", "a.weight"],
    ),
    "other checkpoint": (
        weights("checkpoint.pt", {"student": OTHER, "epoch": 1}), "training", TRAIN, ["--resume", True],
        ["checkpoint.pt", "cannot resume"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(make_mistakes, make_mmt_psm):
    return make_mistakes(MISTAKES, make_mmt_psm)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(mistakes, name):
    mistakes.assert_one_sentence(name)
