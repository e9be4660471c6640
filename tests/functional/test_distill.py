# SPDX-License-Identifier: Apache-2.0
"""Masks of the levels and the distance of features on them (Eq. 4 of MMT-PSM) against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_ext.functional.distill import masked_distance, masks_of_levels

SHAPES = [(6, 10), (4, 5), (3, 7), (1, 1), (12, 20)]  # with a whole number of pixels in a cell, and without


def random_mask(shape=(3, 12, 20), *, seed=0, share=0.5):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def plain_mask(mask, shape):
    """A cell takes in each pixel that it touches, as adaptive pooling does."""
    (h, w), (_, height, width) = shape, mask.shape
    out = np.zeros((len(mask), h, w), dtype=bool)
    for b, i, j in np.ndindex(out.shape):
        rows = slice(i * height // h, math.ceil((i + 1) * height / h))
        columns = slice(j * width // w, math.ceil((j + 1) * width / w))
        cell = mask[b, rows, columns].numpy()
        out[b, i, j] = 2 * cell.sum() > cell.size
    return out


def features(views=3, batch=2, channels=4, size=(5, 6), *, dtype=torch.float64, seed=0):
    """A student's, those of a teacher's views, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    student, *teacher = torch.randn(views + 1, batch, channels, *size, generator=generator, dtype=dtype)
    return student.requires_grad_(), torch.stack(teacher), random_mask((batch, *size), seed=seed)


def plain_distance(student, teacher, mask):
    """Mean over the views of Eq. 4 as printed, for one level, with its sums over the batch."""
    student, values = student.detach(), []
    for view in teacher:
        total, area = 0.0, 0
        for b, i, j in mask.nonzero().tolist():
            total += sum((view[b, c, i, j] - student[b, c, i, j]).item() ** 2 for c in range(student.shape[1]))
            area += 1
        values.append(total / (student.shape[1] * area))
    return sum(values) / len(values)


# Masks


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_masks_equal_a_loop_over_cells(share):
    mask = random_mask(share=share)
    found = masks_of_levels(mask, SHAPES)
    assert [tuple(m.shape) for m in found] == [(3, *shape) for shape in SHAPES]
    assert all(m.dtype == torch.bool for m in found)
    for level, shape in zip(found, SHAPES, strict=True):
        np.testing.assert_array_equal(level, plain_mask(mask, shape))


