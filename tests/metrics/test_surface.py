# SPDX-License-Identifier: Apache-2.0
"""Surface distances against point clouds, MONAI and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.metrics import compute_average_surface_distance

from monai_ext.metrics.surface import (
    AverageSurfaceDistance,
    HausdorffDistance,
    PooledSurfaceDistance,
    average_surface_distance_mm,
    hausdorff_distance_mm,
)


def surface_points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Plain reference: loop over voxels; a surface voxel has a face neighbour outside the mask."""
    points = []
    for index in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = index.copy()
                near[axis] += step
                if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                    points.append(tuple(index * np.array(spacing)))
    return np.array(sorted(set(points)))


def reference_distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    p, q = surface_points(a, spacing), surface_points(b, spacing)
    table = np.linalg.norm(p[:, None] - q[None], axis=-1)
    return table.min(1), table.min(0)


def reference_assd(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], definition: str) -> float:
    there, back = reference_distances(a, b, spacing)
    if definition == "mean_of_means":
        return (there.mean() + back.mean()) / 2
    return (there.sum() + back.sum()) / (there.size + back.size)


def cube(shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def onehot(*masks: np.ndarray) -> torch.Tensor:
    """(B, 2, *S): background and object."""
    object_ = torch.from_numpy(np.stack(masks))[:, None].float()
    return torch.cat([1 - object_, object_], dim=1)


PAIRS = [
    ((12, 10, 9), (2, 2, 2), (5, 5, 4), (4, 3, 1), (5, 4, 6)),
    ((12, 10, 9), (0, 0, 0), (3, 10, 9), (6, 2, 2), (6, 8, 2)),
    ((14, 11), (1, 1), (6, 5), (5, 4), (9, 7)),
]


@pytest.mark.parametrize("definition", ["pooled", "mean_of_means"])
@pytest.mark.parametrize(("shape", "start_a", "size_a", "start_b", "size_b"), PAIRS)
def test_point_clouds(definition, shape, start_a, size_a, start_b, size_b):
    spacing = (0.5, 1.0, 2.5)[: len(shape)]
    a, b = cube(shape, start_a, size_a), cube(shape, start_b, size_b)
    got = average_surface_distance_mm(a, b, spacing_mm=spacing, definition=definition)
    assert got == pytest.approx(reference_assd(a, b, spacing, definition), rel=1e-9)


def test_random_masks_equal_monai_when_pooled():
    rng = np.random.default_rng(0)
    pred, label = (onehot(*(rng.random((3, 9, 8, 7)) > share)) for share in (0.6, 0.8))
    spacing = [0.7, 1.3, 3.0]
    expected = compute_average_surface_distance(pred, label, symmetric=True, spacing=spacing)
    got = AverageSurfaceDistance(spacing_mm=spacing)(pred, label)
    torch.testing.assert_close(got, expected)


def test_definitions_differ_by_hand():
    """One pixel against a row of three: distances 0 from the pixel, 0, 1, 2 back."""
    pixel, row = cube((1, 5), (0, 1), (1, 1)), cube((1, 5), (0, 1), (1, 3))
    assert average_surface_distance_mm(pixel, row, spacing_mm=(1, 1)) == pytest.approx(3 / 4)
    value = average_surface_distance_mm(pixel, row, spacing_mm=(1, 1), definition="mean_of_means")
    assert value == pytest.approx((0 + 1) / 2)


def test_symmetric_scales_with_spacing_and_follows_permuted_axes():
    a, b = cube((9, 9, 9), (1, 1, 1), (4, 4, 4)), cube((9, 9, 9), (2, 3, 4), (5, 4, 3))
    value = average_surface_distance_mm(a, b, spacing_mm=(1, 2, 3))
    assert average_surface_distance_mm(b, a, spacing_mm=(1, 2, 3)) == pytest.approx(value)
    assert average_surface_distance_mm(a, b, spacing_mm=(2, 4, 6)) == pytest.approx(2 * value)
    turned = average_surface_distance_mm(a.transpose(2, 0, 1), b.transpose(2, 0, 1), spacing_mm=(3, 1, 2))
    assert turned == pytest.approx(value)


def test_equal_masks_are_zero():
    a = cube((6, 6, 6), (1, 1, 1), (3, 3, 3))
    assert average_surface_distance_mm(a, a, spacing_mm=(1, 1, 1)) == 0


def oblique_affine(spacing: list[float], turn: float) -> torch.Tensor:
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]], dtype=torch.float64
    )
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = rotation @ torch.diag(torch.tensor(spacing, dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-90.0, 126.0, 40.0])
    return affine


