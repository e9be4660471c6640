# SPDX-License-Identifier: Apache-2.0
"""Every configuration of PA-Seg's bundle, run as MONAI's ``ConfigWorkflow``."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.bundle import load_weights
from monai_ext.data import load_datalist

pytestmark = pytest.mark.slow

STAGE_TWO = {"self_primary", "cross_primary", "self_auxiliary", "cross_auxiliary"}
SELF, CROSS = ({name for name in STAGE_TWO if name.startswith(kind)} for kind in ("self", "cross"))
ROWS = {
    "partial_only": {"partial"},
    "axial_crf": {"partial", "crf"},
    "multi_view_crf": {"partial", "crf"},
    "variance": {"partial", "variance"},
    "full_supervision": {"partial"},
    "entropy_minimisation": {"partial", "regularizer"},
    "mumford_shah": {"partial", "regularizer"},
    "size_loss": {"partial", "regularizer"},
    "total_variation": {"partial", "regularizer"},
    "scm_lambda_0": SELF,
    "scm_lambda_0.5": STAGE_TWO,
    "scm_lambda_1": CROSS,
    "cross_pseudo_supervision": STAGE_TWO,
    "co_teaching": CROSS,
}
REGULARIZERS = {
    "entropy_minimisation": "EntropyLoss",
    "mumford_shah": "MumfordShahLoss",
    "size_loss": "SizeLoss",
    "total_variation": "TotalVariationLoss",
}


def flat_weights(path):
    """What lies in a weights file; only CPU tensors by name are in it."""
    state = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in state.values())
    return state


def terms_of(row):
    return {key.removeprefix("term/") for key in row if key.startswith("term/")}


def test_training_writes_all_that_a_person_opens(stage_one):
    network = ConfigParser(stage_one.network).get_parsed_content()
    assert flat_weights(stage_one.root / "models/model.pt").keys() == network.state_dict().keys()
    rows = stage_one.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert terms_of(row) == {"partial", "crf", "variance"}
        assert all(math.isfinite(float(value)) for value in row.values())
        assert {"loss", "lr", "val/mean_dice", "val/assd", "weight/crf"} <= row.keys()
    output = stage_one.root / "output/stage1"
    assert "finished" in (output / "report.html").read_text()
    assert list((output / "overlays").glob("*.png"))
    assert all(file.stat().st_size for file in (output / "tensorboard").glob("events*"))
    assert len(list((output / "tensorboard").glob("events*"))) == 1


@pytest.mark.parametrize("names", [("train", "smoke"), ("train", "smoke", "evaluate"), ("train", "smoke", "train_scm")])
def test_properties_of_training(stage_one, tmp_path, names, make_bundle):
    shutil.copytree(stage_one.root / "models", tmp_path / "models")
    stage = make_bundle(tmp_path)
    workflow = stage.workflow(*names)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.train_dataset_data == load_datalist(stage.phantom_dir / "datalist.json", stage.phantom_dir)


def test_properties_of_inference(stage_one, tmp_path):
    workflow = stage_one.workflow("inference", workflow_type="infer", output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_evaluation_measures_the_test_cases(stage_one, tmp_path):
    workflow = stage_one.run("train", "smoke", "evaluate", output_dir=str(tmp_path))
    assert workflow.parser.get_parsed_content("validate#evaluator").state.iteration == 1
    table = (tmp_path / "val_mean_dice_raw.csv").read_text()
    assert "phantom_test_000" in table
    assert "validation" not in table
    assert "phantom_test_000" in (tmp_path / "report.html").read_text()
    loaded = workflow.network_def.state_dict()
    saved = flat_weights(stage_one.root / "models/model.pt")
    assert all(torch.equal(loaded[name].cpu(), saved[name]) for name in saved)


def test_training_without_any_mask(bundle, tmp_path):
    """Points alone: the last epoch's weights ship, and no section but the training one need be there."""
    shutil.copytree(bundle.phantom_dir, tmp_path / "mine")
    content = json.loads((tmp_path / "mine/datalist.json").read_text())
    entries = [{key: entry[key] for key in ("image", "points")} for entry in content["training"]]
    (tmp_path / "mine/datalist.json").write_text(json.dumps({"training": entries}))
    shutil.rmtree(tmp_path / "mine/labels")
    workflow = bundle.run("train", "smoke", "no_validation", dataset_dir=str(tmp_path / "mine"))
    rows = bundle.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert not [key for key in rows[0] if key.startswith("val/")]
    trained = workflow.parser.get_parsed_content("network").state_dict()
    saved = flat_weights(bundle.root / "models/model.pt")
    assert all(torch.equal(saved[name], trained[name].cpu()) for name in trained)


