# SPDX-License-Identifier: Apache-2.0
"""The commands of the bundle's README, each in a process of its own, and what a user's mistakes get."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.mistakes import OTHER, change_datalist, weights

pytestmark = pytest.mark.slow


def test_train_evaluate_infer(bundle, command_line):
    """With the paper's network: from the bundle's folder, and from elsewhere with ``--bundle_root``."""
    output = bundle.run_the_pages_commands(command_line)
    cases = sorted((output / "phantom_smoke/images").glob("phantom_test_*"))
    for case in cases:
        image, mask = (nib.load(case), nib.load(next((output / "inference").rglob(f"{case.name[:16]}_seg*"))))
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
    assert len(cases) == 2


def missing_file(content):
    content["training"][0]["image"] = "images/nowhere.nii.gz"


def group_twice(content):
    content["validation"][0]["group"] = content["training"][0]["group"]


TRAIN, EVALUATE = (["train", "smoke", "tiny"], ["train", "smoke", "tiny", "evaluate"])
MISTAKES = {
    "misspelt": (None, "training", TRAIN, ["--epochz", 1], ["--epochz", "no such key", "max_epochs"]),
    "missing file": (change_datalist(missing_file), "training", TRAIN, [], ["nowhere.nii.gz", "image"]),
    "group twice": (change_datalist(group_twice), "training", TRAIN, [], ["group", "training", "validation"]),
    "no weights": (None, "evaluating", EVALUATE, [], ["model.pt", "no such weights"]),
    "empty weights": (weights("model.pt", None), "evaluating", EVALUATE, [], ["model.pt", "0 bytes"]),
    "other weights": (weights("model.pt", OTHER), "inference", ["inference"], [], ["another network", "a.weight"]),
    "other checkpoint": (
        weights("checkpoint.pt", {"network": OTHER, "epoch": 1}), "training", TRAIN, ["--resume", True],
        ["checkpoint.pt", "cannot resume"],
    ),
    "no stage one": (None, "training", [*TRAIN, "train_scm"], [], ["model.pt", "train first"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(make_mistakes, make_bundle):
    return make_mistakes(MISTAKES, make_bundle)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(mistakes, name):
    mistakes.assert_one_sentence(name)
