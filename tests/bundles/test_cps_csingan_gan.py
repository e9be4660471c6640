# SPDX-License-Identifier: Apache-2.0
"""Stages 2 and 3 of CPS and CSinGAN: generators for annotated patches, and pairs drawn by them."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_ext.data import make_histology_phantoms, make_random_patches

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "bundles/cps_csingan/configs"
PHANTOM = {"training": 3, "validation": 1, "test": 1, "size": 128, "diameter_px": 14}
TINY = {
    "phantom": PHANTOM, "patches": 2, "patch_px": 64, "smallest_px": 48, "channels": 4,
    "device": "$torch.device('cpu')",  # for what is compared to the last bit
}  # fmt: skip
TRAIN = {"masks": 2, "scale_epochs": 4, "passes": 2, "critic_updates": 1, "progress": False}
PAIRS = {"pairs": 2}
TERMS = {
    "critic_global", "critic_foreground", "critic_background", "global", "foreground", "background", "reconstruction",
}  # fmt: skip


class Stage:
    """Runs the two configurations with ``root`` as their ``bundle_root``."""

    def __init__(self, root, patches_dir):
        self.root, self.patches_dir = root, patches_dir

    def workflow(self, *names, workflow_type="train", **overrides):
        own = TRAIN if "train_gan" in names else PAIRS
        values = {"bundle_root": str(self.root), **TINY, **own, "patches_dir": str(self.patches_dir), **overrides}
        files = [str(CONFIGS / f"{name}.json") for name in names]
        return ConfigWorkflow(files, workflow_type=workflow_type, logging_file=False, **values)

    def run(self, *names, **overrides):
        workflow = self.workflow(*names, **overrides)
        workflow.initialize()
        workflow.run()
        return workflow

    def rows(self):
        with (self.root / "output/gan/metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def weights(self, folder="models/gan"):
        return {path.name: torch.load(path, weights_only=True) for path in sorted((self.root / folder).glob("*.pt"))}


def same(first, second):
    """Two nested states hold the same values, to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.fixture(scope="session")
def annotated(tmp_path_factory):
    """A folder of two annotated patches: read from it, write elsewhere."""
    folder = tmp_path_factory.mktemp("patches")
    datalist = make_histology_phantoms(folder / "phantom", **PHANTOM)
    make_random_patches(
        folder / "selection", datalist=datalist, dataset_dir=folder / "phantom", size=64, number=2, seed=3
    )
    return folder / "selection"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, annotated):
    """A bundle after stage 2: read from it, write elsewhere."""
    stage = Stage(tmp_path_factory.mktemp("trained"), annotated)
    stage.run("train_gan")
    return stage


@pytest.fixture
def stage(tmp_path, annotated):
    return Stage(tmp_path, annotated)


def names_of(folder):
    content = json.loads((folder / "datalist.json").read_text())
    return [Path(entry["image"]).stem for entry in content["training"]]


def test_training_writes_all_that_a_person_opens(trained, annotated):
    rows = trained.rows()
    assert [row["epoch"] for row in rows] == [str(n + 1) for n in range(2 * 3 * 2)]
    for row in rows:
        assert {key.removeprefix("term/") for key in row if key.startswith("term/")} == TERMS
        assert all(math.isfinite(float(value)) for value in row.values())
    page = (trained.root / "output/gan/report.html").read_text()
    assert "finished" in page
    assert "nuclei found room in 2 masks" in page
    for name in names_of(annotated):
        assert f"{name}, scale 3 of 3 (64 x 64 px)" in page
        assert Image.open(trained.root / f"output/gan/overlays/{name}.png").mode == "RGB"
    assert list((trained.root / "output/gan/tensorboard").glob("events*"))


def test_each_patch_has_weights_of_its_own(trained, annotated):
    weights = trained.weights()
    first, second = (weights[f"{name}.pt"] for name in names_of(annotated))
    assert first.keys() == second.keys()
    assert all(value.device.type == "cpu" for value in first.values())
    assert all(first["amplitudes"][n] not in (0, 1) for n in (1, 2)), "the finer scales' noise was set"
    assert not any(torch.equal(first[key], second[key]) for key in first if key.endswith("0.weight"))
    assert len(weights) == 3, "two patches and the checkpoint"


