# SPDX-License-Identifier: Apache-2.0
"""The surface distance as an ignite metric, down to the file that MONAI's saver writes."""

from __future__ import annotations

import csv

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import MetricsSaver, from_engine

from monai_ext.handlers.metrics import HausdorffDistanceHandler, PooledSurfaceHandler, SurfaceDistanceHandler


def line(position: int, spacing: float) -> MetaTensor:
    """One-hot (2, 8, 8): a full line across the image, so distances between lines are differences of position."""
    mask = torch.zeros(8, 8)
    mask[position] = 1
    return MetaTensor(torch.stack([1 - mask, mask]), affine=torch.diag(torch.tensor([spacing, spacing, 1.0, 1.0])))


def test_mean_over_cases_and_details(tmp_path):
    engine = Engine(lambda _, batch: batch)
    SurfaceDistanceHandler(output_transform=from_engine(["pred", "label"])).attach(engine, "assd")
    names = lambda batch: [{"filename_or_obj": item["name"]} for item in batch]  # noqa: E731
    MetricsSaver(str(tmp_path), metrics=None, metric_details="*", batch_transform=names).attach(engine)
    cases = [
        {"name": "a.nii.gz", "pred": line(1, 1.0), "label": line(3, 1.0)},
        {"name": "b.nii.gz", "pred": line(5, 2.0), "label": line(2, 2.0)},
    ]
    engine.run([cases[:1], cases[1:]])
    assert engine.state.metrics["assd"] == pytest.approx((2 + 6) / 2)
    assert engine.state.metric_details["assd"].flatten().tolist() == [2, 6]
    rows = list(csv.DictReader((tmp_path / "assd_raw.csv").open()))
    assert [(row["filename"], float(row["mean"])) for row in rows] == [("a.nii.gz", 2), ("b.nii.gz", 6)]


def test_options_reach_the_metric():
    engine = Engine(lambda _, batch: batch)
    handler = SurfaceDistanceHandler(
        empty="nan", output_transform=from_engine(["pred", "label"]), spacing_mm=(1, 1), definition="mean_of_means"
    )
    handler.attach(engine, "assd")
    empty = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    engine.run([[{"pred": empty, "label": line(3, 9.0)}, {"pred": line(4, 9.0), "label": line(3, 9.0)}]])
    assert engine.state.metrics["assd"] == 1
    assert handler.metric_fn.definition == "mean_of_means"


def test_hausdorff_and_pooled_distances():
    engine = Engine(lambda _, batch: batch)
    transform = from_engine(["pred", "label"])
    HausdorffDistanceHandler(output_transform=transform).attach(engine, "hd95")
    PooledSurfaceHandler(output_transform=transform).attach(engine, "pooled")
    PooledSurfaceHandler(percentile=100, output_transform=transform).attach(engine, "worst")
    cases = [{"pred": line(1, 1.0), "label": line(3, 1.0)}, {"pred": line(5, 2.0), "label": line(2, 2.0)}]
    for _ in range(2):  # nothing of a first evaluation is left in the second
        engine.run([cases[:1], cases[1:]])
        assert engine.state.metrics == pytest.approx({"hd95": 4, "pooled": 4, "worst": 6})
    assert engine.state.metric_details["hd95"].flatten().tolist() == [2, 6]
    assert "pooled" not in engine.state.metric_details