def test_spacing_of_each_item_comes_from_its_affine_even_when_oblique():
    a, b = cube((8, 8, 8), (1, 1, 1), (3, 3, 3)), cube((8, 8, 8), (2, 3, 4), (4, 3, 3))
    spacings = [[1.0, 1.0, 1.0], [0.5, 2.0, 3.0]]
    labels = [MetaTensor(onehot(b)[0], affine=oblique_affine(s, 0.6)) for s in spacings]
    preds = [onehot(a)[0]] * 2
    expected = [reference_assd(a, b, tuple(s), "pooled") for s in spacings]
    metric = AverageSurfaceDistance()
    assert metric(preds, labels).flatten().tolist() == pytest.approx(expected)
    batch = list_data_collate([{"label": label} for label in labels])["label"]
    assert metric(onehot(a, a), batch).flatten().tolist() == pytest.approx(expected)
    assert metric.aggregate().item() == pytest.approx(np.mean(expected))
    assert len(metric.get_buffer()) == 4


def test_spacing_falls_back_to_the_prediction_and_is_never_guessed():
    a = onehot(cube((4, 4), (0, 0), (2, 2)))
    b = onehot(cube((4, 4), (1, 1), (2, 2)))
    one_mm = AverageSurfaceDistance(spacing_mm=(1, 1))(a, b)
    pred = MetaTensor(a[0], affine=torch.diag(torch.tensor([2.0, 2.0, 1.0])))
    torch.testing.assert_close(AverageSurfaceDistance()([pred], [b[0]]), 2 * one_mm)
    with pytest.raises(ValueError, match="pass spacing_mm"):
        AverageSurfaceDistance()(a, b)


def test_empty_masks():
    full, nothing = cube((3, 4, 12), (1, 1, 1), (1, 1, 1)), np.zeros((3, 4, 12), dtype=bool)
    spacing = (1.0, 1.0, 1.0)
    pred, label = onehot(nothing, full, nothing, full), onehot(full, nothing, nothing, full)
    metric = AverageSurfaceDistance(spacing_mm=spacing, get_not_nans=True)
    assert metric(pred, label).flatten().tolist() == [13, 13, 0, 0]
    value, count = metric.aggregate()
    assert (value.item(), count.item()) == (6.5, 4)
    metric = AverageSurfaceDistance(spacing_mm=spacing, get_not_nans=True, empty="nan")
    assert torch.isnan(metric(pred, label)).flatten().tolist() == [True, True, True, False]
    value, count = metric.aggregate()
    assert (value.item(), count.item()) == (0, 1)


def test_nothing_to_average_is_nan_not_perfect():
    nothing = onehot(np.zeros((4, 4), dtype=bool))
    metric = AverageSurfaceDistance(spacing_mm=(1, 1), empty="nan")
    metric(nothing, nothing)
    assert torch.isnan(metric.aggregate())
    assert torch.isnan(metric.aggregate("mean_batch")).all()
    metric.reset()
    with pytest.raises(ValueError, match="No case was measured"):
        metric.aggregate()


def test_background_is_measured_on_request():
    pred, label = onehot(cube((6, 6), (0, 0), (3, 3))), onehot(cube((6, 6), (0, 0), (2, 3)))
    both = AverageSurfaceDistance(spacing_mm=(1, 1), include_background=True)(pred, label)
    assert both.shape == (1, 2)
    torch.testing.assert_close(both[:, 1:], AverageSurfaceDistance(spacing_mm=(1, 1))(pred, label))
    torch.testing.assert_close(AverageSurfaceDistance(spacing_mm=(1, 1))(pred[:, 1:], label[:, 1:]), both[:, 1:])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"definition": "mean"}, "definition is 'mean'"), ({"empty": "zero"}, "empty is 'zero'")],
)
def test_unknown_options(arguments, match):
    with pytest.raises(ValueError, match=match):
        AverageSurfaceDistance(**arguments)