def test_properties(stage, trained):
    workflow = stage.workflow("train_gan")
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow = trained.workflow("synthesize", workflow_type="infer", synthetic_dir=str(stage.root / "pairs"))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_weights_are_written_when_a_patch_is_finished(stage, annotated):
    """Trained as far as the first patch's last scale; pairs are drawn for that patch alone."""
    stage.run("train_gan", max_epochs=6)
    first, _ = names_of(annotated)
    assert list(stage.weights()) == sorted([f"{first}.pt", "checkpoint.pt"])
    stage.run("synthesize", workflow_type="infer")
    entries = json.loads((stage.root / "output/synthesis/datalist.json").read_text())["training"]
    assert [entry["image"] for entry in entries] == [f"images/{first}_{n:03d}.png" for n in range(2)]


@pytest.mark.parametrize("iteration", [10, 25])
def test_interrupted_training_is_resumed(stage, trained, iteration):
    """Stopped within a scale, and at the first iteration of the second patch."""

    def stop(_):
        raise KeyboardInterrupt

    workflow = stage.workflow("train_gan")
    workflow.initialize()
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), stop)
    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    assert stage.weights()["checkpoint.pt"]["epoch"] == (iteration - 1) // 4
    stage.run("train_gan", resume=True)
    assert same(stage.weights(), trained.weights())
    times = {"epoch_s", "iterations_per_s", "peak_memory_mib"}
    for row, other in zip(stage.rows(), trained.rows(), strict=True):
        assert {k: v for k, v in row.items() if k not in times} == {k: v for k, v in other.items() if k not in times}


def test_without_component_critics(stage):
    workflow = stage.run("train_gan", "ablations/without_component_critics", max_epochs=1)
    (row,) = stage.rows()
    found = {key.removeprefix("term/") for key in row if key.startswith("term/")}
    assert found == {"critic_global", "global", "reconstruction"}
    critics = workflow.parser.get_parsed_content("critics")
    assert {tuple(one.critics) for some in critics for one in some} == {("global",)}


def test_pairs_are_a_training_set_in_the_patches_form(trained, tmp_path, annotated):
    trained.run("synthesize", workflow_type="infer", synthetic_dir=str(tmp_path))
    entries = json.loads((tmp_path / "datalist.json").read_text())["training"]
    groups = [entry["group"] for entry in json.loads((annotated / "datalist.json").read_text())["training"]]
    assert [entry["group"] for entry in entries] == [group for group in groups for _ in range(2)]
    assert {entry["image"].removeprefix("images/") for entry in entries} == {
        f"{name}_{n:03d}.png" for name in names_of(annotated) for n in range(2)
    }
    for entry in entries:
        image, label = (np.asarray(Image.open(tmp_path / entry[key])) for key in ("image", "label"))
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert (label.shape, label.dtype) == ((64, 64), np.uint16)
        assert np.unique(label).tolist() == list(range(label.max() + 1))
        assert label.max() > 1
    assert Image.open(tmp_path / "contact_sheet.png").size[0] > 5 * 190


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pairs_depend_on_the_seed_and_not_on_the_company(trained, tmp_path):
    """Nor on what lay there before."""
    runs = {"first": {}, "again": {"batch_size": 2}, "more": {"pairs": 3}, "fresh": {"fresh_masks": True}}
    for name, options in runs.items():
        trained.run("synthesize", workflow_type="infer", synthetic_dir=str(tmp_path / name), **options)
    first, again, more, fresh = (files_of(tmp_path / name) for name in runs)
    assert first == again
    assert all(more[file] == content for file, content in first.items() if file.parent.name in ("images", "labels"))
    labels = [file for file in first if file.parent.name == "labels"]
    assert len(labels) == 4
    assert not any(first[file] == fresh[file] for file in labels)
    trained.run("synthesize", workflow_type="infer", synthetic_dir=str(tmp_path / "more"))
    assert files_of(tmp_path / "more") == first


