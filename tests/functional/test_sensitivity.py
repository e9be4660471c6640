# SPDX-License-Identifier: Apache-2.0
"""Mean, sharpening, sensitivity and mining of a teacher's views (Eq. 1 and 2 of MMT-PSM) against numpy and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import entr, softmax

from monai_ext.functional.sensitivity import ensemble, mine, sensitivity, sharpen

EACH_OF_SAMPLES = {
    "ensemble probs": lambda z: ensemble(z),
    "ensemble logits": lambda z: ensemble(z, mean_of="logits"),
    "variance": lambda z: sensitivity(z),
    "deviation": lambda z: sensitivity(z, measure="deviation"),
}


def views(number=4, samples=7, classes=3, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(number, samples, classes, generator=generator, dtype=dtype)


def logits_of(*probs):
    """(K, 1, C) whose softmax are the given rows."""
    return torch.tensor(probs, dtype=torch.float64).log()[:, None]


def plain_mine(labels, scores, share):
    """Python's sort keeps the order of equal keys."""
    foreground = [i for i, label in enumerate(labels) if label > 0]
    background = sorted((i for i, label in enumerate(labels) if label == 0), key=lambda i: -scores[i])
    kept = {*foreground, *background[: math.floor(share * len(foreground))]}
    return [i in kept for i in range(len(labels))]


# Sharpening


def test_sharpen_by_hand():
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    np.testing.assert_allclose(sharpen(probs), np.array([25, 9, 4]) / 38, rtol=1e-12)
    np.testing.assert_allclose(sharpen(probs, temperature=0.25), np.array([625, 81, 16]) / 722, rtol=1e-12)
    even = torch.tensor([0.64, 0.36], dtype=torch.float64)
    np.testing.assert_allclose(sharpen(even, temperature=2), np.array([8, 6]) / 14, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_sharpen_equals_a_loop_over_rows(temperature):
    probs = views()[0].softmax(-1).reshape(7, 1, 3)
    for row, found in zip(probs.reshape(7, 3), sharpen(probs, temperature=temperature).reshape(7, 3), strict=True):
        powers = [p.item() ** (1 / temperature) for p in row]
        np.testing.assert_allclose(found, [p / sum(powers) for p in powers], rtol=1e-10)
        assert found.sum().item() == pytest.approx(1)
        assert found.argmax() == row.argmax()


def test_sharpen_is_a_softmax_of_scaled_logits_and_one_is_the_identity():
    logits = views()[0]
    torch.testing.assert_close(sharpen(logits.softmax(-1)), (2 * logits).softmax(-1))
    torch.testing.assert_close(sharpen(logits.softmax(-1), temperature=1), logits.softmax(-1))
    assert not torch.allclose(sharpen(logits.softmax(-1)), logits.softmax(-1), atol=0.01)


def test_sharpening_lowers_the_entropy_and_the_exponent_as_printed_raises_it():
    probs = views(1, 200)[0].softmax(-1)
    before = entr(probs.numpy()).sum(-1)
    assert (entr(sharpen(probs).numpy()).sum(-1) < before).all()
    assert (entr(sharpen(probs, temperature=2).numpy()).sum(-1) > before).all()


def test_sharpen_keeps_what_is_certain_or_even_at_any_temperature():
    rows = torch.tensor([[1.0, 0.0, 0.0], [1 / 3] * 3, [0.0, 0.5, 0.5]])
    for temperature in (0.005, 0.5, 1.0, 5.0):  # float32 has no (1 / 3)^200
        torch.testing.assert_close(sharpen(rows, temperature=temperature), rows)
    assert sharpen(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("temperature", [0, -0.5])
def test_a_temperature_of_nothing_is_an_error(temperature):
    with pytest.raises(ValueError, match="temperature"):
        sharpen(torch.tensor([0.5, 0.5]), temperature=temperature)


# The mean of the views


def test_ensemble_by_hand():
    logits = logits_of([0.9, 0.1], [0.5, 0.5])
    np.testing.assert_allclose(ensemble(logits), [[0.7, 0.3]], rtol=1e-12)
    # the mean of the logits is a geometric one: sqrt(.45) to sqrt(.05)
    np.testing.assert_allclose(ensemble(logits, mean_of="logits"), [[0.75, 0.25]], rtol=1e-12)


def test_ensemble_equals_numpy():
    logits = views()
    probs = sum(softmax(view, axis=-1) for view in logits.numpy()) / 4
    np.testing.assert_allclose(ensemble(logits), probs, rtol=1e-12)
    np.testing.assert_allclose(ensemble(logits, mean_of="logits"), softmax(sum(logits.numpy()) / 4, axis=-1))


def test_the_released_codes_target_is_a_softmax_of_twice_the_mean_logits():
    logits = views()
    torch.testing.assert_close(sharpen(ensemble(logits, mean_of="logits")), (2 * logits.mean(0)).softmax(-1))


@pytest.mark.parametrize("mean_of", ["probs", "logits"])
def test_equal_views_are_their_mean_and_do_not_change(mean_of):
    logits = views(1, dtype=torch.float32).repeat(3, 1, 1)
    torch.testing.assert_close(ensemble(logits, mean_of=mean_of), logits[0].softmax(-1))
    assert sensitivity(logits).abs().max() < 1e-12
    assert sensitivity(logits, measure="deviation").abs().max() < 1e-6


# Sensitivity


def test_sensitivity_by_hand():
    logits = logits_of([0.9, 0.1], [0.5, 0.5])  # 0.2 from the mean in either class
    assert sensitivity(logits).item() == pytest.approx(2 * 0.04)
    assert sensitivity(logits, measure="deviation").item() == pytest.approx(2 * math.sqrt(2 * 0.04))
    assert sensitivity(logits[:1]).tolist() == [0]


def test_sensitivity_equals_numpy():
    logits = views()
    probs = softmax(logits.numpy(), axis=-1)
    np.testing.assert_allclose(sensitivity(logits), np.var(probs, axis=0, ddof=0).sum(-1), rtol=1e-10)
    deviation = sensitivity(logits, measure="deviation")
    np.testing.assert_allclose(deviation, np.std(probs, axis=0, ddof=1).sum(-1), rtol=1e-10)


@pytest.mark.parametrize("name", EACH_OF_SAMPLES)
def test_order_of_views_and_samples_and_what_softmax_does_not_see(name):
    logits, apply = views(), EACH_OF_SAMPLES[name]
    found = apply(logits)
    torch.testing.assert_close(apply(logits.flip(0)), found)
    torch.testing.assert_close(apply(logits.flip(1)), found.flip(0))
    torch.testing.assert_close(apply(logits[..., [2, 0, 1]]), found[:, [2, 0, 1]] if found.ndim > 1 else found)
    torch.testing.assert_close(apply(logits + 9 * torch.arange(28).reshape(4, 7, 1)), found)
    assert apply(logits[:, :0]).shape[0] == 0


@pytest.mark.parametrize("name", EACH_OF_SAMPLES)
def test_gradcheck(name):
    assert torch.autograd.gradcheck(EACH_OF_SAMPLES[name], views(3, 2).requires_grad_())


def test_gradcheck_of_sharpening():
    assert torch.autograd.gradcheck(sharpen, views(1)[0].softmax(-1).requires_grad_())


@pytest.mark.parametrize("name", EACH_OF_SAMPLES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(name, dtype):
    logits, apply = views(dtype=torch.float32).to(dtype), EACH_OF_SAMPLES[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = apply(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, apply(logits.double()).float(), rtol=1e-4, atol=1e-6)
    assert apply(torch.tensor([[[6e4, -6e4]], [[-6e4, 6e4]]], dtype=dtype)).isfinite().all()
    assert apply(views()).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ensemble(views(), mean_of="both"), "both"),
        (lambda: ensemble(views()[:0]), "view"),
        (lambda: ensemble(views()[:0], mean_of="logits"), "view"),
        (lambda: sensitivity(views(), measure="range"), "range"),
        (lambda: sensitivity(views()[:0]), "views"),
        (lambda: sensitivity(views()[:1], measure="deviation"), "2"),
    ],
)
def test_faults_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Mining

LABELS, SCORES = torch.tensor([0, 1, 0, 0, 2, 0]), torch.tensor([0.1, 0.0, 0.3, 0.3, 0.9, 0.2])


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0, [1, 4]), (0.4, [1, 4]), (0.5, [1, 2, 4]), (1, [1, 2, 3, 4]), (1.5, [1, 2, 3, 4, 5]), (1e9, list(range(6)))],
)
def test_mine_by_hand(share, kept):
    found = mine(LABELS, SCORES, share=share)
    assert found.dtype == torch.bool
    assert found.nonzero()[:, 0].tolist() == kept


