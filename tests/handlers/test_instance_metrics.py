# SPDX-License-Identifier: Apache-2.0
"""Metrics of instances in MONAI's evaluator, down to the files and the report."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver, from_engine

from monai_ext.handlers.instance_metrics import InstanceGroups, InstanceMetricHandler, NamedInstanceMetric
from monai_ext.handlers.report import pooled_metrics
from monai_ext.handlers.report_data import read_cases

TRANSFORM = from_engine(["pred", "label"])


def case(found: list[int], scores: list[float], truth: list[int], **extra) -> dict:
    """A row of pixels: prediction (2, 1, Y), each pixel's score, and label (1, 1, Y)."""
    pred = torch.tensor([found, scores], dtype=torch.float32)[:, None]
    return {"pred": pred, "label": torch.tensor(truth, dtype=torch.float32)[None, None], **extra}


CASES = [
    case([1, 1, 0, 0, 0, 0], [0.6, 0.6, 0, 0, 0, 0], [4, 4, 0, 0, 0, 0], group="b", name="x/1.png"),
    case([1, 1, 0, 3, 3, 3], [0.5, 0.5, 0, 0.9, 0.9, 0.9], [1, 1, 0, 0, 0, 0], group="a", name="x/2.png"),
    case([0, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 0], group="a", name="x/3.png"),
    case([1, 1, 1, 0, 0, 0], [0.3, 0.3, 0.3, 0, 0, 0], [1, 1, 1, 1, 0, 0], name="x/4.png"),
]
"""Ranked: a miss, hits at precision 1/2, 2/3, and of the last, IoU 3/4, at 3/4; three references."""


def evaluated(handlers: dict, *, attach: tuple = (), cases: list = CASES) -> Engine:
    engine = Engine(lambda _, batch: batch)
    for name, handler in handlers.items():
        handler.attach(engine, name)
    for handler in attach:
        handler.attach(engine)
    for _ in range(2):  # nothing of a first evaluation is left in the second
        engine.run([cases[:1], cases[1:]])
    return engine


def test_pooled_values():
    names = ["ap50", "ap75", "ap90", "map", "coco_ap50", "coco_ap75", "coco_map", "dice", "count_error"]
    metrics = evaluated({n: InstanceMetricHandler(n, output_transform=TRANSFORM) for n in names}).state.metrics
    ap50, ap75 = (1 / 2 + 2 / 3 + 3 / 4) / 3, (1 / 2 + 2 / 3) / 3
    assert metrics["ap50"] == pytest.approx(ap50)
    assert metrics["ap75"] == metrics["ap90"] == pytest.approx(ap75)  # 3/4 does not exceed 0.75
    assert metrics["map"] == pytest.approx((5 * ap50 + 5 * ap75) / 10)
    assert metrics["coco_ap50"] == metrics["coco_ap75"] == pytest.approx(3 / 4)
    assert metrics["coco_map"] == pytest.approx((6 * 3 / 4 + 4 * 2 / 3 * 67 / 101) / 10)
    assert metrics["dice"] == pytest.approx((4 / 8 + 4 / 7) / 2)  # the last case's score is below 0.5
    assert metrics["count_error"] == pytest.approx((0 + 1 + 0 + 1) / 4)


def test_options():
    handlers = {
        "floor": InstanceMetricHandler("ap50", score_floor=0.55, output_transform=TRANSFORM),
        "dice": InstanceMetricHandler("dice", score_floor=0.0, save_details=False),
    }
    engine = evaluated(handlers)
    assert engine.state.metrics["floor"] == pytest.approx(1 / 2 / 3)
    assert engine.state.metrics["dice"] == pytest.approx(((4 + 4 * 6 / 7) / 8 + (4 + 3 * 6 / 7) / 10) / 2)
    assert list(engine.state.metric_details) == ["floor_per_image"]
    with pytest.raises(ValueError, match="metric is 'ap5'"):
        InstanceMetricHandler("ap5")


def test_each_image_and_the_report(tmp_path):
    saver = MetricsSaver(
        str(tmp_path),
        metrics=None,
        metric_details="*",
        batch_transform=lambda batch: [{"filename_or_obj": item["name"]} for item in batch],
    )
    handlers = {f"val_{n}": InstanceMetricHandler(n) for n in ("ap50", "dice")}
    engine = evaluated(handlers, attach=(saver,))
    assert engine.state.metric_details["val_ap50_per_image"].flatten().tolist() == pytest.approx(
        [1, 0.5, math.nan, 1], nan_ok=True
    )
    assert set(pooled_metrics(engine)) == {"ap50", "dice"}
    cases = read_cases(tmp_path, tmp_path)
    assert cases["2.png"] == {"ap50_per_image": 0.5, "dice_per_image": pytest.approx((1 + 2 / 5) / 2)}
    assert math.isnan(cases["3.png"]["ap50_per_image"])
    assert cases["3.png"]["dice_per_image"] == 1