@pytest.mark.parametrize("cell", [(2, 2), (6, 5), (3, 4)])
def test_half_a_cell_is_not_enough_and_one_pixel_more_is(cell):
    mask = torch.zeros(2, cell[0] * cell[1], dtype=torch.bool)
    mask[0, : cell[0] * cell[1] // 2] = True
    mask[1, : cell[0] * cell[1] // 2 + 1] = True
    (found,) = masks_of_levels(mask.reshape(2, *cell), [(1, 1)])
    assert found[:, 0, 0].tolist() == [False, True]


def test_masks_of_nothing_all_and_the_same_grid():
    mask = random_mask()
    assert not any(m.any() for m in masks_of_levels(torch.zeros_like(mask), SHAPES))
    assert all(m.all() for m in masks_of_levels(torch.ones_like(mask), SHAPES))
    assert torch.equal(masks_of_levels(mask, [mask.shape[1:]])[0], mask)
    assert masks_of_levels(mask, []) == []
    assert masks_of_levels(mask[:0], [(3, 5)])[0].shape == (0, 3, 5)


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_masks_of_a_mirrored_image_are_mirrored(axes):
    mask = random_mask()
    for level, mirrored in zip(masks_of_levels(mask, SHAPES), masks_of_levels(mask.flip(axes), SHAPES), strict=True):
        assert torch.equal(mirrored, level.flip(axes))


# Distance


def test_distance_by_hand():
    student, mask = torch.zeros(1, 2, 1, 3), torch.tensor([[[True, True, False]]])
    view = torch.tensor([[1.0, 2.0, 50.0], [3.0, 0.0, 50.0]])[None, :, None]  # 1 + 9 + 4 + 0 on two pixels
    assert masked_distance(student, view[None], mask).item() == pytest.approx(14 / 4)
    assert masked_distance(student, torch.stack([view, 3 * view]), mask).item() == pytest.approx((14 + 126) / 8)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_distance_equals_a_loop_over_views_and_pixels(views):
    student, teacher, mask = features(views)
    assert masked_distance(student, teacher, mask).item() == pytest.approx(plain_distance(student, teacher, mask))
    whole = torch.ones_like(mask)
    mean = torch.stack([torch.nn.functional.mse_loss(student, view) for view in teacher]).mean()
    torch.testing.assert_close(masked_distance(student, teacher, whole), mean)


def test_distance_is_zero_at_equality_and_where_views_differ_their_variance():
    student, teacher, mask = features()
    same = masked_distance(student, student.detach().expand(3, -1, -1, -1, -1), mask)
    same.backward()
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12
    at_mean = masked_distance(teacher.mean(0), teacher, mask).item()
    assert at_mean == pytest.approx(teacher.numpy().var(0).transpose(0, 2, 3, 1)[mask.numpy()].mean())
    assert at_mean < masked_distance(student, teacher, mask)


def test_what_lies_off_the_mask_does_not_count_and_gets_no_gradient():
    student, teacher, mask = features()
    value = masked_distance(student, teacher, mask)
    value.backward()
    off = ~mask[:, None]
    assert torch.equal(masked_distance(student + 7 * off, teacher - 9 * off, mask), value)
    assert (student.grad != 0).all(1).equal(mask)
    assert (student.grad != 0).any(1).equal(mask)
    expected = 2 * mask[:, None] * (student.detach() - teacher.mean(0)) / (4 * mask.sum())
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("batch", [1, 2])
def test_an_empty_mask_costs_nothing_and_keeps_the_graph(batch):
    student, teacher, mask = features(batch=batch)
    value = masked_distance(student, teacher, torch.zeros_like(mask))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
    one = torch.zeros_like(mask)
    one[0, 2, 3] = True
    assert masked_distance(student, teacher, one).item() == pytest.approx(plain_distance(student, teacher, one))


def test_the_sums_are_over_the_batch():
    student, teacher, mask = features()
    mask[0, :2], mask[1, 1:] = True, False
    each = [masked_distance(student[b : b + 1], teacher[:, b : b + 1], mask[b : b + 1]).item() for b in range(2)]
    areas = mask.sum((1, 2)).tolist()
    whole = masked_distance(student, teacher, mask).item()
    assert whole == pytest.approx(np.average(each, weights=areas))
    assert whole != pytest.approx(np.mean(each), rel=1e-3)


def test_what_leaves_the_distance_as_it_is():
    student, teacher, mask = features()
    value = masked_distance(student, teacher, mask)
    flipped = masked_distance(student.flip(-1), teacher.flip(-1), mask.flip(-1))
    tiled = masked_distance(student.repeat(1, 1, 2, 3), teacher.repeat(1, 1, 1, 2, 3), mask.repeat(1, 2, 3))
    channels = masked_distance(student.repeat(1, 2, 1, 1), teacher.repeat(1, 1, 2, 1, 1), mask)
    repeated = masked_distance(student, teacher.flip(0).repeat(2, 1, 1, 1, 1), mask)
    for other in (flipped, tiled, channels, repeated):
        torch.testing.assert_close(other, value)
    torch.testing.assert_close(masked_distance(3 * student, 3 * teacher, mask), 9 * value)  # no square root
    torch.testing.assert_close(masked_distance(student + 5, teacher + 5, mask), value)


def test_gradcheck_and_no_gradient_for_the_teacher():
    student, teacher, mask = features(2, size=(3, 2))
    assert torch.autograd.gradcheck(lambda z: masked_distance(z, teacher, mask), student)
    teacher.requires_grad_()
    masked_distance(student, teacher, mask).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    student, teacher, mask = features()
    student, teacher = (200 * student.detach()).to(dtype), (200 * teacher).to(dtype)  # float16 has no 256^2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_distance(student, teacher, mask)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(plain_distance(student.double(), teacher.double(), mask), rel=1e-5)


def test_small_differences_of_large_features_survive_in_float32():
    student, teacher, mask = features()
    student, teacher = (1e3 + student.detach() / 8).float(), (1e3 + teacher / 8).float()
    expected = plain_distance(student.double(), teacher.double(), mask)
    assert masked_distance(student, teacher, mask).item() == pytest.approx(expected, rel=1e-3)
    assert masked_distance(student.double(), teacher.double(), mask).dtype == torch.float64
