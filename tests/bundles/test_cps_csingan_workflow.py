# SPDX-License-Identifier: Apache-2.0
"""The segmentation of CPS and CSinGAN, run as MONAI's ``ConfigWorkflow``: rounds, evaluation, inference."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from PIL import Image

from monai_ext.bundle import load_weights
from monai_ext.data import load_datalist
from monai_ext.data.patch_folder import read_selection
from tests.bundles.test_resume import assert_equal, assert_tables_agree, checkpoint, run_interrupted

pytestmark = pytest.mark.slow

OWN = {"rpn_objectness", "rpn_box", "class", "box", "mask"}
ITEMS = {"without_pseudo_labels": 4, "naive_augmentation": 2, "full_supervision": 3}
"""Training items of an ablation, with two real patches, two synthetic pairs and three whole images."""


def read(path):
    return np.asarray(Image.open(path))


def rounds_of(bundle):
    with (bundle.root / "output/training/pseudo/rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pairs_for(bundle):
    """Synthetic pairs: the real patches under another name."""
    folder = bundle.root / "output/synthesis"
    shutil.copytree(bundle.root / "output/selection_smoke", folder)
    return str(folder)


@pytest.fixture
def with_patches(cps_csingan, trained_cps_csingan):
    """A bundle whose patches are there already."""
    shutil.copytree(trained_cps_csingan.root / "output/selection_smoke", cps_csingan.root / "output/selection_smoke")
    return cps_csingan


def test_training_writes_all_that_a_person_opens(trained_cps_csingan):
    rows = trained_cps_csingan.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert {key.removeprefix("term/") for key in row if key.startswith("term/")} == OWN
        assert all(math.isfinite(float(value)) for value in row.values())
        assert {"loss", "lr", "val/aji", "val/foreground_dice"} <= row.keys()
    report = (trained_cps_csingan.root / "output/training/report.html").read_text()
    assert "finished" in report
    assert "round 1" in report


def test_the_papers_network_and_rate_learn_from_random_weights(with_patches, monkeypatch):
    """Without ``clip_norm`` the loss is not finite at the sixth iteration."""
    monkeypatch.setattr(with_patches, "tiny", lambda: {"phantom_dir": str(with_patches.phantom_dir)})
    losses = []
    workflow = with_patches.workflow("train", "smoke", "no_validation", batch_size=1, epoch_iterations=6, rounds=0)
    workflow.initialize()
    workflow.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"]))
    )
    workflow.run()
    assert len(losses) == 6
    assert max(losses[-3:]) < losses[0]


def test_pseudo_labels_are_of_training_images_alone_and_keep_annotations(trained_cps_csingan):
    first, second = rounds_of(trained_cps_csingan)
    assert (first["patches"], second["images"], second["patches"]) == ("0", "3", "6")
    folder = trained_cps_csingan.root / "output/training/pseudo/round_1"
    entries = load_datalist(folder / "datalist.json", folder, "training")
    assert len(entries) == 6
    assert all("phantom_training_" in path.name for path in folder.rglob("*.png"))
    assert len(list((folder / "maps").glob("*.png"))) == 3
    patches_dir = trained_cps_csingan.root / "output/selection_smoke"
    patches = read_selection(patches_dir)
    assert len(patches) == 2
    for patch in patches:
        found = read(folder / "maps" / (patch["image"].replace("/", "_")))
        row, column, side = patch["row"], patch["column"], patch["size"]
        annotation = read(patches_dir / f"labels/{patch['name']}.png")
        np.testing.assert_array_equal(found[row : row + side, column : column + side] > 0, annotation > 0)
    assert int(second["kept"]) == sum(int(read(path).max()) for path in (folder / "maps").glob("*.png"))


@pytest.mark.parametrize("names", [("train", "smoke"), ("train", "smoke", "evaluate")])
def test_properties_of_training(trained_cps_csingan, tmp_path, names, make_cps_csingan):
    for folder in ("models", "output/selection_smoke"):
        shutil.copytree(trained_cps_csingan.root / folder, tmp_path / folder)
    stage = make_cps_csingan(tmp_path)
    workflow = stage.workflow(*names)
    workflow.initialize()
    assert workflow.check_properties() == []
    patches = tmp_path / "output/selection_smoke"
    assert workflow.train_dataset_data == load_datalist(patches / "datalist.json", patches)


def test_properties_of_inference(trained_cps_csingan, tmp_path):
    workflow = trained_cps_csingan.workflow("inference", workflow_type="infer", output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_evaluation_measures_images_and_organs(trained_cps_csingan, tmp_path, make_cps_csingan):
    """With an organ in the datalist there is a row of it."""
    data = tmp_path / "data"
    shutil.copytree(trained_cps_csingan.phantom_dir, data)
    content = json.loads((data / "datalist.json").read_text())
    content["test"] = [entry | {"organ": "liver"} for entry in content["test"]]
    (data / "datalist.json").write_text(json.dumps(content))
    values = {"dataset_dir": str(data), "output_dir": str(tmp_path / "out")}
    trained_cps_csingan.run("train", "smoke", "evaluate", **values)
    with (tmp_path / "out/groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["liver", "all"]
    assert {"aji", "aji_plus", "pq", "foreground_dice"} <= rows[0].keys()
    for name in ("aji", "aji_plus", "pq", "foreground_dice"):
        (row,) = csv.DictReader((tmp_path / f"out/val_{name}_per_image_raw.csv").open())
        assert float(list(row.values())[-1]) == pytest.approx(float(rows[0][name]), abs=1e-4)


def test_inference_writes_label_maps(trained_cps_csingan, tmp_path):
    trained_cps_csingan.run("inference", workflow_type="infer", output_dir=str(tmp_path))
    name = "images/phantom_test_000"
    labels = read(tmp_path / f"{name}_cells.png")
    assert (labels.dtype, labels.shape) == (np.uint16, (128, 128))
    number = int(labels.max())
    assert number > 0
    assert np.unique(labels).tolist() == list(range(number + 1))
    features = json.loads((tmp_path / f"{name}.geojson").read_text())["features"]
    coco = json.loads((tmp_path / "cells.coco.json").read_text())
    (row, _) = csv.DictReader((tmp_path / "cells.csv").open())
    assert len(features) == len(coco["annotations"]) == int(row["cells"]) == number
    assert (tmp_path / f"{name}_overlay.png").exists()


def test_an_application_needs_the_pipeline_only(trained_cps_csingan, tmp_path):
    """MONAI Label and Deploy take these parts alone: the label map."""
    file = str(next((trained_cps_csingan.phantom_dir / "images").glob("phantom_test_000*")))
    workflow = trained_cps_csingan.workflow("inference", workflow_type="infer", phantom_dir=str(tmp_path / "none"))
    parts = ("preprocessing", "inferer", "postprocessing", "network", "device")
    before, inferer, after, network, device = (workflow.parser.get_parsed_content(name) for name in parts)
    load_weights(network, trained_cps_csingan.root / "models/model.pt")
    data = before({"image": file, "image_path": file})
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None].to(device), network.eval())[0]
    assert after(data)["pred"].shape == (1, *data["image"].shape[1:])


def test_shipped_weights_fit_the_inference_network(trained_cps_csingan):
    definition = ConfigParser(trained_cps_csingan.network).get_parsed_content()
    saved = torch.load(trained_cps_csingan.root / "models/model.pt", weights_only=True)
    assert saved.keys() == definition.state_dict().keys()


@pytest.mark.parametrize("name", ITEMS)
def test_ablation_trains_on_its_items_in_one_round(with_patches, name):
    workflow = with_patches.run(
        "train", "smoke", f"ablations/{name}", synthetic_dir=pairs_for(with_patches), epoch_iterations=1
    )
    (row,) = with_patches.metrics()
    assert math.isfinite(float(row["loss"]))
    assert len(workflow.train_dataset_data) == ITEMS[name]
    assert not (with_patches.root / "output/training/pseudo").exists()


def test_synthetic_pairs_and_pseudo_labels_join_the_real_patches(with_patches):
    workflow = with_patches.run("train", "smoke", synthetic_dir=pairs_for(with_patches), epoch_iterations=1)
    items = [item["image"] for item in workflow.train_dataset.data]
    assert [sum(part in item for item in items) for part in ("selection_smoke", "synthesis", "round_1")] == [2, 2, 6]


def test_without_validation_the_last_epoch_ships(with_patches):
    workflow = with_patches.run("train", "smoke", "no_validation", epoch_iterations=1)
    shipped = workflow.parser.get_parsed_content("shipped")
    saved = torch.load(with_patches.root / "models/model.pt", weights_only=True)
    assert all(torch.equal(value.cpu(), saved[key]) for key, value in shipped.state_dict().items())
    assert [row["metric"] for row in rounds_of(with_patches)] == ["", ""]


@pytest.mark.parametrize("restart", [True, False])
def test_a_run_interrupted_in_a_round_ends_as_an_unbroken_one(
    with_patches, tmp_path, make_cps_csingan, restart, on_the_cpu
):
    """Stopped in the round with pseudo labels, which are read from the disk again."""
    settings = {"round_epochs": 2, "epoch_iterations": 1, "restart": restart}
    unbroken = make_cps_csingan(tmp_path / "unbroken")
    shutil.copytree(with_patches.root / "output", unbroken.root / "output")
    unbroken.run("train", "smoke", **settings)
    run_interrupted(with_patches, "train", "smoke", iteration=4, models="models", epoch=3, **settings)
    first, second = (checkpoint(stage.root / "models") for stage in (with_patches, unbroken))
    assert {"student", "optimizer", "rounds", "epoch", "best"} <= first.keys()
    assert len(first["rounds"]["rows"]) == 2
    assert_equal(first, second)
    assert_tables_agree(with_patches.metrics(), unbroken.metrics())
