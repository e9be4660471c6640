# SPDX-License-Identifier: Apache-2.0
"""A packed bundle runs alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.data import make_cell_phantoms

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles/cks/configs"
ALONE = "import sys, runpy; sys.modules['monai_ext'] = None; runpy.run_module('monai.bundle', run_name='__main__')"


@pytest.fixture
def weights(tmp_path):
    """Of the network that small.json describes."""
    parser = ConfigParser()
    parser.read_config([CONFIGS / "inference.json", CONFIGS / "small.json"])
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_it_runs_without_the_package(script, tmp_path, weights, capsys):
    options = ["--weights", str(weights), "--out", str(tmp_path), "--zip"]
    script("pack_bundle").main([str(ROOT / "bundles/cks"), "--overlays", "small", *options])
    make_cell_phantoms(tmp_path / "data", training=1, validation=1, test=1, size=64)
    version = json.loads((CONFIGS / "metadata.json").read_text())["version"]
    archive = tmp_path / f"cks_v{version}.zip"
    assert str(archive) in capsys.readouterr().out
    zipfile.ZipFile(archive).extractall(tmp_path / "elsewhere")
    command = [sys.executable, "-c", ALONE, "run", "inference", "--config_file", "configs/inference.json"]
    done = subprocess.run(
        [*command, "--dataset_dir", str(tmp_path / "data")],
        cwd=tmp_path / "elsewhere/cks",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "elsewhere/cks/output/inference/images").glob("*_cells.png"))) == 1


def test_only_what_inference_knows_is_taken_from_overlays(script, tmp_path, weights):
    options = ["--weights", str(weights), "--out", str(tmp_path), "--overlays", "small"]
    script("pack_bundle").main([str(ROOT / "bundles/cks"), *options])
    before = json.loads((CONFIGS / "inference.json").read_text())
    after = json.loads((tmp_path / "cks/configs/inference.json").read_text())
    small = json.loads((CONFIGS / "small.json").read_text())
    assert after.keys() == before.keys()
    assert {key: after[key] for key in small.keys() & before.keys()} == {
        k: small[k] for k in small.keys() & before.keys()
    }
    assert after["window_px"] == 48
    assert after["network_def"]["_target_"] == "scripts.networks.PointInstanceNet"
    merge, config = script("pack_bundle")._merge, {"a": {"b": {"c": 1}}, "d": 2}
    merge(config, {"a#b#c": 3, "a#b#x": 4, "e": 5, "d#f": 6})
    assert config == {"a": {"b": {"c": 3}}, "d": 2}


def test_no_trace_of_the_old_name_is_imported(script, tmp_path, weights):
    script("pack_bundle").main([str(ROOT / "bundles/cks"), "--weights", str(weights), "--out", str(tmp_path)])
    for file in (tmp_path / "cks/scripts").rglob("*.py"):
        compile(file.read_text(), str(file), "exec")
        assert "import monai_ext" not in file.read_text()
        assert "from monai_ext" not in file.read_text()
    assert not list((tmp_path / "cks").rglob("__pycache__"))


def test_faults_get_a_sentence(script, tmp_path, weights):
    main = script("pack_bundle").main
    with pytest.raises(SystemExit, match=r"configs/inference\.json in it, expected a bundle's folder"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    shutil.copytree(ROOT / "bundles/cks/configs", tmp_path / "cks/configs")
    with pytest.raises(SystemExit, match=r"model\.pt: there is no such file; train first"):
        main([str(tmp_path / "cks"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"huge\.json: there is no such overlay"):
        main([str(tmp_path / "cks"), "--weights", str(weights), "--out", str(tmp_path / "out"), "--overlays", "huge"])
    with pytest.raises(SystemExit, match="is there already"):
        main([str(tmp_path / "cks"), "--weights", str(weights), "--out", str(tmp_path)])
