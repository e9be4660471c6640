# SPDX-License-Identifier: Apache-2.0
"""Average precision against scikit-learn, pycocotools, a plain double loop and values by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from monai_ext.functional.instances import overlaps_of_label_maps, overlaps_of_masks
from monai_ext.metrics.instance_ap import THRESHOLDS, InstanceAveragePrecision, average_precision, hits


def reference_hits(iou: np.ndarray, scores: np.ndarray, threshold: float, strict: bool) -> list[bool]:
    """Plain reference: predictions by falling score look at every reference that is left."""
    used, found = set(), [False] * len(scores)
    for p in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        best, best_iou = None, 0.0
        for r in range(iou.shape[1]):
            enough = iou[p, r] > threshold if strict else iou[p, r] >= threshold
            better = iou[p, r] > best_iou if strict else iou[p, r] >= best_iou
            if r not in used and enough and better and iou[p, r] > 0:
                best, best_iou = r, iou[p, r]
        if best is not None:
            used.add(best)
            found[p] = True
    return found


def reference_ap(scores: np.ndarray, found: np.ndarray, references: int) -> float:
    """Plain reference: the paper's sum, term by term."""
    total, so_far = 0.0, 0
    for k, p in enumerate(sorted(range(len(scores)), key=lambda i: (-scores[i], i)), start=1):
        so_far += int(found[p])
        total += int(found[p]) * so_far / k
    return total / references


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 40, 40) masks that may overlap."""
    masks = np.zeros((count, 40, 40), dtype=bool)
    for mask in masks:
        x, y = rng.integers(0, 30, 2)
        mask[x : x + rng.integers(3, 10), y : y + rng.integers(3, 10)] = True
    return masks


def scored_image(rng: np.random.Generator, references: int, extra: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """References, predictions near them and elsewhere, and scores with ties."""
    truth = rectangles(rng, references)
    near = [np.roll(m, tuple(rng.integers(-1, 2, 2)), (0, 1)) for m in truth if rng.random() < 0.9]
    found = np.concatenate([np.array(near, dtype=bool).reshape(-1, 40, 40), rectangles(rng, extra)])
    return truth, found, rng.random(len(found)).round(1)


def coco_precision(images: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """pycocotools' AP at each of its ten thresholds, with as many detections an image as there are."""

    def encoded(mask: np.ndarray) -> dict:
        return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))

    truth, found = [], []
    for image, (references, predictions, scores) in enumerate(images, start=1):
        for mask in references:
            rle = encoded(mask)
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": rle})
            truth[-1] |= {"area": float(mask.sum()), "bbox": mask_utils.toBbox(rle).tolist()}
        for mask, score in zip(predictions, scores, strict=True):
            found.append({"image_id": image, "category_id": 1, "segmentation": encoded(mask), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1, "height": 40, "width": 40} for i in range(len(images))],
            "annotations": truth,
            "categories": [{"id": 1, "name": "cell"}],
            "info": {},
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found), "segm")
        judge.params.maxDets = [100_000]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, 0].mean(axis=1)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8])
def test_matching_equals_a_double_loop(strict, threshold):
    rng = np.random.default_rng(0)
    for shape in [(12, 9), (5, 14), (1, 1), (0, 3), (3, 0)]:
        iou, scores = rng.random(shape).round(1), rng.random(shape[0]).round(1)
        found = hits(iou, scores, threshold=threshold, strict=strict)
        assert found.tolist() == reference_hits(iou, scores, threshold, strict)


def test_matching_by_hand():
    """The second prediction's best reference is taken, so it goes to its next; the third finds none left."""
    iou = [[0.9, 0.6], [0.8, 0.7], [0.95, 0.0]]
    assert hits(iou, [0.9, 0.8, 0.7], threshold=0.5).tolist() == [True, True, False]
    assert hits(iou, [0.9, 0.8, 0.7], threshold=0.75).tolist() == [True, False, False]
    assert hits(iou, [0.1, 0.8, 0.9], threshold=0.5).tolist() == [False, True, True]


