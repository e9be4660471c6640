# SPDX-License-Identifier: Apache-2.0
"""AJI and COCO's mask AP of overlapping classes in MONAI's evaluator."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from pycocotools import mask as coco_mask

from monai_ext.functional.instances import overlaps_of_masks
from monai_ext.handlers.class_instance_metrics import (
    ClassInstanceMetricHandler,
    NamedClassMetric,
    overlaps_of_run_lengths,
)

NAMES = ["aji", "aji_kumar", "map", "ap50", "aji_1", "aji_2", "aji_kumar_1", "map_1", "ap50_1", "map_2"]


def instances(rows: list[list[int]], labels: list[int], scores: list[float] | None = None) -> dict:
    """Masks of one row of ten pixels."""
    masks = torch.tensor(rows, dtype=torch.bool).reshape(len(rows), 1, 10)
    found = {"masks": masks, "labels": torch.tensor(labels, dtype=torch.int64)}
    return found if scores is None else found | {"scores": torch.tensor(scores)}


def row(start: int, stop: int) -> list[int]:
    return [int(start <= i < stop) for i in range(10)]


CASES = [
    {  # cytoplasm at IoU 6/8, a false one below the floor of AJI; the nucleus inside it whole
        "pred": instances([row(0, 6), row(2, 5), row(9, 10)], [1, 2, 1], [0.8, 0.9, 0.05]),
        "label": instances([row(0, 8), row(2, 5)], [1, 2]),
    },
    {"pred": instances([], [], []), "label": instances([], [])},
    {  # IoU 2/6 is below the gate
        "pred": instances([row(0, 4)], [1], [0.7]),
        "label": instances([row(2, 6)], [1]),
    },
    {"pred": instances([], [], []), "label": instances([row(1, 3)], [2])},
]
EXPECTED = {
    "aji_1": (6 / 8 + 0) / 2,
    "aji_2": (1 + 0) / 2,
    "aji": (6 / 16 + 1 / 2) / 2,
    "aji_kumar_1": (6 / 8 + 2 / 6) / 2,
    "aji_kumar": ((6 / 8 + 2 / 6) / 2 + 1 / 2) / 2,
    "map_1": 0.6 * 51 / 101,  # a hit up to 0.75, one of two references
    "map_2": 51 / 101,
    "map": 0.8 * 51 / 101,
    "ap50_1": 51 / 101,
    "ap50": 51 / 101,
}
NAN = math.nan
PER_IMAGE = {
    "aji": [(6 / 8 + 1) / 2, NAN, 0, 0],
    "aji_kumar_1": [6 / 8, NAN, 2 / 6, NAN],
    "map": [0.8, NAN, 0, 0],
    "ap50_1": [1, NAN, 0, NAN],
}


def as_runs(found: dict) -> dict:
    masks = found["masks"].numpy().astype(np.uint8)
    return found | {"masks": [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]}


def evaluated(handlers: dict, cases: list = CASES) -> Engine:
    engine = Engine(lambda _, batch: batch)
    for name, handler in handlers.items():
        handler.attach(engine, name)
    for _ in range(2):  # nothing of a first evaluation is left in the second
        engine.run([cases[:1], cases[1:]])
    return engine


@pytest.mark.parametrize("packed", [False, True])
def test_values_and_each_image(packed):
    cases = [{key: as_runs(one) for key, one in case.items()} for case in CASES] if packed else CASES
    state = evaluated({name: ClassInstanceMetricHandler(name) for name in NAMES}, cases).state
    assert state.metrics == pytest.approx(EXPECTED)
    assert set(state.metric_details) == {f"{name}_per_image" for name in NAMES}
    for name, values in PER_IMAGE.items():
        assert state.metric_details[f"{name}_per_image"].shape == (4, 1)
        assert state.metric_details[f"{name}_per_image"].flatten().tolist() == pytest.approx(values, nan_ok=True)


def test_options():
    handlers = {
        "aji": ClassInstanceMetricHandler("aji_1", score_floor=0.0, save_details=False),
        "map": ClassInstanceMetricHandler("map_1", score_floor=0.75, save_details=False),
        "ap80": ClassInstanceMetricHandler("ap80", save_details=False),
    }
    state = evaluated(handlers).state
    assert state.metrics["aji"] == pytest.approx((6 / 9 + 0) / 2)
    assert state.metrics["map"] == pytest.approx(0.6 * 51 / 101)
    assert state.metrics["ap80"] == pytest.approx((0 + 51 / 101) / 2)
    assert not getattr(state, "metric_details", {})


@pytest.mark.parametrize("name", ["aji_3", "aji_kumar_0", "dice", "ap5", "map_", "coco_map"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"metric is '{name}'.* the classes are \\[1, 2\\]"):
        ClassInstanceMetricHandler(name)


def test_other_class_numbers():
    cases = [{key: one | {"labels": one["labels"] + 3} for key, one in case.items()} for case in CASES]
    handlers = {name: ClassInstanceMetricHandler(name, classes=[5, 4]) for name in ("aji", "aji_4", "map", "map_5")}
    metrics = evaluated(handlers, cases).state.metrics
    assert metrics == pytest.approx(
        {"aji": EXPECTED["aji"], "aji_4": EXPECTED["aji_1"], "map": EXPECTED["map"], "map_5": EXPECTED["map_2"]}
    )


def test_nothing_at_all():
    handlers = {name: ClassInstanceMetricHandler(name) for name in ("aji", "map")}
    state = evaluated(handlers, [CASES[1], CASES[1]]).state
    assert all(math.isnan(value) for value in state.metrics.values())


def test_in_monais_evaluator():
    """The network gives a list of dictionaries, so nothing is decollated."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(range(4), batch_size=2),
        prepare_batch=lambda batch, *_, **__: (batch, [CASES[i]["label"] for i in batch.tolist()]),
        network=Lookup(),
        key_val_metric={"val_aji": ClassInstanceMetricHandler("aji")},
        additional_metrics={"val_map": ClassInstanceMetricHandler("map")},
        decollate=False,
    )
    evaluator.run()
    assert evaluator.state.best_metric == pytest.approx(EXPECTED["aji"])
    assert evaluator.state.metrics["val_map"] == pytest.approx(EXPECTED["map"])


