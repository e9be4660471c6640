# SPDX-License-Identifier: Apache-2.0
"""Painting masks against a loop over canvases with a margin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.functional.instance_map import paint_instances
from monai_ext.functional.instances import label_map_of_masks

SIZE = 6
ON, OFF = 3.0, -3.0


def full(places, *, size=SIZE):
    """Full masks at these first pixels, with scores falling from 0.9."""
    count = len(places)
    origin = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return torch.full((count, size, size), ON), origin, 0.9 - 0.1 * torch.arange(count)


def painted_by_hand(logits, origin, scores, sides, threshold=0.5):
    margin, masks = 80, []
    for mask, (i, j) in zip(logits.double().sigmoid() > threshold, origin.tolist(), strict=True):
        canvas = np.zeros((sides[0] + 2 * margin, sides[1] + 2 * margin), dtype=bool)
        i, j = (min(max(k, -70), side + 70) for k, side in zip((i, j), sides, strict=True))
        canvas[i + margin : i + margin + SIZE, j + margin : j + margin + SIZE] = mask.numpy()
        masks.append(canvas[margin:-margin, margin:-margin])
    label = label_map_of_masks(np.stack(masks), scores.numpy())
    _, consecutive = np.unique(np.append(label.ravel(), 0), return_inverse=True)
    values = np.append(0, scores.numpy())[label]
    return np.stack([consecutive[:-1].reshape(label.shape), values])[None].astype(np.float32)


def test_a_contested_pixel_goes_to_the_higher_score():
    found = paint_instances(*full([(0, 0), (2, 3)]), 8, 10)
    assert found.shape == (1, 2, 8, 10)
    assert found.dtype == torch.float32
    numbers, values = found[0]
    assert (numbers[:6, :6] == 1).all()
    assert (numbers[2:8, 6:9] == 2).all()
    assert (numbers[6:8, 3:9] == 2).all()
    assert (numbers == 1).sum() == 36
    assert (numbers == 2).sum() == 36 - 12
    expected = torch.tensor([0.0, 0.9, 0.8])[numbers.long()]
    torch.testing.assert_close(values, expected)


def test_equal_scores_leave_it_to_the_first():
    logits, origin, _ = full([(0, 0), (0, 3)])
    numbers = paint_instances(logits, origin, torch.tensor([0.5, 0.5]), 6, 9)[0, 0]
    assert numbers[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_many_masks_equal_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    count, sides = 600, (41, 57)  # more than are drawn at once
    logits = 2 * torch.randn(count, SIZE, SIZE, generator=generator) - 1
    origin = torch.randint(-9, 61, (count, 2), generator=generator)
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    found = paint_instances(logits, origin, scores, *sides)
    np.testing.assert_array_equal(found.numpy(), painted_by_hand(logits, origin, scores, sides))
    assert 100 < found[0, 0].max() < count


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ((-4, 2), slice(0, 2), slice(2, 8)),
        ((6, 2), slice(6, 8), slice(2, 8)),
        ((1, -5), slice(1, 7), slice(0, 1)),
        ((1, 9), slice(1, 7), slice(9, 10)),
        ((-5, -5), slice(0, 1), slice(0, 1)),
        ((7, 9), slice(7, 8), slice(9, 10)),
    ],
)
def test_nothing_wraps_round_at_a_border(place, rows, columns):
    numbers = paint_instances(*full([place]), 8, 10)[0, 0]
    expected = torch.zeros(8, 10)
    expected[rows, columns] = 1
    assert torch.equal(numbers, expected)


@pytest.mark.parametrize("place", [(-6, 2), (8, 2), (2, -6), (2, 10), (-400, 3), (3, 400), (-6, -6), (8, 10)])
def test_what_lies_off_the_image_has_no_number(place):
    found = paint_instances(*full([place, (1, 1)]), 8, 10)
    assert found[0, 0].unique().tolist() == [0, 1]
    assert found[0, 1].max() == pytest.approx(0.8)
    assert (found[0, 0] == 1).sum() == 36


def test_empty_and_hidden_masks_have_no_number():
    logits, origin, scores = full([(0, 0), (0, 0), (0, 0), (2, 4), (2, 20)])
    logits[1] = OFF
    logits[3, :, :] = OFF
    logits[3, 0, 5] = ON
    numbers, values = paint_instances(logits, origin, scores, 8, 30)[0]
    assert numbers.unique().tolist() == [0, 1, 2, 3]
    assert numbers[2, 9] == 2
    assert [round(float(values[numbers == n].unique()), 3) for n in (1, 2, 3)] == [0.9, 0.6, 0.5]


@pytest.mark.parametrize("scripted", [False, True])
def test_no_instance_at_all(scripted):
    paint = torch.jit.script(paint_instances) if scripted else paint_instances
    none = torch.zeros(0, SIZE, SIZE), torch.zeros(0, 2, dtype=torch.long), torch.zeros(0)
    assert torch.equal(paint(*none, 5, 7), torch.zeros(1, 2, 5, 7))
    logits, origin, scores = full([(0, 0)])
    assert paint(-logits, origin, scores, 5, 7).abs().max() == 0


def test_a_pixel_at_the_threshold_is_background():
    logits = torch.tensor([[[0.0, 0.1], [-0.1, 1.2]]])
    rest = torch.zeros(1, 2, dtype=torch.long), torch.ones(1), 2, 2
    assert paint_instances(logits, *rest)[0, 0].tolist() == [[0, 1], [0, 1]]
    assert paint_instances(logits, *rest, 0.7)[0, 0].tolist() == [[0, 0], [0, 1]]


def test_scripted_and_half_precision_equal_eager():
    logits, origin, scores = full([(0, 0), (3, 4), (-2, 7)])
    logits[0, 2] = OFF
    expected = paint_instances(logits, origin, scores, 9, 11)
    assert torch.equal(torch.jit.script(paint_instances)(logits, origin, scores, 9, 11), expected)
    assert torch.equal(paint_instances(logits.half(), origin, scores, 9, 11), expected)