def test_an_iou_at_the_threshold():
    for threshold, (shared, union) in zip(THRESHOLDS, [(t // 5, 20) for t in range(50, 100, 5)], strict=True):
        iou = [[shared / union]]
        assert hits(iou, [1], threshold=threshold).tolist() == [False]
        assert hits(iou, [1], threshold=threshold, strict=False).tolist() == [True]


def test_equals_scikit_learn_without_ties():
    rng = np.random.default_rng(1)
    for count, missed in [(200, 0), (50, 30), (3, 1)]:
        scores, found = rng.permutation(count) / count, rng.random(count) > 0.4
        found[0] = True
        references = int(found.sum()) + missed
        expected = average_precision_score(found, scores) * found.sum() / references
        assert average_precision(scores, found, references) == pytest.approx(expected, rel=1e-12)


def test_coco_equals_pycocotools():
    rng = np.random.default_rng(2)
    images = [scored_image(rng, n, extra) for n, extra in [(8, 4), (15, 5), (0, 3), (6, 0), (1, 1), (0, 0)]]
    images.append((rectangles(rng, 4), np.zeros((0, 40, 40), dtype=bool), np.zeros(0)))
    images.append((images[0][0][[0, 0, 1]], images[0][0][[0, 1, 0]], np.array([0.3, 0.9, 0.6])))  # equal references
    expected = coco_precision(images)
    assert 0 < expected[-1] < expected[0] < 0.95
    metric = InstanceAveragePrecision()
    for truth, found, scores in images:
        metric.update(overlaps_of_masks(found, truth), scores)
    thresholds = np.linspace(0.5, 0.95, 10)
    values = [metric.value([t], interpolation="coco") for t in thresholds]
    assert values == pytest.approx(expected.tolist(), abs=1e-9)
    assert metric.value(interpolation="coco") == pytest.approx(expected.mean(), abs=1e-9)


def test_pooling_equals_the_plain_sum():
    rng = np.random.default_rng(3)
    images = [scored_image(rng, n, extra) for n, extra in [(9, 5), (12, 2), (3, 0), (0, 2)]]
    metric = InstanceAveragePrecision()
    for truth, found, scores in images:
        metric.update(overlaps_of_masks(found, truth), scores)
    expected = []
    for threshold in THRESHOLDS:
        tables = [overlaps_of_masks(found, truth).iou() for truth, found, _ in images]
        found = [reference_hits(t, image[2], threshold, True) for t, image in zip(tables, images, strict=True)]
        expected.append(reference_ap(np.concatenate([i[2] for i in images]), np.concatenate(found), 24))
        assert metric.value([threshold]) == pytest.approx(expected[-1], rel=1e-12)
    assert metric.value() == pytest.approx(np.mean(expected), rel=1e-12)


def test_pooled_and_per_image_by_hand():
    """Ranked over both images: a miss, then hits at precision 1/2 and 2/3."""
    metric = InstanceAveragePrecision()
    one, two = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 2]])
    metric.update(overlaps_of_label_maps(one, one), [0.6], group="a")
    metric.update(overlaps_of_label_maps(two, one), [0.5, 0.9], group="b")
    assert metric.value([0.5]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metric.value([0.5], interpolation="coco") == pytest.approx(2 / 3)
    assert metric.of_images([0.5]).tolist() == [1, 0.5]
    assert [metric.value(group=group) for group in "ab"] == [1, 0.5]
    with pytest.raises(ValueError, match="No image of group 'c'"):
        metric.value(group="c")
    metric.reset()
    with pytest.raises(ValueError, match="No image was measured"):
        metric.value()


def test_perfect_prediction_and_order_of_cells():
    rng = np.random.default_rng(4)
    truth, found, _ = scored_image(rng, 20, 6)
    scores = rng.permutation(len(found)) / len(found)
    metric = InstanceAveragePrecision()
    metric.update(overlaps_of_masks(truth, truth), np.ones(20))
    assert metric.value() == metric.value(interpolation="coco") == 1
    metric.reset()
    p, r = rng.permutation(len(found)), rng.permutation(20)
    metric.update(overlaps_of_masks(found, truth), scores)
    metric.update(overlaps_of_masks(found[p], truth[r]), scores[p])
    values = metric.of_images()
    assert values[0] == values[1]
    assert 0 < values[0] < 1


def test_a_score_floor_leaves_predictions_out():
    truth, found = np.array([[1, 0, 2, 0]]), np.array([[3, 5, 4, 0]])
    metric = InstanceAveragePrecision(score_floor=0.2)
    metric.update(overlaps_of_label_maps(found, truth), [0.2, 0.1, 0.9])
    assert metric.images[0].predictions == 2
    assert metric.value([0.5]) == pytest.approx(1 / 2 / 2)  # a miss, a hit at precision 1/2; the other is left out


def test_empty_images():
    nothing, one = np.zeros((3, 3), dtype=int), np.ones((3, 3), dtype=int)
    metric = InstanceAveragePrecision()
    metric.update(overlaps_of_label_maps(nothing, nothing), [])
    assert np.isnan(metric.value())
    metric.update(overlaps_of_label_maps(nothing, one), [])
    assert metric.value() == metric.value(interpolation="coco") == 0
    metric.update(overlaps_of_label_maps(one, one), [0.5])
    assert metric.value() == 0.5
    metric.update(overlaps_of_label_maps(one, nothing), [0.9])
    assert metric.value() == 0.25
    assert metric.of_images().tolist() == pytest.approx([np.nan, 0, 1, 0], nan_ok=True)
    assert average_precision([], [], 0) != average_precision([], [], 0)
    assert average_precision([0.5], [False], 0) == 0


def test_errors():
    with pytest.raises(ValueError, match="interpolation is 'voc'"):
        average_precision([1.0], [True], 1, interpolation="voc")
    with pytest.raises(ValueError, match=r"1 predictions have scores of shape \(2,\)"):
        InstanceAveragePrecision().update(overlaps_of_label_maps([[1]], [[1]]), [0.1, 0.2])