class Lookup(torch.nn.Module):
    """Finds the prediction of a case by its number."""

    def forward(self, numbers: torch.Tensor) -> list[dict]:
        return [CASES[i]["pred"] for i in numbers.tolist()]


@pytest.mark.parametrize("name", ["aji", "map"])
def test_images_of_all_processes_count(monkeypatch, name):
    parts = []
    for part in (CASES[:1], CASES[1:]):
        handler = ClassInstanceMetricHandler(name)
        handler.update(from_engine(["pred", "label"])(part))
        parts.append(handler.named)
    ours, theirs = parts

    def gather(ranks: list, images: list) -> None:
        ranks[:] = [pickle.loads(pickle.dumps(one)) for one in (images, theirs.collected.images)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert ours.gathered().value() == pytest.approx(EXPECTED[name])
    assert ours.gathered().of_images().tolist() == pytest.approx(PER_IMAGE[name], nan_ok=True)
    assert len(ours.of_images()) == 1


def test_no_dense_masks_are_kept():
    mask = torch.zeros((3, 1000, 1000), dtype=torch.bool)
    mask[:, 100:400, 200:500] = True
    image = {"masks": mask, "labels": torch.tensor([1, 2, 2])}
    for name in ("aji", "map"):
        handler = ClassInstanceMetricHandler(name)
        handler.update(([image | {"scores": torch.ones(3)}], [image]))
        assert len(pickle.dumps(handler.named.collected.images)) < 20_000
        assert handler.compute() == pytest.approx(1)


def test_overlaps_of_run_lengths_equal_those_of_masks():
    rng = np.random.default_rng(0)
    for p, g in [(9, 14), (0, 3), (4, 0), (0, 0), (1, 1)]:
        found, truth = (rng.random((n, 37, 23)) < 0.4 for n in (p, g))
        found[:1] = truth[1:2] = False  # empty masks
        runs = [as_runs({"masks": torch.from_numpy(masks)})["masks"] for masks in (found, truth)]
        expected = overlaps_of_masks(found, truth)
        for ours, theirs in zip(overlaps_of_run_lengths(*runs), expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


def test_errors():
    good = CASES[0]["pred"]
    wrong = [
        ({"masks": good["masks"].float()}, "float32 of shape"),
        ({"masks": good["masks"][:, 0]}, r"shape \(3, 10\)"),
        ({"labels": good["labels"][:2]}, r"3 masks have labels of shape \(2,\)"),
        ({"scores": good["scores"][:, None]}, r"scores of shape \(3, 1\)"),
        ({"labels": torch.tensor([0, 1, 2])}, r"labels \[0\], expected only \[1, 2\]"),
        ({"masks": torch.zeros((3, 1, 9), dtype=torch.bool)}, r"sizes \(1, 9\) and \(1, 10\)"),
        ({"masks": [[0, 0, 1, 1, 2, 2]] * 3}, "expected compressed run lengths"),
    ]
    for change, message in wrong:
        for name in ("aji", "map"):
            with pytest.raises(ValueError, match=message):
                ClassInstanceMetricHandler(name).update(([good | change], [CASES[0]["label"]]))
    with pytest.raises(ValueError, match=r"zip\(\)"):
        ClassInstanceMetricHandler("aji").update(([good, good], [CASES[0]["label"]]))


def test_the_default_score_floors():
    assert NamedClassMetric("aji").collected.score_floor == NamedClassMetric("aji_kumar_2").collected.score_floor == 0.1
    assert NamedClassMetric("map").collected.score_floor == NamedClassMetric("ap50_1").collected.score_floor == 0
