# SPDX-License-Identifier: Apache-2.0
"""PA-Seg on real MR volumes: the hippocampus set, from its published folder to a trained epoch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd

from monai_ext.data import LoadPointsd, check_datalist, load_datalist
from monai_ext.transforms import ExpandSeedsd

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles" / "pa_seg_3d" / "configs"
SOURCE = Path(os.environ.get("FRUGAL_DATA", "")) / "msd_hippocampus"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hippocampus")
    script = ROOT / "scripts" / "prepare_msd_hippocampus.py"
    subprocess.run([sys.executable, script, SOURCE, "--out", folder], check=True, capture_output=True)
    return folder


def test_prepared_set_passes_the_check(prepared):
    needs = json.loads((CONFIGS / "train.json").read_text())["needs"]
    summaries = check_datalist(prepared / "datalist.json", prepared, needs=needs)
    assert {s.section for s in summaries} == {"training", "validation"}
    assert len(load_datalist(prepared / "datalist.json", prepared, "test")) == 16


def test_seeds_are_mostly_object_and_never_miss_as_background(prepared):
    values = json.loads((CONFIGS / "datasets" / "msd_hippocampus.json").read_text())
    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, "RAS", labels=None),
            NormalizeIntensityd("image"),
            LoadPointsd("points"),
            ExpandSeedsd(
                "image",
                cost=values["seed_cost"],
                epsilon=values["seed_epsilon"],
                spatial_weight=values["seed_spatial_weight"],
                valid_key=None,
            ),
        ]
    )
    precision, recall = [], []
    for entry in load_datalist(prepared / "datalist.json", prepared, "training")[:12]:
        case = transform(entry)
        seeds, mask = np.asarray(case["seeds"]), np.asarray(case["label"]) > 0
        assert not (mask & (seeds == 0)).any()
        found = (seeds == 1) & mask
        precision.append(found.sum() / (seeds == 1).sum())
        recall.append(found.sum() / mask.sum())
    assert np.mean(precision) > 0.75
    assert np.mean(recall) > 0.2


@pytest.mark.slow
def test_two_epochs_learn(prepared, tmp_path):
    datalist = json.loads((prepared / "datalist.json").read_text())
    datalist["training"], datalist["validation"] = datalist["training"][:8], datalist["validation"][:2]
    (prepared / "few.json").write_text(json.dumps(datalist))
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "small", "datasets/msd_hippocampus")]
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train",
        logging_file=False,
        bundle_root=str(tmp_path),
        dataset_dir=str(prepared),
        datalist=str(prepared / "few.json"),
        patch_size=[40, 56, 40],
        max_epochs=2,
        progress=False,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    with open(tmp_path / "output" / "stage1" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["term/partial"]) < float(rows[0]["term/partial"])
    assert (tmp_path / "models" / "model.pt").exists()
