# SPDX-License-Identifier: Apache-2.0
"""COCO's mask AP against COCOeval run the usual way, this package's own AP, and values by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from monai_ext.functional.instances import overlaps_of_masks
from monai_ext.metrics.coco_mask_ap import CocoMaskAP, common_size
from monai_ext.metrics.instance_ap import InstanceAveragePrecision

SIZE = 48


def encoded(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def boxes(*corners: tuple[int, int, int, int]) -> list[np.ndarray]:
    masks = []
    for a, b, c, d in corners:
        masks.append(np.zeros((SIZE, SIZE), dtype=bool))
        masks[-1][a:b, c:d] = True
    return masks


def annotations(masks: list[np.ndarray], labels: list[int], scores: list[float] | None = None) -> list[dict]:
    found = [{"category_id": c, "segmentation": encoded(m)} for m, c in zip(masks, labels, strict=True)]
    return found if scores is None else [one | {"score": s} for one, s in zip(found, scores, strict=True)]


def scored_image(rng: np.random.Generator, references: int, extra: int) -> tuple[list[dict], list[dict]]:
    """Overlapping rectangles of two classes, predictions near most of them and elsewhere, scores with ties."""
    corners = [
        (a, a + rng.integers(4, 14), c, c + rng.integers(4, 14)) for a, c in rng.integers(0, 32, (references, 2))
    ]
    labels = rng.integers(1, 3, references).tolist()
    near = [
        (a + i, b + j, c + i, d)
        for (a, b, c, d), i, j in zip(corners, *rng.integers(0, 2, (2, references)), strict=True)
    ]
    other = [(a, a + 9, c, c + 9) for a, c in rng.integers(0, 32, (extra, 2))]
    masks, classes = boxes(*near, *other), labels + rng.integers(1, 3, extra).tolist()
    return annotations(boxes(*corners), labels), annotations(masks, classes, rng.random(len(masks)).round(1).tolist())


def usual_precision(images: list[tuple[list[dict], list[dict]]]) -> np.ndarray:
    """pycocotools the usual way: a COCO dictionary, its results by ``loadRes``; (thresholds, recalls, classes)."""
    truth, found = [], []
    for image, (references, predictions) in enumerate(images):
        for one in references:
            area, box = int(coco_mask.area(one["segmentation"])), coco_mask.toBbox(one["segmentation"]).tolist()
            truth.append({"iscrowd": 0} | one | {"id": len(truth) + 1, "image_id": image, "area": area, "bbox": box})
        found += [one | {"image_id": image} for one in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": SIZE, "width": SIZE} for i in range(len(images))],
            "annotations": truth,
            "categories": [{"id": 1, "name": "cytoplasm"}, {"id": 2, "name": "nucleus"}],
            "info": {},
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), "segm")
        judge.params.maxDets = [1, 10, 200]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 2]


def measured(images: list[tuple[list[dict], list[dict]]], **options) -> CocoMaskAP:
    metric = CocoMaskAP(**options)
    for references, predictions in images:
        metric.update(references, predictions)
    return metric


def test_equals_pycocotools():
    rng = np.random.default_rng(0)
    images = [scored_image(rng, n, extra) for n, extra in [(9, 3), (16, 6), (0, 4), (5, 0), (1, 1)]]
    images += [([], []), (images[0][0], []), (images[1][0][:3], images[1][0][:3])]
    images[-1] = (images[-1][0], [one | {"score": 0.55} for one in images[-1][1]])
    precision, before = usual_precision(images), copy.deepcopy(images)
    metric = measured(images)
    assert images == before
    expected = precision.mean(axis=(0, 1))
    assert 0.1 < expected.min() < expected.max() < 0.9
    assert [metric.value(category=c) for c in (1, 2)] == pytest.approx(expected.tolist(), rel=1e-12)
    assert metric.value() == pytest.approx(precision.mean(), rel=1e-12)
    assert metric.value([0.5]) == pytest.approx(precision[0].mean(), rel=1e-12)
    assert metric.value([0.75], category=2) == pytest.approx(precision[5, :, 1].mean(), rel=1e-12)
    alone = metric.of_images()
    for image in (0, 1, 3, 7):
        classes = usual_precision([images[image]]).mean(axis=(0, 1))
        assert alone[image] == pytest.approx(classes[classes >= 0].mean(), rel=1e-12)
    assert alone[[2, 5, 6]].tolist() == pytest.approx([math.nan, math.nan, 0], nan_ok=True)


def own_ap(images: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    metric = InstanceAveragePrecision()
    for truth, found, scores in images:
        metric.update(overlaps_of_masks(found, truth), scores)
    return metric.value(np.linspace(0.5, 0.95, 10), interpolation="coco")


def test_equals_the_ap_of_one_class():
    rng = np.random.default_rng(1)
    images, arrays = [], []
    for count in (12, 7):
        corners = [(a, a + 8, c, c + 9) for a, c in rng.integers(0, 36, (count, 2))]
        truth = boxes(*corners)
        found = boxes(*[(a + rng.integers(0, 3), b, c, d) for a, b, c, d in corners])
        scores = rng.permutation(count) / count
        images.append((annotations(truth, [2] * count), annotations(found, [2] * count, scores.tolist())))
        arrays.append((np.array(truth), np.array(found), scores))
    expected = own_ap(arrays)
    assert 0.1 < expected < 0.9
    assert measured(images).value(category=2) == pytest.approx(expected, abs=1e-9)
    assert measured(images, classes=[2]).value() == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    """Class 1: ranked a miss, then a hit of IoU 0.8 (precision 1/2); two references. Class 2: one hit of IoU 1."""
    truth = boxes((0, 10, 0, 10), (20, 30, 20, 30), (0, 10, 0, 5))
    found = boxes((40, 44, 40, 44), (0, 10, 0, 8), (0, 10, 0, 5))
    metric = measured([(annotations(truth, [1, 1, 2]), annotations(found, [1, 1, 2], [0.9, 0.8, 0.1]))])
    at_one = 0.5 * 51 / 101  # recalls 0, 0.01, ..., 0.50
    assert metric.value([0.5], category=1) == pytest.approx(at_one)
    assert metric.value([0.85], category=1) == 0
    assert metric.value(category=1) == pytest.approx(0.7 * at_one)  # 0.50 to 0.80
    assert metric.value(category=2) == pytest.approx(1)
    assert metric.value() == pytest.approx((0.7 * at_one + 1) / 2)
    assert metric.of_images([0.5]).tolist() == pytest.approx([(at_one + 1) / 2])
    floor = measured([(annotations(truth, [1, 1, 2]), annotations(found, [1, 1, 2], [0.9, 0.8, 0.1]))], score_floor=0.2)
    assert floor.value(category=2) == 0


def test_200_predictions_count_and_not_201():
    """All miss but the last of the ranking."""
    truth, miss = annotations(boxes((0, 9, 0, 9)), [1]), annotations(boxes((20, 24, 20, 24)), [1], [0.5])
    hit = [truth[0] | {"score": 0.1}]
    assert measured([(truth, miss * 199 + hit)]).value(category=1) == pytest.approx(1 / 200)
    assert measured([(truth, miss * 200 + hit)]).value(category=1) == 0


def test_images_without_predictions_and_classes_without_references():
    truth = annotations(boxes((0, 9, 0, 9)), [1])
    hit, false = [truth[0] | {"score": 0.5}], annotations(boxes((0, 9, 0, 9)), [2], [0.9])
    metric = measured([([], []), (truth, hit + false), (truth, [])])
    assert metric.value(category=1) == pytest.approx(51 / 101)
    assert math.isnan(metric.value(category=2))
    assert metric.value() == pytest.approx(51 / 101)
    assert metric.of_images().tolist() == pytest.approx([math.nan, 1, 0], nan_ok=True)
    assert math.isnan(measured([([], false)]).value())
    assert measured([]).of_images().shape == (0,)


def test_order_of_cells_and_of_images():
    rng = np.random.default_rng(2)
    images = [scored_image(rng, n, 4) for n in (8, 11, 3)]
    for _, predictions in images:
        for one, score in zip(predictions, rng.permutation(len(predictions)), strict=True):
            one["score"] = (score + rng.random()) / 100
    mixed = [([t[i] for i in rng.permutation(len(t))], [p[i] for i in rng.permutation(len(p))]) for t, p in images]
    value = measured(images).value()
    assert 0 < value < 1
    assert measured(mixed[::-1]).value() == pytest.approx(value, rel=1e-12)


def test_crowds_are_coco_s():
    """A prediction inside a crowd is neither a hit nor a miss, and a crowd is no reference."""
    crowd, cell = boxes((0, 20, 0, 20), (30, 40, 30, 40))
    truth = annotations([crowd, cell], [1, 1])
    truth[0]["iscrowd"] = 1
    found = annotations([*boxes((5, 9, 5, 9)), cell], [1, 1], [0.9, 0.8])
    assert measured([(truth, found)]).value() == pytest.approx(1)
    assert math.isnan(measured([(truth[:1], found)]).value())


def test_other_classes_reset_and_silence(capsys):
    truth = annotations(boxes((0, 9, 0, 9)) * 2, [1, 7])
    metric = measured([(truth, [one | {"score": 0.5} for one in truth])], classes=[2, 1])
    assert metric.classes == (1, 2)
    assert len(metric.images[0].references) == len(metric.images[0].predictions) == 1
    assert metric.value() == pytest.approx(1)
    assert capsys.readouterr() == ("", "")
    metric.reset()
    with pytest.raises(ValueError, match="No image was measured"):
        metric.value()


def test_run_lengths_of_text_and_of_other_kinds():
    truth = annotations(boxes((0, 9, 0, 9)), [1])
    runs = {"size": [SIZE, SIZE], "counts": truth[0]["segmentation"]["counts"].decode()}
    metric = measured([([{"category_id": 1, "segmentation": runs}], [truth[0] | {"score": 0.5}])])
    assert metric.value() == pytest.approx(1)
    for other in ([[0, 0, 9, 0, 9, 9]], {"size": [2, 2], "counts": [0, 4]}):
        with pytest.raises(ValueError, match="expected compressed run lengths"):
            CocoMaskAP().update([{"category_id": 1, "segmentation": other}], [])
    with pytest.raises(ValueError, match=r"sizes \(48, 48\) and \(4, 5\)"):
        common_size([runs, encoded(np.ones((4, 5)))])
    assert common_size([]) == (0, 0)