def test_masks_of_training_are_those_of_the_pairs(trained):
    training = trained.workflow("train_gan").parser.get_parsed_content("train#dataset")
    pairs = trained.workflow("synthesize", workflow_type="infer").parser.get_parsed_content("dataset")
    for part, number in ((0, 0), (0, 1), (1, 0), (1, 1)):
        one, other = training[part * 2 + number], pairs[part * 2 + number]
        assert torch.equal(one["instances"], other["instances"])
        assert one["seed"] == other["seed"]


def in_labels(change):
    """What ``change`` makes of the patches' label maps."""

    def apply(folder):
        for file in (folder / "labels").glob("*.png"):
            changed = change(np.asarray(Image.open(file)).copy())
            file.unlink() if changed is None else Image.fromarray(changed).save(file)

    return apply


def only_cut(label):
    label[:] = 0
    label[0:9, 20:30] = 1
    return label


MISTAKES = {
    "not annotated": (lambda label: None, {}, ["label", "there is no such file"]),
    "other size": (lambda label: label[:50], {}, ["label", "(64, 50)"]),
    "no nuclei": (lambda label: label * 0, {}, ["training", "0 of 2 patches have a nucleus"]),
    "cut nuclei only": (only_cut, {}, ["training", "0 of 2 patches have a nucleus farther than 1 px from the border"]),
    "a mask": (lambda label: (label > 0).astype(np.uint16), {}, ["label", "which is a mask"]),
    "small": (None, {"smallest_px": 65}, ["64 x 64 pixels", "smallest_px"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_one_sentence(stage, tmp_path, name):
    change, options, parts = MISTAKES[name]
    shutil.copytree(stage.patches_dir, tmp_path / "own")
    if change is not None:
        in_labels(change)(tmp_path / "own")
    workflow = stage.workflow("train_gan", patches_dir=str(tmp_path / "own"), **options)
    with pytest.raises(SystemExit) as raised:
        workflow.initialize()
    sentence = str(raised.value)
    assert all(part in sentence for part in parts), sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_no_generator_yet_and_other_generators(stage, trained, tmp_path):
    with pytest.raises(SystemExit, match=r"found no weights of the 2 patches; train first"):
        stage.workflow("synthesize", workflow_type="infer").initialize()
    with pytest.raises(SystemExit, match="belong to another network"):
        trained.workflow("synthesize", workflow_type="infer", channels=8, synthetic_dir=str(tmp_path)).initialize()


def command(*arguments, folder, launcher=()):
    """``python -m monai.bundle run`` in a process of its own; gives its exit status and errors."""
    process = subprocess.run(
        [sys.executable, *launcher, "-m", "monai.bundle", "run", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stderr


def test_two_processes_train_a_patch_each_and_a_third_draws(tmp_path):
    """On phantoms that the first of them makes."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/tiny.json").write_text(json.dumps(TINY | TRAIN | {"scale_epochs": 1} | PAIRS))
    files = ("--config_file", "['configs/train_gan.json','configs/tiny.json']")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    status, errors = command("training", *files, folder=tmp_path, launcher=torchrun)
    assert status == 0, errors
    names = names_of(tmp_path / "output/selection")
    found = {path.name for path in (tmp_path / "models/gan").iterdir()}
    assert found == {f"{name}.pt" for name in names} | {"checkpoint_rank_0.pt", "checkpoint_rank_1.pt"}
    for rank, name in enumerate(names):
        assert [path.stem for path in (tmp_path / f"output/gan_rank_{rank}/overlays").glob("*.png")] == [name]
    files = ("--config_file", "['configs/synthesize.json','configs/tiny.json']")
    status, errors = command("synthesizing", *files, folder=tmp_path)
    assert status == 0, errors
    assert len(json.loads((tmp_path / "output/synthesis/datalist.json").read_text())["training"]) == 4


def test_misspelt_key(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    files = ("--config_file", "configs/train_gan.json")
    status, errors = command("training", *files, "--scale_epoch", 3, folder=tmp_path)
    assert status == 1
    assert "--scale_epoch" in errors.splitlines()[-1]
    assert "did you mean --scale_epochs?" in errors.splitlines()[-1]
    assert not (tmp_path / "output").exists()
