# SPDX-License-Identifier: Apache-2.0
"""The segmentation with HoVer-Net in place of the Mask R-CNN, by an overlay, on a network of one layer."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import HoVerNet
from monai.transforms import SobelGradients
from PIL import Image

from tests.bundles.conftest import CSinGANBundle
from tests.bundles.test_resume import assert_equal, assert_tables_agree, checkpoint, run_interrupted

pytestmark = pytest.mark.slow

THIN = {
    "_target_": "tests.bundles.thin_hover_net.ThinHoVerNet", "window_px": "@window_px", "answer_px": "@answer_px",
}  # fmt: skip
TRAIN = ("train", "hover_net", "smoke")


class HoVerBundle(CSinGANBundle):
    """Its patches are smaller than the answer of a window."""

    network = THIN


@pytest.fixture(scope="module")
def make_hover(make_cps_csingan, tmp_path_factory):
    phantom_dir = make_cps_csingan(tmp_path_factory.mktemp("unused")).phantom_dir
    return lambda root: HoVerBundle(root, phantom_dir)


@pytest.fixture(scope="module")
def trained(make_hover, tmp_path_factory):
    bundle = make_hover(tmp_path_factory.mktemp("hover"))
    bundle.run(*TRAIN)
    return bundle


def test_training_goes_through_its_rounds(trained):
    rows = trained.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert {key.removeprefix("term/") for key in row if key.startswith("term/")} == {"nuclei", "maps"}
        assert all(math.isfinite(float(value)) for value in row.values())
        assert float(row["lr"]) == 1e-4
        assert float(row["val/foreground_dice"]) > 0.5, "dark pixels are nuclei"
    with (trained.root / "output/training/pseudo/rounds.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["patches"], second["images"], second["patches"]) == ("0", "3", "6")
    assert int(second["kept"]) > 10
    assert "HoVer-Net, original" in (trained.root / "output/training/report.html").read_text()


def test_evaluation_and_inference_take_the_same_overlay(trained, tmp_path):
    trained.run(*TRAIN, "evaluate", output_dir=str(tmp_path / "evaluation"))
    with (tmp_path / "evaluation/groups.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["foreground_dice"]) > 0.5
    values = {"workflow_type": "infer", "output_dir": str(tmp_path / "inference")}
    workflow = trained.run("inference", "hover_net", **values)
    labels = np.asarray(Image.open(tmp_path / "inference/images/phantom_test_000_cells.png"))
    assert labels.shape == (128, 128)
    features = json.loads((tmp_path / "inference/images/phantom_test_000.geojson").read_text())["features"]
    assert len(features) == labels.max() > 3
    assert workflow.check_properties() == []
    assert workflow.inferer is workflow.parser.get_parsed_content("instances"), "what an application applies"


def test_a_run_interrupted_in_a_round_ends_as_an_unbroken_one(make_hover, tmp_path, on_the_cpu):
    settings = {"round_epochs": 2, "epoch_iterations": 1, "batch_size": 2, "patches_dir": str(tmp_path / "patches")}
    broken, unbroken = (make_hover(tmp_path / name) for name in ("broken", "unbroken"))
    unbroken.run(*TRAIN, **settings)
    run_interrupted(broken, *TRAIN, iteration=4, models="models", epoch=3, **settings)
    first, second = (checkpoint(bundle.root / "models") for bundle in (broken, unbroken))
    assert len(first["rounds"]["rows"]) == 2
    assert_equal(first, second)
    assert_tables_agree(broken.metrics(), unbroken.metrics())


@pytest.mark.parametrize("base", ["train", "inference"])
@pytest.mark.parametrize(("mode", "sides"), [("original", (270, 80)), ("fast", (256, 164))])
def test_windows_fit_monais_network(base, mode, sides):
    """On the meta device, which knows shapes and computes nothing."""
    parser = ConfigParser()
    parser.read_config([str(CSinGANBundle.configs / f"{name}.json") for name in (base, "hover_net")])
    parser["hover_mode"] = mode
    window, answer = (parser.get_parsed_content(name) for name in ("window_px", "answer_px"))
    assert (window, answer) == sides
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
        answers = network(torch.zeros(1, 3, window, window))
    assert isinstance(network, HoVerNet)
    assert {name: tuple(value.shape) for name, value in answers.items()} == dict.fromkeys(
        ("nucleus_prediction", "horizontal_vertical"), (1, 2, answer, answer)
    )


def test_slopes_weigh_what_they_weigh_in_the_released_code():
    """Its kernel of 5 x 5 numbers h / (h^2 + v^2) makes 12 of a slope of 1, MONAI's makes 1; errors are squared."""
    ramp = torch.arange(20.0).expand(1, 20, 20)
    (ours,) = SobelGradients(kernel_size=5, spatial_axes=1)(ramp)[:, 10, 10].tolist()
    v, h = np.mgrid[-2.0:3, -2.0:3]
    kernel = np.divide(h, h**2 + v**2, out=np.zeros((5, 5)), where=(h != 0) | (v != 0))
    theirs = (kernel * ramp[0, 8:13, 8:13].numpy()).sum()
    overlay = json.loads((CSinGANBundle.configs / "hover_net.json").read_text())
    assert overlay["slope_weight"] == pytest.approx((theirs / ours) ** 2)
