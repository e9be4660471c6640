# SPDX-License-Identifier: Apache-2.0
"""All four stages of CPS and CSinGAN on real tissue, from the published folder on."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "bundles/cps_csingan/configs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data"),
]


def test_few_patches_grow_into_nuclei_of_other_slides(tmp_path, prepare_real):
    """Four patches, 2.5 % of the pixels: generators are barely begun, and after 60 iterations nuclei are found."""
    data, content = prepare_real("dsb2018_histology", "--instances")
    content["validation"] = content["validation"][::3]
    (data / "datalist.json").write_text(json.dumps(content))
    folders = {"patches_dir": "selection", "gan_dir": "gan", "synthetic_dir": "synthesis"}
    folders = {key: str(tmp_path / name) for key, name in folders.items()}

    def run(stage, *overlays, workflow_type="train", **values):
        values |= {"bundle_root": str(tmp_path), "dataset_dir": str(data), "phantom_dir": str(tmp_path / "none")}
        files = [str(CONFIGS / f"{name}.json") for name in (stage, *overlays, "datasets/dsb2018_histology")]
        workflow = ConfigWorkflow(files, workflow_type=workflow_type, logging_file=False, patches=4, **values)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    chosen, generators, pairs = (
        {key: folders[key] for key in keys}
        for keys in (["patches_dir"], ["patches_dir", "gan_dir"], ["patches_dir", "gan_dir", "synthetic_dir"])
    )
    run("select", features="stain_texture", annotate=True, progress=False, **chosen)
    run("train_gan", "small_gan", channels=8, scale_epochs=1, passes=1, progress=False, **generators)
    run("synthesize", "small_gan", workflow_type="infer", channels=8, pairs=3, **pairs)
    learned = {key: folders[key] for key in ("patches_dir", "synthetic_dir")}
    run("train", "small", round_epochs=3, rounds=0, batch_size=4, progress=False, **learned)

    drawn = json.loads((tmp_path / "synthesis/datalist.json").read_text())["training"]
    names = {Path(entry["image"]).stem[:-4] for entry in drawn}
    assert names <= {path.stem for path in (tmp_path / "selection/labels").glob("*.png")}
    assert len(drawn) == 3 * len(names) > 0
    assert all(np.asarray(Image.open(tmp_path / "synthesis" / entry["label"])).max() > 0 for entry in drawn)
    with (tmp_path / "output/training/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert max(float(row["val/aji"]) for row in rows) > 0.1