def test_the_last_epoch_is_validated_whatever_the_interval(bundle):
    bundle.run("train", "smoke", val_interval=5)
    assert [bool(row.get("val/mean_dice")) for row in bundle.metrics()] == [False, True]
    assert flat_weights(bundle.root / "models/model.pt")


def test_another_data_set_is_two_values(bundle, tmp_path):
    """The data set is swapped from Python, as MONAI's workflows allow."""
    shutil.copytree(bundle.phantom_dir, tmp_path / "mine")
    workflow = bundle.workflow("train", "smoke", max_epochs=3)
    workflow.dataset_dir = str(tmp_path / "mine")
    workflow.max_epochs = 1
    workflow.initialize()
    workflow.train_dataset_data = workflow.train_dataset_data[:1]
    workflow.initialize()
    workflow.run()
    trainer = workflow.trainer
    assert (trainer.state.epoch, trainer.state.iteration) == (1, 1)
    assert trainer.data_loader.dataset.data == load_datalist(tmp_path / "mine/datalist.json", tmp_path / "mine")[:1]


def test_stage_two_renews_its_teachers_and_ships_the_primary(stage_one, tmp_path, make_bundle):
    shutil.copytree(stage_one.root / "models", tmp_path / "models")
    stage = make_bundle(tmp_path)
    workflow = stage.run("train", "smoke", "train_scm", max_epochs=2, refresh_epochs=1)
    rows = stage.metrics("scm")
    assert [terms_of(row) for row in rows] == [STAGE_TWO, STAGE_TWO]
    for role, folder in {"primary": "models", "auxiliary": "models/auxiliary"}.items():
        teacher = workflow.parser.get_parsed_content("snapshots").teachers[role].state_dict()
        student = workflow.parser.get_parsed_content("students")[role].state_dict()
        before = flat_weights(tmp_path / folder / "model.pt")
        assert all(torch.equal(teacher[name], student[name]) for name in teacher)
        assert any(not torch.equal(teacher[name].cpu(), before[name]) for name in before)
    flat_weights(tmp_path / "models/scm/model.pt")
    stage.run("train", "smoke", "train_scm", "evaluate")
    assert "phantom_test_000" in (tmp_path / "output/evaluation/val_mean_dice_raw.csv").read_text()
    stage.run("inference", workflow_type="infer", ckpt_dir=str(tmp_path / "models/scm"))
    assert len(list((tmp_path / "output/inference").rglob("*_seg.nii.gz"))) == 1


def test_every_ablation_is_a_row_here(stage_one):
    assert ROWS.keys() == {path.stem for path in (stage_one.configs / "ablations").glob("*.json")}


@pytest.mark.parametrize("name", ROWS)
def test_ablation_trains_the_terms_of_its_row(stage_one, tmp_path, name, make_bundle):
    second = ROWS[name] <= STAGE_TWO
    stages = ("train_scm",) if second else ()
    if second:
        shutil.copytree(stage_one.root / "models", tmp_path / "models")
    stage = make_bundle(tmp_path)
    workflow = stage.run("train", "smoke", *stages, f"ablations/{name}", max_epochs=1)
    (row,) = stage.metrics("scm" if second else "stage1")
    assert terms_of(row) == ROWS[name]
    assert all(math.isfinite(float(value)) for value in row.values())
    if not second:
        losses = workflow.parser.get_parsed_content("train#step").losses
        assert losses["crf"].views == (("axial",) if name == "axial_crf" else ("axial", "sagittal", "coronal"))
        assert type(losses["regularizer"]).__name__ == REGULARIZERS.get(name, "NoneType")
    network = ConfigParser(stage.network).get_parsed_content()
    load_weights(network, tmp_path / ("models/scm" if second else "models") / "model.pt")
