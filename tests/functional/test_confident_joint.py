# SPDX-License-Identifier: Apache-2.0
"""The label noise mask against a plain reading of Eq. 4 to 7 and against cleanlab."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_ext.functional.confident_joint import confidence_thresholds, confident_joint, noisy_pixels, noisy_shares

count = pytest.importorskip("cleanlab.count")
cleanlab_filter = pytest.importorskip("cleanlab.filter")


def draw(classes, *, batch=1, shape=(24, 20), sharpness=2.0, seed=0, flip=0.3, dtype=torch.float64):
    """Probabilities, and labels that follow them but for a share of flips."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    logits[:, 0] += 0.5  # unbalanced classes
    labels = logits.argmax(1)
    flipped = torch.rand(labels.shape, generator=generator) < flip
    labels[flipped] = torch.randint(classes, (int(flipped.sum()),), generator=generator)
    return labels, logits.softmax(1)


def plain(labels, probs, *, trim=False):
    """Eq. 4 to 7 for one image, pixel by pixel, in plain Python; with the floor of one on the diagonal."""
    y, p = labels.flatten().tolist(), probs.flatten(1).T.tolist()
    classes = range(len(p[0]))
    of = {i: [n for n, label in enumerate(y) if label == i] for i in classes}
    gamma = {i: sum(p[n][i] for n in of[i]) / len(of[i]) for i in classes if of[i]}
    joint = [[0] * len(classes) for _ in classes]
    for n, label in enumerate(y):
        passing = [j for j in gamma if p[n][j] >= gamma[j] - 1e-6]
        if passing:
            joint[label][max(passing, key=lambda j: (p[n][j], -j))] += 1
    noisy = [False] * len(y)
    for i in classes:
        off = sum(joint[i]) - joint[i][i]
        n_i = round(len(of[i]) * off / (off + max(joint[i][i], 1)))
        for n in sorted(of[i], key=lambda n: (np.float32(p[n][i]), n))[:n_i]:
            noisy[n] = not (trim and max(classes, key=lambda j: (p[n][j], -j)) == i)
    return torch.tensor(noisy).view(labels.shape), joint


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equations_image_by_image(classes, seed, trim):
    labels, probs = draw(classes, batch=3, seed=seed, sharpness=(0.3, 2.0, 9.0)[seed])
    found = noisy_pixels(labels, probs, trim=trim)
    expected = torch.stack([plain(y, p, trim=trim)[0] for y, p in zip(labels, probs, strict=True)])
    assert torch.equal(found, expected)
    assert found.any()
    whole = noisy_pixels(labels, probs, trim=trim, per_image=False)
    joined, _ = plain(labels.reshape(1, -1), probs.transpose(0, 1).flatten(1), trim=trim)
    assert torch.equal(whole, joined.view(labels.shape))
    assert not torch.equal(whole, found)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_thresholds_and_counts_equal_cleanlab(classes):
    labels, probs = draw(classes, shape=(40, 40), seed=5)
    y, p = labels.flatten().numpy(), probs[0].flatten(1).T.numpy()
    gamma = confidence_thresholds(labels.flatten(1), probs.flatten(2))[0].numpy()
    np.testing.assert_allclose(gamma, count.get_confident_thresholds(y, p), atol=1e-9)
    mine = confident_joint(labels.flatten(1), probs.flatten(2))[0].numpy()
    theirs = count.compute_confident_joint(y, p, calibrate=False)
    if classes == 2:  # with more, cleanlab may pick a class that failed its own threshold
        np.testing.assert_array_equal(mine, theirs)
    assert abs(mine - theirs).sum() <= 0.02 * mine.sum()


def cleanlab_mask(labels, probs):
    y, p = labels.flatten().numpy(), probs.flatten(1).T.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = cleanlab_filter.find_label_issues(y, p, filter_by="prune_by_class", n_jobs=1)
    return torch.from_numpy(mask).view(labels.shape)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 12.0])
def test_two_classes_equal_cleanlab(seed, sharpness):
    labels, probs = draw(2, shape=(64, 64), seed=seed, sharpness=sharpness)
    assert torch.equal(noisy_pixels(labels, probs, trim=True)[0], cleanlab_mask(labels[0], probs[0]))


