# SPDX-License-Identifier: Apache-2.0
"""Every configuration of MMT-PSM's bundle, run as MONAI's ``ConfigWorkflow``."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from monai_ext.bundle import load_weights
from monai_ext.data import load_datalist

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

OWN = {"rpn_objectness", "rpn_box", "class", "box", "mask", "duplicate"}
ROWS = {
    "supervised_only": OWN,
    "full_supervision": OWN,
    "without_mgd": OWN | {"psm"},
    "without_psm": OWN | {"mgd"},
    "odkd": OWN | {"psm", "mgd"},
    "ffi": OWN | {"mgd"},
}


def terms_of(row):
    return {key.removeprefix("term/") for key in row if key.startswith("term/")}


def test_training_writes_all_that_a_person_opens(trained_mmt_psm):
    rows = trained_mmt_psm.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert terms_of(row) == OWN | {"psm", "mgd"}
        assert all(math.isfinite(float(value)) for value in row.values())
        assert {"loss", "lr", "val/map", "val/aji"} <= row.keys()
    for name in ("psm", "mgd"):
        assert [float(row[f"weight/{name}"]) > 0 for row in rows] == [False, True], "it starts with the second epoch"
    assert "finished" in (trained_mmt_psm.root / "output/training/report.html").read_text()


@pytest.mark.parametrize("names", [("train", "smoke"), ("train", "smoke", "evaluate")])
def test_properties_of_training(trained_mmt_psm, tmp_path, names, make_mmt_psm):
    shutil.copytree(trained_mmt_psm.root / "models", tmp_path / "models")
    stage = make_mmt_psm(tmp_path)
    workflow = stage.workflow(*names)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.train_dataset_data == load_datalist(stage.phantom_dir / "datalist.json", stage.phantom_dir)


def test_properties_of_inference(trained_mmt_psm, tmp_path):
    workflow = trained_mmt_psm.workflow("inference", workflow_type="infer", output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_evaluation_measures_together_and_by_picture(trained_mmt_psm, tmp_path):
    trained_mmt_psm.run("train", "smoke", "evaluate", output_dir=str(tmp_path))
    names = {"map", "aji", "aji_kumar", "ap50", "aji_1", "aji_2", "map_1", "map_2"}
    assert json.loads((tmp_path / "report.json").read_text())["pooled"].keys() == names
    assert len(list(csv.DictReader((tmp_path / "val_aji_per_image_raw.csv").open()))) == 2


def test_inference_keeps_overlaps(trained_mmt_psm, tmp_path):
    trained_mmt_psm.run("inference", workflow_type="infer", output_dir=str(tmp_path), score_floor=0.05)
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "instances.csv").open())}
    coco = json.loads((tmp_path / "instances.coco.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["cytoplasm", "nucleus"]
    for number in range(2):
        name = f"images/phantom_test_{number:03d}"
        features = json.loads((tmp_path / f"{name}.geojson").read_text())["features"]
        assert len(features) == int(rows[name]["cytoplasm"]) + int(rows[name]["nucleus"])
        assert (tmp_path / f"{name}_overlay.png").exists()
    assert len(coco["annotations"]) == sum(int(rows["all"][name]) for name in ("cytoplasm", "nucleus"))


def test_every_ablation_is_a_row_here(mmt_psm):
    assert ROWS.keys() == {path.stem for path in (mmt_psm.configs / "ablations").glob("*.json")}


@pytest.mark.parametrize("name", ROWS)
def test_ablation_trains_the_terms_of_its_row(mmt_psm, name):
    workflow = mmt_psm.run("train", "smoke", f"ablations/{name}", max_epochs=1, start_iteration=0, teacher_start=0)
    (row,) = mmt_psm.metrics()
    assert terms_of(row) == ROWS[name]
    assert all(math.isfinite(float(value)) for value in row.values())
    assert (workflow.parser.get_parsed_content("mean_teacher") is None) is (ROWS[name] == OWN)
    shipped = workflow.parser.get_parsed_content("shipped")
    saved = torch.load(mmt_psm.root / "models/model.pt", weights_only=True)
    assert all(torch.equal(value.cpu(), saved[key]) for key, value in shipped.state_dict().items())


def test_a_supervised_run_goes_on_with_unlabelled_images(mmt_psm):
    """As it would have gone on by itself: weights, optimiser and epoch are that run's, the teacher is its copy."""
    mmt_psm.run("train", "smoke", "ablations/supervised_only", max_epochs=1)
    kept = torch.load(mmt_psm.root / "models/checkpoint.pt", weights_only=True)
    values = {"supervised_dir": str(mmt_psm.root / "models"), "ckpt_dir": str(mmt_psm.root / "more"), "max_epochs": 2}
    values |= {"start_iteration": 2, "teacher_start": 2, "output_dir": str(mmt_psm.root / "more")}
    workflow = mmt_psm.workflow("train", "smoke", **values)
    workflow.initialize()
    seen = {}

    def look(engine):
        for role in ("student", "teacher"):
            network = workflow.parser.get_parsed_content(role)
            seen[role] = all(torch.equal(value, kept["student"][key]) for key, value in network.state_dict().items())
        seen["optimizer"] = any("momentum_buffer" in state for state in engine.optimizer.state.values())

    workflow.trainer.add_event_handler(Events.ITERATION_STARTED(once=3), look)
    workflow.run()
    assert seen == {"student": True, "teacher": True, "optimizer": True}
    with (mmt_psm.root / "more/metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["epoch"] == "2"
    assert terms_of(row) == OWN | {"psm", "mgd"}
    assert float(row["weight/mgd"]) > 0


def test_few_labels_are_drawn_from_the_annotated_images(mmt_psm):
    workflow = mmt_psm.workflow("train", "smoke", labeled_fraction=0.5)
    workflow.initialize()
    content = json.loads((mmt_psm.root / "output/training/datalist.json").read_text())
    assert [len(content[section]) for section in ("training", "unlabeled")] == [2, 2]


def test_an_application_needs_the_pipeline_only(trained_mmt_psm, tmp_path):
    """MONAI Label and Deploy take these parts alone: the label map of each class."""
    file = next((trained_mmt_psm.phantom_dir / "images").glob("phantom_test_000*"))
    workflow = trained_mmt_psm.workflow("inference", workflow_type="infer", phantom_dir=str(tmp_path / "none"))
    parts = ("preprocessing", "inferer", "postprocessing", "network", "device")
    before, inferer, after, network, device = (workflow.parser.get_parsed_content(name) for name in parts)
    load_weights(network, trained_mmt_psm.root / "models/model.pt")
    data = before({"image": str(file), "image_path": str(file)})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None].to(device), network.eval())[0]
    assert after(data)["pred"].shape == (2, *data["image"].shape[1:])