def test_wrong_shapes():
    pred = onehot(cube((4, 4), (0, 0), (2, 2)))
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) and \(1, 2, 4, 3\)"):
        AverageSurfaceDistance(spacing_mm=(1, 1))(pred, pred[..., :3])
    with pytest.raises(ValueError, match="expected 2 numbers"):
        AverageSurfaceDistance(spacing_mm=(1, 1, 1))(pred, pred)


@pytest.mark.parametrize(("shape", "start_a", "size_a", "start_b", "size_b"), PAIRS)
def test_hausdorff_against_point_clouds(shape, start_a, size_a, start_b, size_b):
    spacing = (0.5, 1.0, 2.5)[: len(shape)]
    a, b = cube(shape, start_a, size_a), cube(shape, start_b, size_b)
    distances = np.sort(np.concatenate(reference_distances(a, b, spacing)))
    assert hausdorff_distance_mm(a, b, spacing_mm=spacing, percentile=100) == pytest.approx(distances[-1])
    place = 0.95 * (len(distances) - 1)
    low, share = int(place), place % 1
    expected = distances[low] * (1 - share) + distances[min(low + 1, len(distances) - 1)] * share
    assert hausdorff_distance_mm(a, b, spacing_mm=spacing) == pytest.approx(expected)
    metric = HausdorffDistance(spacing_mm=spacing)
    assert metric(onehot(a), onehot(b)).item() == pytest.approx(expected, rel=1e-6)


def test_hausdorff_of_empty_masks():
    full, nothing = cube((3, 4), (1, 1), (1, 1)), np.zeros((3, 4), dtype=bool)
    pred, label = onehot(nothing, full, nothing, full), onehot(full, nothing, nothing, full)
    metric = HausdorffDistance(spacing_mm=(1, 1))
    assert metric(pred, label).flatten().tolist() == [5, 5, 0, 0]
    assert metric.aggregate().item() == 2.5
    assert torch.isnan(HausdorffDistance(spacing_mm=(1, 1), empty="nan")(pred, label)).sum() == 3
    for metric in (HausdorffDistance, PooledSurfaceDistance):
        with pytest.raises(ValueError, match="percentile is 101"):
            metric(percentile=101)


@pytest.mark.parametrize("percentile", [None, 95.0])
def test_pooling_weighs_by_length_of_contour(percentile):
    preds = [cube((14, 11), (1, 1), (6, 5)), cube((14, 11), (0, 0), (2, 2))]
    labels = [cube((14, 11), (3, 1), (6, 5)), cube((14, 11), (5, 5), (2, 2))]
    every = np.concatenate(
        [d for p, q in zip(preds, labels, strict=True) for d in reference_distances(p, q, (1.0, 1.0))]
    )
    metric = PooledSurfaceDistance(spacing_mm=(1, 1), percentile=percentile)
    for pred, label in zip(preds, labels, strict=True):
        metric(onehot(pred), onehot(label))
    expected = every.mean() if percentile is None else np.percentile(every, percentile)
    assert metric.aggregate().item() == pytest.approx(expected)
    metric.reset()
    metric(onehot(preds[0]), onehot(preds[0]))
    assert metric.aggregate().item() == 0


def test_pooling_of_empty_masks():
    """A missed ring of eight pixels counts eight times the diagonal; two empty masks count nothing."""
    ring, nothing = cube((3, 4), (0, 0), (3, 3)), np.zeros((3, 4), dtype=bool)
    ring[1, 1] = False
    metric = PooledSurfaceDistance(spacing_mm=(1, 1))
    metric(onehot(nothing, ring, nothing), onehot(ring, ring, nothing))
    assert metric.aggregate().item() == pytest.approx(8 * 5 / (8 + 16))
    metric = PooledSurfaceDistance(spacing_mm=(1, 1), empty="nan")
    metric(onehot(nothing, nothing), onehot(ring, nothing))
    assert torch.isnan(metric.aggregate())