def test_more_classes_come_close_to_cleanlab():
    for classes in (3, 4):
        labels, probs = draw(classes, shape=(64, 64), seed=classes)
        mine, theirs = noisy_pixels(labels, probs, trim=True)[0], cleanlab_mask(labels[0], probs[0])
        assert (mine ^ theirs).sum() <= 0.1 * theirs.sum()


def test_three_by_three_by_hand():
    labels = torch.tensor([[[0, 0, 0], [0, 0, 0], [1, 1, 1]]])
    fg = torch.tensor([[[0.1, 0.2, 0.1], [0.9, 0.8, 0.3], [0.9, 0.8, 0.4]]], dtype=torch.float64)
    probs = torch.stack([1 - fg, fg], 1)
    # gamma_0 = (0.9 + 0.8 + 0.9 + 0.1 + 0.2 + 0.7) / 6 = 0.6, gamma_1 = 0.7
    gamma = confidence_thresholds(labels.flatten(1), probs.flatten(2))
    torch.testing.assert_close(gamma, torch.tensor([[0.6, 0.7]], dtype=torch.float64))
    # labelled 0: four confidently 0, two confidently 1; labelled 1: two confidently 1, and 0.6 is confidently 0
    joint = confident_joint(labels.flatten(1), probs.flatten(2))
    assert joint.tolist() == [[[4, 2], [1, 2]]]
    torch.testing.assert_close(noisy_shares(joint), torch.tensor([[1 / 3, 1 / 3]], dtype=torch.float64))
    expected = [[[False, False, False], [True, True, False], [False, False, True]]]
    assert noisy_pixels(labels, probs).tolist() == expected


def test_one_class_alone():
    _, probs = draw(2)
    for value in (0, 1):
        labels = torch.full((1, 24, 20), value)
        found = noisy_pixels(labels, probs)
        assert torch.equal(found, plain(labels[0], probs[0])[0][None])
        if value == 0:
            assert not found.any()  # no pixel is labelled 1, so none is confidently 1


def test_one_pixel_of_a_class_is_never_all_wrong():
    labels, probs = draw(2, flip=0.0)
    labels = torch.zeros_like(labels)
    labels[0, 3, 4] = 1
    probs = probs.clone()
    probs[0, :, 3, 4] = torch.tensor([0.9, 0.1])
    found = noisy_pixels(labels, probs)
    assert torch.equal(found, plain(labels[0], probs[0])[0][None])


def test_ties_go_to_the_first_pixels():
    labels = torch.zeros(1, 4, 5, dtype=torch.long)
    labels[0, 2:] = 1
    probs = torch.full((1, 2, 4, 5), 0.5, dtype=torch.float64)
    found = noisy_pixels(labels, probs)
    # every pixel is confidently of class 0, the first of equals; of the ten labelled 1, 10/11 of ten round to nine
    assert not found[0, :2].any()
    assert found[0, 2:].flatten().tolist() == [True] * 9 + [False]


@pytest.mark.parametrize("per_image", [True, False])
def test_permuting_classes_or_images_permutes_the_answer(per_image):
    labels, probs = draw(3, batch=2)
    order, images = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    found = noisy_pixels(labels, probs, per_image=per_image)
    renamed = noisy_pixels(order.argsort()[labels], probs[:, order], per_image=per_image)
    assert torch.equal(found, renamed)
    assert torch.equal(found[images], noisy_pixels(labels[images], probs[images], per_image=per_image))


def test_three_dimensions_and_single_precision():
    labels, probs = draw(2, batch=2, shape=(6, 7, 8), dtype=torch.float32)
    found = noisy_pixels(labels, probs)
    flat = noisy_pixels(labels.flatten(2), probs.flatten(3))
    assert torch.equal(found.flatten(2), flat)
    assert not noisy_pixels(labels, probs.requires_grad_()).requires_grad


def test_never_waits_for_the_device():
    with FakeTensorMode():  # which has no values to wait for
        found = noisy_pixels(torch.zeros(2, 8, 8, dtype=torch.long), torch.rand(2, 3, 8, 8), trim=True)
    assert found.shape == (2, 8, 8)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="labels"):
        noisy_pixels(torch.zeros(1, 1, 4, 4, dtype=torch.long), torch.rand(1, 2, 4, 4))
