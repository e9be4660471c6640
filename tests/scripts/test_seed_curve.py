# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose

from monai_ext.functional.seed_expansion import expand_seeds, object_distance

SCRIPT = Path(__file__).parents[2] / "scripts" / "seed_curve.py"
CLICKS = {"F": [6, 6, 6], "L": [1, 6, 6], "R": [11, 6, 6], "P": [6, 1, 6], "A": [6, 11, 6], "I": [6, 6, 1], "S": [6, 6, 11]}  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("seed_curve_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def volume(seed):
    truth = np.zeros((13, 13, 13), dtype=np.uint8)
    truth[4:9, 4:9, 4:9] = 1
    image = truth * 5 + np.random.default_rng(seed).normal(size=truth.shape)
    return image.astype(np.float32), truth


@pytest.fixture
def dataset(tmp_path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    rows = [{"label": label, "position": position} for label, position in CLICKS.items()]
    (tmp_path / "p.json").write_text(json.dumps({"space": "voxel", "points": rows}))
    training = []
    for number in range(2):
        image, truth = volume(number)
        nib.save(nib.Nifti1Image(image, affine), tmp_path / f"i{number}.nii.gz")
        nib.save(nib.Nifti1Image(truth, affine), tmp_path / f"l{number}.nii.gz")
        training.append({"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz", "points": "p.json"})
    bare = [{k: v for k, v in entry.items() if k != "label"} for entry in training]
    content = {
        "labels": {"0": "b", "1": "o"},
        "training": training,
        "unlabeled": bare,
        "test": [{"image": "i0.nii.gz"}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path


def test_curve_equals_expanding_for_each_epsilon(script, dataset, capsys):
    out = dataset / "out"
    script.main(
        [str(dataset / "datalist.json"), "--costs", "gradient", "additive:0.3", "--epsilons", "0.1", "0.9", "0.2",
         "--overlays", "1", "--overlay_epsilons", "0.2", "--out_dir", str(out)]
    )  # fmt: skip
    rows = list(csv.DictReader((out / "seed_curve.csv").open()))
    assert [(r["cost"], r["epsilon"]) for r in rows] == [
        (cost, e) for cost in ("gradient", "additive") for e in ("0.1", "0.3", "0.5", "0.7", "0.9")
    ]
    for row in rows:
        precision, recall = [], []
        for number in range(2):
            image, truth = volume(number)
            image = (image - image.mean()) / image.std()
            seeds = expand_seeds(
                image, [(CLICKS["F"], [p for name, p in CLICKS.items() if name != "F"])],
                epsilon=float(row["epsilon"]), cost=row["cost"], spacing=(1, 1, 2), spatial_weight=0.3,
            )  # fmt: skip
            precision.append(truth[seeds == 1].mean())
            recall.append((seeds[truth == 1] == 1).mean())
        assert float(row["precision_mean"]) == pytest.approx(np.mean(precision), abs=1e-3)
        assert float(row["precision_sd"]) == pytest.approx(np.std(precision), abs=1e-3)
        assert float(row["recall_mean"]) == pytest.approx(np.mean(recall), abs=1e-3)
        assert float(row["missed_mean"]) == 0
        assert row["cases"] == "2"
    report = capsys.readouterr().out
    best = [r for r in rows if r["cost"] == "gradient" and float(r["precision_mean"]) >= 0.9][-1]
    assert f"gradient: epsilon {best['epsilon']} (precision" in report
    assert {p.name for p in out.iterdir()} == {"seed_curve.csv", "seed_curve.png", "p.png"}


def test_choice_is_the_greatest_epsilon_with_the_wanted_mean(script):
    values = np.zeros((2, 4, 3))
    values[..., 0] = [[0.75, 1.0, 1.0, 0.5], [0.75, 0.875, 0.75, 0.5]]  # means 0.75, 0.9375, 0.875, 0.5
    assert script.choose_epsilon(values, 0.875) == 2
    assert script.choose_epsilon(values, 0.9) == 1
    assert script.choose_epsilon(values, 0.99) is None


def test_measures_by_hand(script):
    image = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]])
    one = object_distance(image, (0, 0), [[0, 0], [0, 4]], valid=np.array([[1, 1, 1, 1, 0]]))
    truth = np.array([[True, False, True, True, True]])
    # epsilon 0.5: seeds 1 1 ? ? 0, epsilon 1: seeds 1 1 1 ? 0
    np.testing.assert_allclose(script.measure([one], truth, (0.5, 1.0)), [[1 / 2, 1 / 4, 1 / 4], [2 / 3, 2 / 4, 1 / 4]])


def test_overlays_without_labels(script, dataset, capsys):
    out = dataset / "out"
    script.main([str(dataset / "datalist.json"), "--section", "unlabeled", "--costs", "gradient", "--out_dir", str(out),
                 "--overlay_epsilons", "0.1"])  # fmt: skip
    assert {p.suffix for p in out.iterdir()} == {".png"}
    assert "No case has a label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"label": "F", "position": [6, 6, 6]}], r"i0.nii.gz \(points\): object 1: found points F, expected F and 6"),
        ([{"label": "F", "position": [6, "x"]}], r"p.json.*expected two or three finite numbers"),
    ],
)
def test_bad_points_name_their_file(script, dataset, points, message):
    (dataset / "p.json").write_text(json.dumps({"space": "voxel", "points": points}))
    with pytest.raises(SystemExit, match=message):
        script.main([str(dataset / "datalist.json"), "--out_dir", str(dataset / "out")])


def test_missing_points_are_one_sentence(script, dataset):
    with pytest.raises(SystemExit, match=r"\(points\): found none for .*i0.nii.gz, expected clicks"):
        script.main([str(dataset / "datalist.json"), "--section", "test", "--out_dir", str(dataset / "out")])


def test_grid_and_intensities_are_those_of_training(script, dataset):
    """The clicks are expanded on what the bundle's configuration would load."""
    parser = ConfigParser()
    parser.read_config(SCRIPT.parents[1] / "bundles/pa_seg_3d/configs/train.json")
    parser.update({"spacing": [2.0, 1.5, 1.0], "normalize_nonzero": True})
    training = Compose(parser.get_parsed_content("load") + parser.get_parsed_content("points_to_seeds")[:1])
    entry = {"image": str(dataset / "i0.nii.gz"), "points": str(dataset / "p.json")}
    flags = ["--spacing", "2", "1.5", "1", "--normalize_nonzero"]
    ours = script._loader(["image", "label"], script.parse([str(dataset / "datalist.json"), *flags]))
    found = ours({**entry, "label": str(dataset / "l0.nii.gz")})
    expected = training(entry)
    np.testing.assert_allclose(found["image"].numpy(), expected["image"].numpy(), atol=1e-5)
    np.testing.assert_allclose(found["points"], expected["points"], atol=1e-6)
    assert found["label"].shape == found["image"].shape == (1, 7, 9, 25)
    assert set(np.unique(found["label"])) == {0, 1}
