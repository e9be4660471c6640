# SPDX-License-Identifier: Apache-2.0
"""Every configuration of CKS's bundle, run as MONAI's ``ConfigWorkflow``."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_ext.bundle import load_weights
from monai_ext.data import load_datalist

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CKS = {"detection", "offset", "foreground", "instances", "border", "collapse"}
MASKS = {"detection", "offset", "mask"}
ROWS = {
    "no_collaborator": {"detection", "offset", "instances", "collapse"},
    **dict.fromkeys(("no_prior", "constant_prior", "entropy_principal", "entropy_collaborator", "pretrained"), CKS),
    **dict.fromkeys(("a2_b1", "a3_b1", "a1_b2", "a3_b2"), CKS),
    **dict.fromkeys(("full_supervision", "single_scale", "fixed_encoding", "single_scale_fixed_encoding"), MASKS),
}


def terms_of(row):
    return {key.removeprefix("term/") for key in row if key.startswith("term/")}


def saved(folder):
    return torch.load(folder / "models/model.pt", weights_only=True)


def test_training_writes_all_that_a_person_opens(trained_cks):
    rows = trained_cks.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert terms_of(row) == CKS
        assert all(math.isfinite(float(value)) for value in row.values())
        assert {"loss", "lr", "val/ap50"} <= row.keys()
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.001, 0.0002])
    output = trained_cks.root / "output/training"
    assert "finished" in (output / "report.html").read_text()
    assert list((output / "overlays").glob("*.png"))


def test_training_reads_no_mask(cks, tmp_path):
    shutil.copytree(cks.phantom_dir, tmp_path / "mine")
    content = json.loads((tmp_path / "mine/datalist.json").read_text())
    del content["phantom"]
    for entry in content["training"]:
        (tmp_path / "mine" / entry.pop("label")).unlink()
    (tmp_path / "mine/datalist.json").write_text(json.dumps(content))
    cks.run("train", "smoke", dataset_dir=str(tmp_path / "mine"), max_epochs=1)
    assert terms_of(cks.metrics()[0]) == CKS


@pytest.mark.parametrize("names", [("train", "smoke"), ("train", "smoke", "evaluate")])
def test_properties_of_training(trained_cks, tmp_path, names, make_cks):
    shutil.copytree(trained_cks.root / "models", tmp_path / "models")
    stage = make_cks(tmp_path)
    workflow = stage.workflow(*names)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.train_dataset_data == load_datalist(stage.phantom_dir / "datalist.json", stage.phantom_dir)


def test_properties_of_inference(trained_cks, tmp_path):
    workflow = trained_cks.workflow("inference", workflow_type="infer", output_dir=str(tmp_path))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_evaluation_measures_together_by_picture_and_by_group(trained_cks, tmp_path):
    trained_cks.run("train", "smoke", "evaluate", output_dir=str(tmp_path))
    pooled = json.loads((tmp_path / "report.json").read_text())["pooled"]
    assert pooled.keys() == {"ap50", "ap75", "map", "dice", "coco_ap50", "coco_map", "count_error"}
    assert len(list(csv.DictReader((tmp_path / "val_ap50_per_image_raw.csv").open()))) == 2
    groups = list(csv.DictReader((tmp_path / "groups.csv").open()))
    assert groups[-1]["group"] == "all"
    assert float(groups[-1]["ap50"]) == pytest.approx(pooled["ap50"], abs=1e-5)


def test_inference_writes_maps_outlines_and_counts(trained_cks, tmp_path):
    trained_cks.run("inference", workflow_type="infer", output_dir=str(tmp_path), score_threshold=0.01)
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "cells.csv").open())}
    coco = json.loads((tmp_path / "cells.coco.json").read_text())
    for number in range(2):
        name = f"images/phantom_test_{number:03d}"
        cells = np.asarray(Image.open(tmp_path / f"{name}_cells.png"))
        assert cells.shape == (64, 64)
        assert int(rows[name]["cells"]) == len(np.unique(cells[cells > 0]))
        features = json.loads((tmp_path / f"{name}.geojson").read_text())["features"]
        assert len(features) == int(rows[name]["cells"])
        assert (tmp_path / f"{name}_overlay.png").exists()
    assert len(coco["annotations"]) == int(rows["all"]["cells"])


def test_zoomed_pictures_come_back_on_their_own_grid(trained_cks, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    Image.fromarray(rng.integers(0, 60000, (45, 70), dtype=np.uint16)).save(tmp_path / "data/grey.png")
    entry = {"image": "grey.png", "diameter_px": 30}
    (tmp_path / "data/datalist.json").write_text(json.dumps({"test": [entry]}))
    values = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "cell_px": 40}
    trained_cks.run("inference", workflow_type="infer", **values, tile_px=64)
    assert Image.open(tmp_path / "out/grey_cells.png").size == (70, 45)


def test_every_ablation_is_a_row_here(cks):
    assert ROWS.keys() == {path.stem for path in (cks.configs / "ablations").glob("*.json")}


@pytest.mark.parametrize("name", ROWS)
def test_ablation_trains_the_terms_of_its_row(cks, name, trained_cks):
    values = {"principal_weights": str(trained_cks.root / "models/model.pt")} if name == "pretrained" else {}
    network = json.loads(json.dumps(cks.network))
    if "scale" in name:
        network["detection_levels"] = "@detection_levels"
    if "encoding" in name:
        network["position_encoding"] = "@position_encoding"
    workflow = cks.run("train", "smoke", f"ablations/{name}", max_epochs=1, network_def=network, **values)
    (row,) = cks.metrics()
    assert terms_of(row) == ROWS[name]
    assert all(math.isfinite(float(value)) for value in row.values())
    step = workflow.parser.get_parsed_content("train#step")
    alone = ROWS[name] == MASKS or name == "no_collaborator"
    assert list(step.students) == (["principal"] if alone else ["principal", "collaborator"])
    shipped = workflow.parser.get_parsed_content("shipped")
    assert all(torch.equal(value.cpu(), saved(cks.root)[key]) for key, value in shipped.state_dict().items())
    assert shipped.detection_levels == (1 if "scale" in name else 3)


def test_the_first_phase_ends_and_the_prior_is_the_entrys(cks):
    parser = cks.workflow("train", "smoke").parser
    step = parser.get_parsed_content("train#step")
    assert (step.warm_up_iterations, step.warm_up_prior, step.prior_weight) == (2, [100.0, 1.0], 2.0)
    assert cks.workflow("train", "smoke", "ablations/pretrained").parser.get("warm_up_iterations") == 0
    no_prior = cks.workflow("train", "ablations/no_prior", "smoke").parser.get_parsed_content("train#step")
    assert no_prior.prior_weight == no_prior.warm_up_prior[1] == 0


def test_an_application_needs_the_pipeline_only(trained_cks, tmp_path):
    """MONAI Label and Deploy take these parts alone, without data set or handlers; Label adds the path as text."""
    file = next((trained_cks.phantom_dir / "images").glob("phantom_test_000*"))
    workflow = trained_cks.workflow("inference", workflow_type="infer", phantom_dir=str(tmp_path / "none"))
    parts = ("preprocessing", "inferer", "postprocessing", "network", "device")
    before, inferer, after, network, device = (workflow.parser.get_parsed_content(name) for name in parts)
    load_weights(network, trained_cks.root / "models/model.pt")
    data = before({"image": str(file), "image_path": str(file)})
    with torch.no_grad():
        image = data["image"][None].to(device)
        pred = inferer(image, network.eval())
        alone = network(image.as_tensor())
    assert torch.equal(pred[:, :1].as_tensor(), alone), "the network alone gives the same map"
    data["pred"] = pred[0]
    data = after(data)
    trained_cks.run("inference", workflow_type="infer", output_dir=str(tmp_path / "out"))
    cells = np.asarray(Image.open(tmp_path / f"out/images/{file.stem}_cells.png"))
    np.testing.assert_array_equal(data["pred"][0].cpu().numpy().T, cells)


def test_shipped_weights_fit_the_inference_network(trained_cks):
    definition = ConfigParser(trained_cks.network).get_parsed_content()
    load_weights(definition, trained_cks.root / "models/model.pt")
    assert saved(trained_cks.root).keys() == definition.state_dict().keys()


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_points_alone_teach_outlines_of_real_nuclei(cks, tmp_path, prepare_real):
    """From the published folder: after 800 iterations outlines fit that were never drawn for it."""
    data, content = prepare_real("dsb2018_fluorescence")
    content["validation"] = content["validation"][::3]
    (data / "few.json").write_text(json.dumps(content))
    small = json.loads((ROOT / "bundles/cks/configs/small.json").read_text())
    values = {"dataset_dir": str(data), "datalist": str(data / "few.json"), "phantom_dir": str(tmp_path / "none")}
    values |= {"network_def#backbone#size": small["backbone_size"], "network_def#window_px": small["window_px"]}
    names = ("train", "small", "datasets/dsb2018_fluorescence")
    cks.run(*names, **values, crop_px=[128, 128], max_epochs=8, finetune_epochs=0, progress=False)
    assert float(cks.metrics()[-1]["val/ap50"]) > 0.2
