# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import RandLambdad

from monai_ext.data import TwoStreamDataset, labeled_fraction
from monai_ext.handlers import Reseed


def streams(labeled=3, unlabeled=8):
    return (
        [{"image": torch.tensor([float(n)]), "label": n} for n in range(labeled)],
        [{"image": torch.tensor([100.0 + n]), "strong_a": n} for n in range(unlabeled)],
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_sees_every_unlabelled_image_once_and_labelled_ones_equally(workers):
    dataset = TwoStreamDataset(*streams())
    assert len(dataset) == 8
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
    batches = list(loader)
    assert sorted(int(u) for batch in batches for u in batch["unlabeled"]) == [100 + n for n in range(8)]
    counts = Counter(int(label) for batch in batches for label in batch["label"])
    assert sorted(counts.values()) == [2, 3, 3]
    assert all(torch.equal(batch["image"][:, 0].long(), batch["label"]) for batch in batches)


def test_the_shorter_one_is_repeated_whichever_it_is():
    dataset = TwoStreamDataset(*streams(labeled=5, unlabeled=2))
    assert [(item["label"], item["strong_a"]) for item in dataset] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    assert dataset[-1]["label"] == 4


def test_reseeding_reaches_the_random_transforms_of_both():
    def noisy(entries):
        random = RandLambdad("image", lambda x: x, prob=1.0)
        random.draws = lambda: random.R.rand()
        return CacheDataset(entries, random, progress=False), random

    (labeled, first), (unlabeled, second) = (noisy(entries) for entries in streams())
    handler = Reseed(0, TwoStreamDataset(labeled, unlabeled))
    drawn = []
    for epoch in (1, 2, 1):
        handler(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        drawn.append((first.R.rand(), second.R.rand()))
    assert drawn[0] == drawn[2] != drawn[1]


def test_what_is_refused():
    labeled, unlabeled = streams()
    with pytest.raises(ValueError, match="found 0 labelled"):
        TwoStreamDataset([], unlabeled)
    with pytest.raises(KeyError, match="image"):
        TwoStreamDataset(labeled, unlabeled, rename={})[0]


def entries(sizes):
    """Groups of the given sizes, whose images are not neighbours."""
    rows = [(n, group) for group, size in enumerate(sizes) for n in range(size)]
    return [{"image": f"{g}-{n}.png", "label": f"{g}-{n}m.png", "group": f"g{g}"} for n, g in sorted(rows)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.3, 1.0])
def test_groups_stay_whole_and_labels_leave(seed, fraction):
    images = entries([4] * 20 + [1] * 30 + [7] * 5)
    labeled, rest = labeled_fraction(images, fraction=fraction, seed=seed)
    assert {e["group"] for e in labeled}.isdisjoint(e["group"] for e in rest)
    assert sorted(e["image"] for e in (*labeled, *rest)) == sorted(e["image"] for e in images)
    assert [e["image"] for e in labeled] == [e["image"] for e in images if e in labeled]
    assert all("label" in e for e in labeled)
    assert not any("label" in e for e in rest)
    assert all("label" in e for e in images)
    assert abs(len(labeled) - max(2, fraction * len(images))) <= 4


@pytest.mark.parametrize(("number", "fraction", "expected"), [(2350, 0.02, 47), (2350, 0.05, 118), (1500, 0.02, 30)])
def test_the_papers_numbers(number, fraction, expected):
    labeled, rest = labeled_fraction([{"image": str(n)} for n in range(number)], fraction=fraction, seed=0)
    assert (len(labeled), len(rest)) == (expected, number - expected)  # the paper writes 117 for 117.5


def test_seeds_draw_differently_and_again_the_same():
    images = entries([1] * 40)
    draws = [tuple(e["image"] for e in labeled_fraction(images, fraction=0.1, seed=s)[0]) for s in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_at_least_two_and_what_is_refused():
    assert len(labeled_fraction(entries([1] * 10), fraction=0.01, seed=0)[0]) == 2
    assert len(labeled_fraction(entries([6, 6]), fraction=0.01, seed=0)[0]) == 6
    for fraction in (0, -1, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            labeled_fraction(entries([3]), fraction=fraction, seed=0)
    with pytest.raises(ValueError, match="found 1 images"):
        labeled_fraction(entries([1]), fraction=0.5, seed=0)