def test_as_many_of_the_background_by_default():
    assert torch.equal(mine(LABELS, SCORES), mine(LABELS, SCORES, share=1))


@pytest.mark.parametrize("share", [0, 0.5, 1, 3.25, 1e6])
@pytest.mark.parametrize("distinct", [1, 3, 1000])
@pytest.mark.parametrize("foreground", [0, 1, 7, 300, 2000])
def test_mine_equals_a_sort_in_python(share, distinct, foreground):
    rng = np.random.default_rng(foreground + distinct)
    labels = rng.permutation(np.r_[rng.integers(1, 3, foreground), np.zeros(2000 - foreground, dtype=int)])
    scores = rng.integers(0, distinct, 2000) / 8
    found = mine(torch.from_numpy(labels), torch.from_numpy(scores), share=share)
    assert found.tolist() == plain_mine(labels, scores, share)
    background = labels == 0
    assert (found.numpy() & background).sum() == min(math.floor(share * foreground), 2000 - foreground)
    assert found.numpy()[~background].all()
    kept, left = scores[background & found.numpy()], scores[background & ~found.numpy()]
    assert kept.min(initial=np.inf) >= left.max(initial=-np.inf)


@pytest.mark.parametrize("share", [0, 0.5, 1, 1e9])
def test_no_foreground_keeps_nothing_and_no_background_keeps_all(share):
    assert not mine(torch.zeros(5, dtype=torch.int64), torch.rand(5), share=share).any()
    assert mine(torch.tensor([1, 2, 1]), torch.zeros(3), share=share).all()
    assert mine(LABELS[:0], SCORES[:0], share=share).shape == (0,)
    assert mine(LABELS[1:2], SCORES[1:2], share=share).tolist() == [True]


def test_only_the_order_of_the_backgrounds_scores_counts():
    generator = torch.Generator().manual_seed(1)
    labels, scores = torch.randint(0, 4, (60,), generator=generator), torch.rand(60, generator=generator)
    found = mine(labels, scores, share=0.2)
    assert (found & (labels == 0)).any()
    assert not found[labels == 0].all()
    assert torch.equal(mine(labels.clamp(max=1), scores.square(), share=0.2), found)
    assert torch.equal(mine(labels, torch.where(labels > 0, 5 - scores, scores), share=0.2), found)
    order = torch.randperm(60, generator=generator)
    assert torch.equal(mine(labels[order], scores[order], share=0.2), found[order])


def test_a_negative_share_is_an_error():
    with pytest.raises(ValueError, match="share"):
        mine(LABELS, SCORES, share=-0.5)
