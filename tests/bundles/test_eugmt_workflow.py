# SPDX-License-Identifier: Apache-2.0
"""Every configuration of EUGMT's bundle, run as MONAI's ``ConfigWorkflow``."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_ext.bundle import load_weights
from monai_ext.data import load_datalist

pytestmark = pytest.mark.slow

MIXED = {"mixed_supervised", "mixed_cross_pseudo", "mixed_mean_teacher"}
UCMT = {"supervised", "cross_pseudo", "mean_teacher", *MIXED}
ROWS = {
    "supervised_only": {"supervised"},
    "supervised_strong": {"supervised"},
    "full_supervision": {"supervised"},
    "mean_teacher": {"supervised", "consistency"},
    "cross_pseudo_supervision": {"supervised", "cross_pseudo"},
    "ucmt": UCMT,
    "unet": UCMT | {"consistency"},
    "algorithm_1": UCMT | {"consistency"},
    "logit": UCMT | {"consistency"},
}
SMALL_UNET = {"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 3, "features": [2, 2, 2, 2, 2, 2]}


def terms_of(row):
    return {key.removeprefix("term/") for key in row if key.startswith("term/")}


def saved(folder):
    return torch.load(folder / "models/model.pt", weights_only=True)


def test_training_writes_all_that_a_person_opens(trained_eugmt):
    rows = trained_eugmt.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert terms_of(row) == UCMT | {"consistency"}
        assert all(math.isfinite(float(value)) for value in row.values())
        assert {"loss", "lr", "val/pooled_dice", "weight/mixed_cross_pseudo"} <= row.keys()
    assert float(rows[0]["weight/cross_pseudo"]) < 0.2 < float(rows[1]["weight/cross_pseudo"])
    output = trained_eugmt.root / "output/training"
    assert "finished" in (output / "report.html").read_text()
    assert list((output / "overlays").glob("*.png"))
    assert len(list((output / "tensorboard").glob("events*"))) == 1


def test_the_teacher_ships(eugmt):
    workflow = eugmt.run("train", "smoke", "no_validation")
    teacher = workflow.parser.get_parsed_content("mean_teacher").teacher.state_dict()
    shipped = saved(eugmt.root)
    assert all(torch.equal(shipped[name], teacher[name].cpu()) for name in teacher)
    students = workflow.parser.get_parsed_content("students")
    for student in students.values():
        assert any(not torch.equal(shipped[name], value.cpu()) for name, value in student.state_dict().items())
    first, second = (next(iter(student.parameters())) for student in students.values())
    assert not torch.equal(first, second)
    assert not [key for key in eugmt.metrics()[0] if key.startswith("val/")]


@pytest.mark.parametrize("names", [("train", "smoke"), ("train", "smoke", "evaluate")])
def test_properties_of_training(trained_eugmt, tmp_path, names, make_eugmt):
    shutil.copytree(trained_eugmt.root / "models", tmp_path / "models")
    stage = make_eugmt(tmp_path)
    workflow = stage.workflow(*names)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.train_dataset_data == load_datalist(stage.phantom_dir / "datalist.json", stage.phantom_dir)


def test_properties_of_inference(trained_eugmt, tmp_path):
    workflow = trained_eugmt.workflow("inference", workflow_type="infer", output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_evaluation_measures_the_test_tiles_pooled_and_one_by_one(trained_eugmt, tmp_path):
    trained_eugmt.run("train", "smoke", "evaluate", output_dir=str(tmp_path), labeled_fraction=0.5)  # of training only
    for metric in ("mean_dice", "mean_iou", "asd_px", "hd95_px"):
        rows = list(csv.DictReader((tmp_path / f"val_{metric}_raw.csv").open()))
        assert len(rows) == 2
        assert all("phantom_test" in row["filename"] for row in rows)
    pooled = json.loads((tmp_path / "report.json").read_text())["pooled"]
    assert pooled.keys() == {"pooled_dice", "pooled_iou", "pooled_asd_px", "pooled_hd95_px"}
    assert pooled["pooled_iou"] == pytest.approx(pooled["pooled_dice"] / (2 - pooled["pooled_dice"]))
    assert "Metrics of all cases together" in (tmp_path / "report.html").read_text()


def test_pooled_dice_is_of_all_pixels(trained_eugmt, tmp_path):
    """Against the masks that inference writes."""
    trained_eugmt.run("train", "smoke", "evaluate", output_dir=str(tmp_path / "evaluation"))
    trained_eugmt.run("inference", workflow_type="infer", output_dir=str(tmp_path / "inference"))
    pixels = []
    for entry in load_datalist(trained_eugmt.phantom_dir / "datalist.json", trained_eugmt.phantom_dir, "test"):
        name = entry["image"].rsplit("/", 1)[1].replace(".png", "_seg.png")
        masks = (tmp_path / "inference/images" / name, entry["label"])
        pixels.append([np.asarray(Image.open(mask)) == 1 for mask in masks])
    pred, label = (np.concatenate([tile[i].ravel() for tile in pixels]) for i in (0, 1))
    expected = 2 * (pred & label).sum() / (pred.sum() + label.sum())
    pooled = json.loads((tmp_path / "evaluation/report.json").read_text())["pooled"]
    assert pooled["pooled_dice"] == pytest.approx(expected)


def test_inference_writes_masks_overlays_and_areas(trained_eugmt, tmp_path):
    trained_eugmt.run("inference", workflow_type="infer", output_dir=str(tmp_path), **{"sw_batch_size": 1})
    rows = list(csv.DictReader((tmp_path / "areas.csv").open()))
    assert [row["image"] for row in rows] == ["images/phantom_test_000", "images/phantom_test_001", "all"]
    mask = np.asarray(Image.open(tmp_path / "images/phantom_test_000_seg.png"))
    assert mask.shape == (32, 32)
    assert float(rows[0]["membrane (%)"]) == pytest.approx(100 * (mask == 1).mean(), abs=1e-3)
    assert (tmp_path / "images/phantom_test_000_overlay.png").exists()


def test_a_field_larger_than_the_patch_is_one_mask(trained_eugmt, tmp_path):
    field = np.random.default_rng(0).integers(0, 256, (50, 75, 4), dtype=np.uint8)  # with opacity
    (tmp_path / "data").mkdir()
    Image.fromarray(field).save(tmp_path / "data/field.png")
    (tmp_path / "data/datalist.json").write_text(json.dumps({"test": [{"image": "field.png"}]}))
    values = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    trained_eugmt.run("inference", workflow_type="infer", **values)
    assert Image.open(tmp_path / "out/field_seg.png").size == (75, 50)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/field_overlay.png"))[
            np.asarray(Image.open(tmp_path / "out/field_seg.png")) == 0
        ],
        field[..., :3][np.asarray(Image.open(tmp_path / "out/field_seg.png")) == 0],
    )


def test_which_tiles_are_labelled_is_drawn_and_written(eugmt, tmp_path):
    for seed in (0, 1):
        output = tmp_path / f"seed{seed}"
        workflow = eugmt.workflow(
            "train", "smoke", labeled_fraction=0.34, labeled_seed=seed, output_dir=str(output), max_epochs=1
        )
        workflow.initialize()
        drawn = json.loads((output / "datalist.json").read_text())
        assert drawn["drawn"] == {"fraction": 0.34, "seed": seed, "at_least": 2}
        assert workflow.train_dataset_data == load_datalist(output / "datalist.json", eugmt.phantom_dir)
        dataset = workflow.train_dataset
        assert (len(dataset.labeled), len(dataset.unlabeled)) == (2, len(drawn["unlabeled"]))


def test_three_classes(eugmt, tmp_path):
    shutil.copytree(eugmt.phantom_dir, tmp_path / "three")
    content = json.loads((tmp_path / "three/datalist.json").read_text())
    content["labels"]["2"] = "edge"
    del content["phantom"]
    for path in (tmp_path / "three/labels").glob("*.png"):
        mask = np.array(Image.open(path))
        mask[:, ::3] *= 2
        Image.fromarray(mask).save(path)
    (tmp_path / "three/datalist.json").write_text(json.dumps(content))
    network = eugmt.network | {"out_channels": 3}
    values = {"dataset_dir": str(tmp_path / "three"), "classes": 3, "network_def": network}
    eugmt.run("train", "smoke", **values)
    eugmt.run("train", "smoke", "evaluate", **values)
    eugmt.run("inference", workflow_type="infer", **values)
    header = (eugmt.root / "output/inference/areas.csv").read_text().splitlines()[0]
    assert "membrane (%)" in header
    assert "edge (%)" in header


def test_every_ablation_is_a_row_here(eugmt):
    assert ROWS.keys() == {path.stem for path in (eugmt.configs / "ablations").glob("*.json")}


@pytest.mark.parametrize("name", ROWS)
def test_ablation_trains_the_terms_of_its_row(eugmt, name):
    network = {"network_def": SMALL_UNET | {"out_channels": 2}} if name == "unet" else {}
    workflow = eugmt.run("train", "smoke", f"ablations/{name}", max_epochs=1, **network)
    (row,) = eugmt.metrics()
    assert terms_of(row) == ROWS[name]
    assert all(math.isfinite(float(value)) for value in row.values())
    step = workflow.parser.get_parsed_content("train#step")
    untaught = ("supervised_only", "supervised_strong", "full_supervision", "cross_pseudo_supervision")
    single = name in (*untaught[:3], "mean_teacher")
    assert list(step.students) == (["a"] if single else ["a", "b"])
    assert (step.teacher is None) == (name in untaught)
    assert len(workflow.train_dataset) == (6 if name == "full_supervision" else 4)
    shipped = step.teacher or step.students["a"]
    assert all(torch.equal(value.cpu(), saved(eugmt.root)[key]) for key, value in shipped.state_dict().items())
    definition = network.get("network_def", eugmt.network)
    load_weights(ConfigParser(definition).get_parsed_content(), eugmt.root / "models/model.pt")


def test_full_supervision_without_validation_needs_training_tiles_only(eugmt, tmp_path):
    content = json.loads((eugmt.phantom_dir / "datalist.json").read_text())
    shutil.copytree(eugmt.phantom_dir, tmp_path / "mine")
    (tmp_path / "mine/datalist.json").write_text(json.dumps({k: content[k] for k in ("labels", "training")}))
    names = ("train", "smoke", "ablations/full_supervision", "no_validation")
    workflow = eugmt.run(*names, max_epochs=1, dataset_dir=str(tmp_path / "mine"))
    assert len(workflow.train_dataset) == 2
    assert saved(eugmt.root)


def test_presets_weigh_as_the_paper_prints(eugmt):
    ramps = {"cross_pseudo", "mean_teacher", "mixed_cross_pseudo", "mixed_mean_teacher"}
    for names, pseudo, ramped in (
        (("train",), 1.0, ramps | {"consistency"}),
        (("train", "ablations/algorithm_1"), 0.05, ramps),
    ):
        parser = eugmt.workflow(*names, "smoke").parser
        step = parser.get_parsed_content("train#step")
        assert {step.weights[name] for name in ramps} == {pseudo}
        assert step.weights["consistency"] == step.weights["supervised"] == step.weights["mixed_supervised"] == 1
        assert step.ramps.keys() == ramped
        assert step.ramps["cross_pseudo"](2) == 1


def test_an_application_needs_the_pipeline_only(trained_eugmt, tmp_path):
    """MONAI Label and Deploy take these parts alone, without data set or handlers; Label adds the path as text."""
    file = next((trained_eugmt.phantom_dir / "images").glob("phantom_test_000*"))
    workflow = trained_eugmt.workflow("inference", workflow_type="infer", phantom_dir=str(tmp_path / "none"))
    parts = ("preprocessing", "inferer", "postprocessing", "network", "device")
    before, inferer, after, network, device = (workflow.parser.get_parsed_content(name) for name in parts)
    load_weights(network, trained_eugmt.root / "models/model.pt")
    data = before({"image": str(file), "image_path": str(file)})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None].to(device), network.eval())[0]
    data = after(data)
    trained_eugmt.run("inference", workflow_type="infer", output_dir=str(tmp_path / "out"))
    mask = np.asarray(Image.open(tmp_path / f"out/images/{file.stem}_seg.png"))
    np.testing.assert_array_equal(data["pred"][0].cpu().numpy().T, mask)