def test_shipped_weights_fit_the_inference_network(trained_mmt_psm):
    definition = ConfigParser(trained_mmt_psm.network).get_parsed_content()
    load_weights(definition, trained_mmt_psm.root / "models/model.pt")
    saved = torch.load(trained_mmt_psm.root / "models/model.pt", weights_only=True)
    assert saved.keys() == definition.state_dict().keys()


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_a_second_real_set_is_learned_from_half_of_its_labels(make_mmt_psm, tmp_path, prepare_real):
    """From label maps by the page's script; after 100 iterations, half of them with a teacher, nuclei are found."""
    data, content = prepare_real("dsb2018_histology", "--instances")
    maps = [str(data / "images"), "--category", f"1:nucleus={data / 'labels'}", "--out", str(data / "annotations.json")]
    subprocess.run([sys.executable, ROOT / "scripts/label_maps_to_coco.py", *maps], check=True)
    for entry in [*content["training"], *content["validation"]]:
        entry.pop("label"), entry.pop("points", None)
    content["unlabeled"], content["training"] = content["training"][16:], content["training"][:16]
    content |= {"validation": content["validation"][::3], "annotations": "annotations.json"}
    (data / "half.json").write_text(json.dumps(content))
    stage = make_mmt_psm(tmp_path)
    network = json.loads((stage.configs / "train.json").read_text())["network_def"]
    schedule = {"max_epochs": 2, "epoch_iterations": 50, "warm_up_iterations": 20, "decay_iterations": [80]}
    schedule |= {"start_iteration": 50, "teacher_start": 40, "rise_iterations": 20, "fall_iterations": 10}
    small = {"phantom_dir": str(tmp_path / "none"), "dataset_dir": str(data), "datalist": str(data / "half.json")}
    stage.run("train", "small", **small, **schedule, network_def=network, classes=2, progress=False)
    first, second = stage.metrics()
    assert float(first["term/psm"]) == 0 < float(second["term/psm"])
    assert float(second["val/aji"]) > 0.08