def test_groups(tmp_path):
    evaluated({}, attach=(InstanceGroups(tmp_path, metrics=["ap50", "dice", "count_error"]),))
    with (tmp_path / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["group", "images", "cells", "ap50", "dice", "count_error"]
    assert [(row["group"], row["images"], row["cells"]) for row in rows] == [
        ("a", "2", "1"),
        ("b", "1", "1"),
        ("all", "4", "3"),
    ]
    assert [float(row["ap50"]) for row in rows] == pytest.approx([0.5, 1, (1 / 2 + 2 / 3 + 3 / 4) / 3], abs=1e-5)
    assert [float(row["count_error"]) for row in rows] == [0.5, 0, 0.5]


def test_a_group_without_cells_and_numbers_as_groups(tmp_path):
    cases = [{**CASES[2], "group": torch.tensor(7)}, {**CASES[0], "group": 12}]
    evaluated({}, attach=(InstanceGroups(tmp_path, filename="lines.csv"),), cases=cases)
    assert (tmp_path / "lines.csv").read_text().splitlines() == [
        "group,images,cells,ap50,ap75,map,dice",
        "12,1,1,1,1,1,1",
        "7,1,0,,,,1",
        "all,2,1,1,1,1,1",
    ]


def test_in_monais_evaluator(tmp_path):
    """The image is the prediction, so the network is the identity."""
    data = [
        {"image": MetaTensor(c["pred"]), "label": MetaTensor(c["label"]), "group": c.get("group", "c")} for c in CASES
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=2),
        network=torch.nn.Identity(),
        key_val_metric={"val_ap50": InstanceMetricHandler("ap50")},
        additional_metrics={"val_dice": InstanceMetricHandler("dice")},
        val_handlers=[InstanceGroups(tmp_path)],
    )
    evaluator.run()
    assert evaluator.state.best_metric == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert evaluator.state.metrics["val_dice"] == pytest.approx((4 / 8 + 4 / 7) / 2)
    rows = (tmp_path / "groups.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["a", "b", "c", "all"]


def test_without_scores_and_in_batches():
    pred, label = torch.tensor([[[[1.0, 1, 2]]], [[[0, 0, 0]]]]), torch.tensor([[[[5.0, 5, 0]]], [[[0, 0, 0]]]])
    engine = Engine(lambda _, batch: batch)
    InstanceMetricHandler("ap50", output_transform=lambda x: x).attach(engine, "ap50")
    engine.run([(pred, label)])
    assert engine.state.metrics["ap50"] == 1


@pytest.mark.parametrize(("pred", "label"), [((3, 4, 4), (1, 4, 4)), ((2, 4, 4), (1, 4, 5)), ((2, 4, 4), (2, 4, 4))])
def test_wrong_shapes(pred, label):
    with pytest.raises(ValueError, match="Prediction and label have shapes"):
        InstanceMetricHandler("map").update(([torch.zeros(pred)], [torch.zeros(label)]))


def test_images_of_all_processes_count(monkeypatch):
    ours, theirs = NamedInstanceMetric("ap50"), NamedInstanceMetric("ap50")
    for metric, part in ((ours, CASES[:1]), (theirs, CASES[1:])):
        handler = InstanceMetricHandler("ap50")
        handler.named = metric
        handler.update(TRANSFORM(part))

    def gather(ranks: list, images: list) -> None:
        ranks[:] = [images, theirs.collected.images]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert ours.gathered().value() == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert len(ours.collected.images) == 1
    assert len(ours.gathered().of_images()) == 4


def test_metrics_of_nuclei_are_means_over_images():
    """The third image holds nothing and is left out; the last one's nucleus is not certain and counts as missed."""
    names = ["aji", "aji_plus", "pq", "foreground_dice"]
    metrics = evaluated({n: InstanceMetricHandler(n, output_transform=TRANSFORM) for n in names}).state.metrics
    assert metrics["aji"] == metrics["aji_plus"] == pytest.approx((1 + 2 / 5 + 0) / 3)
    assert metrics["pq"] == pytest.approx((1 + 1 / 1.5 + 0) / 3)
    assert metrics["foreground_dice"] == pytest.approx((1 + 2 * 2 / 7 + 0) / 3)


def test_score_floor_of_nuclei():
    handlers = {"aji": InstanceMetricHandler("aji", score_floor=0.2, output_transform=TRANSFORM)}
    assert evaluated(handlers).state.metrics["aji"] == pytest.approx((1 + 2 / 5 + 3 / 4) / 3)


def test_groups_of_nuclei_metrics(tmp_path):
    metrics = ["aji", "foreground_dice"]
    groups = InstanceGroups(tmp_path, metrics, group_key="group")
    engine = Engine(lambda _, batch: batch)
    groups.attach(engine)
    engine.run([CASES])
    with (tmp_path / "groups.csv").open(newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    assert float(rows["a"]["aji"]) == pytest.approx(2 / 5)
    assert float(rows["b"]["foreground_dice"]) == 1
    assert float(rows["all"]["aji"]) == pytest.approx((1 + 2 / 5 + 0) / 3, rel=1e-5)
