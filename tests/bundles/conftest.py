# SPDX-License-Identifier: Apache-2.0
"""PA-Seg's bundle made small: a tiny network, two training phantoms, everything written under a temporary folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from monai_ext.data import make_phantoms

CONFIGS = Path(__file__).parents[2] / "bundles/pa_seg_3d/configs"
COUNTS = {"training": 2, "validation": 2, "test": 1, "shape": [32, 32, 24]}
NETWORK = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2],
}  # fmt: skip
AUXILIARY = NETWORK | {"_target_": "AttentionUnet"}


class Bundle:
    """Runs the bundle's configurations in this process with ``root`` as their ``bundle_root``."""

    configs, network, auxiliary = CONFIGS, NETWORK, AUXILIARY

    def __init__(self, root, phantom_dir):
        self.root = root
        self.phantom_dir = phantom_dir

    def workflow(self, *names, workflow_type="train", **overrides):
        """A workflow of ``names`` under configs/, not yet initialised; phantoms unless ``dataset_dir`` is given."""
        values = {
            "bundle_root": str(self.root),
            "phantom_dir": str(self.phantom_dir),
            "phantom": COUNTS,
            "network_def": NETWORK,
            **({"auxiliary_def": AUXILIARY} if "train_scm" in names else {}),
            **overrides,
        }
        files = [str(CONFIGS / f"{name}.json") for name in names]
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

    def metrics(self, stage="stage1"):
        """Rows of the run's table."""
        with (self.root / "output" / stage / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def copy_configs(self):
        """The bundle's folder with its configurations and ``tiny.json``, for runs from the command line."""
        shutil.copytree(CONFIGS, self.root / "configs")
        tiny = {"phantom_dir": str(self.phantom_dir), "phantom": COUNTS, "network_def": NETWORK}
        (self.root / "configs/tiny.json").write_text(json.dumps(tiny))
        return self.root


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
