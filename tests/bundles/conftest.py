# SPDX-License-Identifier: Apache-2.0
"""Bundles made small: tiny networks, a few phantoms, everything written under a temporary folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from monai_ext.data import (
    make_cell_phantoms,
    make_histology_phantoms,
    make_membrane_phantoms,
    make_phantoms,
    make_smear_phantoms,
)

BUNDLES = Path(__file__).parents[2] / "bundles"
COUNTS = {"training": 2, "validation": 2, "test": 1, "shape": [32, 32, 24]}
NETWORK = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2],
}  # fmt: skip
AUXILIARY = NETWORK | {"_target_": "AttentionUnet"}
CELL_NETWORK = {
    "_target_": "monai_ext.networks.PointInstanceNet",
    "backbone": {"_target_": "monai_ext.networks.ConvNeXtFPN", "size": "micro", "channels": 8},
    "channels": 8, "mask_channels": 8, "window_px": 32,
}  # fmt: skip
TILES = {"training": 2, "unlabeled": 4, "validation": 2, "test": 2, "size": 32}
DETECTOR = {
    "_target_": "monai_ext.networks.CellMaskRCNN", "backbone": "resnet18", "norm": "group", "channels": 16,
    "hidden": 16, "anchor_sizes": [8, 16, 32, 64, 128], "proposals": 20, "box_samples": 16, "detections": 10,
    "instance_relation": True, "duplicate_removal": True,
}  # fmt: skip
SMEARS = {"training": 2, "unlabeled": 2, "validation": 2, "test": 2, "size": 64, "diameter_px": 24, "spread": 1.0}
NUCLEI = DETECTOR | {"classes": 2, "instance_relation": False, "duplicate_removal": False, "score_threshold": 0.05}
TISSUE = {"training": 3, "validation": 1, "test": 1, "size": 128, "diameter_px": 14}
CELLS = {"training": 2, "validation": 2, "test": 2, "size": 64, "diameter_px": 12}


class Bundle:
    """Runs PA-Seg's configurations in this process with ``root`` as their ``bundle_root``."""

    configs, network, auxiliary = BUNDLES / "pa_seg_3d/configs", NETWORK, AUXILIARY
    phantom, make_phantoms, first_stage = COUNTS, staticmethod(make_phantoms), "stage1"

    def __init__(self, root, phantom_dir):
        self.root = root
        self.phantom_dir = phantom_dir

    def tiny(self):
        """Values that stand for the bundle's own."""
        return {"phantom_dir": str(self.phantom_dir), "phantom": self.phantom, "network_def": self.network}

    def workflow(self, *names, workflow_type="train", **overrides):
        """A workflow of ``names`` under configs/, not yet initialised; phantoms unless ``dataset_dir`` is given."""
        values = {
            "bundle_root": str(self.root),
            **self.tiny(),
            **({"auxiliary_def": self.auxiliary} if "train_scm" in names else {}),
            **overrides,
        }
        files = [str(self.configs / f"{name}.json") for name in names]
        return ConfigWorkflow(files, workflow_type=workflow_type, logging_file=False, **values)

    def run(self, *names, **overrides):
        """The same, run to its end."""
        workflow = self.workflow(*names, **overrides)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    def auxiliary_run(self):
        """Stage one of the second network, whose definition stands where the overlay has its own."""
        return self.run("train", "smoke", "auxiliary", network_def=AUXILIARY)

    def metrics(self, stage=None):
        """Rows of the run's table."""
        with (self.root / "output" / (stage or self.first_stage) / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def run_the_pages_commands(self, command_line, *options):
        """Training and inference in the bundle's folder, evaluation from elsewhere; nothing is written elsewhere."""
        folder = self.copy_configs()
        names = ["train", "smoke"]
        elsewhere = str([f"{folder.name}/configs/{name}.json" for name in [*names, "evaluate"]])
        for arguments, where in (
            (["run", "training", *command_line.files(*names)], folder),
            (["run", "evaluating", "--config_file", elsewhere, "--bundle_root", folder.name], folder.parent),
            (["run", "inference", *command_line.files("inference"), "--dataset_dir", "output/phantom_smoke"], folder),
        ):
            status, errors = command_line(*arguments, *options, folder=where)
            assert status == 0, errors
        assert [row["epoch"] for row in self.metrics()] == ["1", "2"]
        assert "phantom_test_001" in (folder / "output/evaluation/report.html").read_text()
        assert sorted(path.name for path in folder.parent.iterdir() if path != folder) == []
        return folder / "output"

    def copy_configs(self):
        """The bundle's folder with its configurations and ``tiny.json``, for runs from the command line."""
        shutil.copytree(self.configs, self.root / "configs")
        (self.root / "configs/tiny.json").write_text(json.dumps(self.tiny()))
        return self.root


class EUGMTBundle(Bundle):
    """EUGMT's configurations likewise."""

    configs = BUNDLES / "eugmt/configs"
    network = NETWORK | {"spatial_dims": 2, "in_channels": 3}
    phantom, make_phantoms, first_stage = TILES, staticmethod(make_membrane_phantoms), "training"

    def tiny(self):
        return {**super().tiny(), "patch_size": [32, 32]}


class CKSBundle(Bundle):
    """CKS's configurations likewise."""

    configs, network = BUNDLES / "cks/configs", CELL_NETWORK
    phantom, make_phantoms, first_stage = CELLS, staticmethod(make_cell_phantoms), "training"

    def tiny(self):
        return {**super().tiny(), "crop_px": [48, 48]}


class MMTPSMBundle(Bundle):
    """MMT-PSM's configurations likewise."""

    configs, network = BUNDLES / "mmt_psm/configs", DETECTOR
    phantom, make_phantoms, first_stage = SMEARS, staticmethod(make_smear_phantoms), "training"


class CSinGANBundle(Bundle):
    """CSinGAN's fourth stage likewise; of its untrained network every detection counts."""

    configs, network = BUNDLES / "cps_csingan/configs", NUCLEI
    phantom, make_phantoms, first_stage = TISSUE, staticmethod(make_histology_phantoms), "training"

    def tiny(self):
        return {**super().tiny(), "pseudo_score": 0.0}


def start(*arguments, folder, program=("-m", "monai.bundle")):
    """Starts the command as a user would type it in ``folder``."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(*names):
    """``--config_file`` of several files under configs/."""
    return ["--config_file", str([f"configs/{name}.json" for name in names])]


class CommandLine:
    """``python -m monai.bundle`` in a process of its own."""

    start, files = staticmethod(start), staticmethod(files)

    def __call__(self, *arguments, folder, **options):
        """Runs to the end; returns exit status and what was written to stderr."""
        process = start(*arguments, folder=folder, **options)
        _, errors = process.communicate()
        return process.returncode, errors


@pytest.fixture(scope="session")
def command_line():
    return CommandLine()


class Mistakes:
    """What a user's mistakes get: each is (change to the bundle's folder, verb, files, options, parts of the sentence).

    Runs on a copy of the phantoms in ``data``, two at a time: most of the time is Python's start.
    """

    def __init__(self, mistakes, make_bundle, folder):
        self.mistakes, self.make_bundle, self.folder = mistakes, make_bundle, folder
        with ThreadPoolExecutor(2) as pool:
            self.outcomes = dict(zip(mistakes, pool.map(self.run, mistakes), strict=True))

    def run(self, name):
        change, verb, names, arguments, _ = self.mistakes[name]
        bundle = self.make_bundle(self.folder / name.replace(" ", "_"))
        folder = bundle.copy_configs()
        shutil.copytree(bundle.phantom_dir, folder / "data")
        if change is not None:
            change(folder)
        data = ["--dataset_dir", "data"]
        return folder, *CommandLine()("run", verb, *files(*names), *data, *arguments, folder=folder)

    def assert_one_sentence(self, name):
        """Exit status 1, one sentence that names the fault, and nothing trained or predicted."""
        folder, status, errors = self.outcomes[name]
        assert status == 1
        assert "Traceback" not in errors
        sentence = errors.strip().splitlines()[-1]
        for part in self.mistakes[name][-1]:
            assert part in sentence
        assert sentence.endswith((".", "?"))
        assert not [*folder.rglob("metrics.csv"), *folder.rglob("*_seg.*")], "the run started"


@pytest.fixture(scope="session")
def make_mistakes(tmp_path_factory):
    return lambda mistakes, make_bundle: Mistakes(mistakes, make_bundle, tmp_path_factory.mktemp("mistakes"))


@pytest.fixture
def prepare_real(tmp_path):
    """Makes a data set of a published folder by its script; gives the set's folder and its datalist's content."""

    def prepare(name, *options):
        source, script = Path(os.environ["FRUGAL_DATA"]) / name, BUNDLES.parent / f"scripts/prepare_{name}.py"
        command = [sys.executable, script, source, "--out", tmp_path / "data", *options]
        subprocess.run(command, check=True, capture_output=True)
        return tmp_path / "data", json.loads((tmp_path / "data/datalist.json").read_text())

    return prepare


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Whatever the machine has: sums on a GPU come out in another order each time."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _without_determinism_afterwards():
    yield
    set_determinism(None)


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    make_phantoms(folder, **COUNTS)
    return folder


@pytest.fixture(scope="session")
def make_bundle(phantom_dir):
    """Gives a bundle that writes under the folder it is called with."""
    return lambda root: Bundle(root, phantom_dir)


@pytest.fixture
def bundle(tmp_path, make_bundle):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def stage_one(tmp_path_factory, phantom_dir):
    """A bundle after stage one of both networks: read from it, write elsewhere."""
    bundle = Bundle(tmp_path_factory.mktemp("stage_one"), phantom_dir)
    bundle.run("train", "smoke")
    bundle.auxiliary_run()
    return bundle


def fixtures_of(name, bundle_class):
    """Three fixtures: what makes the bundle on phantoms of the session, one to write to, and a trained one to read."""

    @pytest.fixture(scope="session", name=f"make_{name}")
    def make(tmp_path_factory):
        folder = tmp_path_factory.mktemp(f"{name}_phantoms")
        bundle_class.make_phantoms(folder, **bundle_class.phantom)
        return lambda root: bundle_class(root, folder)

    @pytest.fixture(name=name)
    def fresh(tmp_path, request):
        return request.getfixturevalue(f"make_{name}")(tmp_path / "bundle")

    @pytest.fixture(scope="session", name=f"trained_{name}")
    def trained(tmp_path_factory, request):
        bundle = request.getfixturevalue(f"make_{name}")(tmp_path_factory.mktemp(f"trained_{name}"))
        bundle.run("train", "smoke")
        return bundle

    return make, fresh, trained


make_eugmt, eugmt, trained_eugmt = fixtures_of("eugmt", EUGMTBundle)
make_cks, cks, trained_cks = fixtures_of("cks", CKSBundle)
make_mmt_psm, mmt_psm, trained_mmt_psm = fixtures_of("mmt_psm", MMTPSMBundle)
make_cps_csingan, cps_csingan, trained_cps_csingan = fixtures_of("cps_csingan", CSinGANBundle)
