# SPDX-License-Identifier: Apache-2.0
"""The commands of EUGMT's page, each in a process of its own, and what a user's mistakes get."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import load_datalist
from tests.bundles.mistakes import OTHER, change_datalist, cut_short, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_train_evaluate_infer(eugmt, command_line):
    """With the paper's network: from the bundle's folder, and from elsewhere with ``--bundle_root``."""
    output = eugmt.run_the_pages_commands(command_line)
    assert len(list((output / "inference/images").glob("*_seg.png"))) == 2


def no_unlabeled(content):
    del content["unlabeled"]


def third_class(folder):
    file = next((folder / "data/labels").glob("phantom_training*"))
    Image.fromarray(np.asarray(Image.open(file)) * 2).save(file)
    change_datalist(lambda content: content["labels"].update({"2": "more"}))(folder)


def one_masked_image(content):
    for entry in content["training"][1:] + content["unlabeled"]:
        del entry["label"]


TRAIN = ["train", "smoke", "tiny"]
MISTAKES = {
    "misspelt": (None, "training", TRAIN, ["--hues", 0.1], ["--hues", "no such key", "hue"]),
    "no unlabelled section": (
        change_datalist(no_unlabeled), "training", TRAIN, [], ["unlabeled", "there is no section"],
    ),
    "class beyond": (third_class, "training", TRAIN, [], ["labels", "the value 2", "0 to 1 only"]),
    "nothing to draw from": (
        change_datalist(one_masked_image), "training", TRAIN, ["--labeled_fraction", 0.5],
        ["1 of the 6 training images", "at least 2"],
    ),
    "fraction": (None, "training", TRAIN, ["--labeled_fraction", 5], ["fraction", "found 5"]),
    "truncated": (cut_short("phantom_unlabeled*"), "training", TRAIN, [], ["phantom_unlabeled", "cannot be read"]),
    "other weights": (weights("model.pt", OTHER), "inference", ["inference"], [], ["another network", "a.weight"]),
    "other checkpoint": (
        weights("checkpoint.pt", {"student_a": OTHER, "epoch": 1}), "training", TRAIN, ["--resume", True],
        ["checkpoint.pt", "cannot resume"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(make_mistakes, make_eugmt):
    return make_mistakes(MISTAKES, make_eugmt)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(mistakes, name):
    mistakes.assert_one_sentence(name)


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_two_epochs_learn_on_real_tissue(eugmt, tmp_path, prepare_real):
    """From the published folder to a teacher that finds nuclei better than a constant answer does."""
    data, content = prepare_real("dsb2018_histology")
    content["training"], content["validation"] = content["training"][::2], content["validation"][::4]
    (data / "few.json").write_text(json.dumps(content))
    values = {"labeled_fraction": 0.2, "datalist": str(data / "few.json"), "network_def#channels": [8, 16, 32]}
    values |= {"network_def#strides": [2, 2], "patch_size": [64, 64], "max_epochs": 4, "progress": False}
    names = ("train", "small", "datasets/dsb2018_histology")
    tiny = {"dataset_dir": str(data), "phantom_dir": str(tmp_path / "none"), "bundle_root": str(eugmt.root)}
    workflow = eugmt.workflow(*names, **tiny, **values, network_def=small_network())
    workflow.initialize()
    workflow.run()
    dice = [float(row["val/pooled_dice"]) for row in eugmt.metrics()]
    masks = [np.asarray(Image.open(e["label"])) for e in load_datalist(data / "few.json", data, "validation")]
    share = np.mean([mask.mean() for mask in masks])
    assert max(dice) > 2 * share / (1 + share)


def small_network():
    return json.loads((ROOT / "bundles/eugmt/configs/small.json").read_text())["network_def"]
