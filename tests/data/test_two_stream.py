# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Lambdad, RandLambdad

from monai_ext.data import DataFault, TwoStreamDataset, draw_labeled, labeled_fraction
from monai_ext.handlers import Reseed


def streams(labeled=3, unlabeled=8):
    return {
        "data": [{"image": torch.tensor([float(n)]), "label": n} for n in range(labeled)],
        "unlabeled_data": [{"image": torch.tensor([100.0 + n]), "strong_a": n} for n in range(unlabeled)],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_sees_every_unlabelled_image_once_and_labelled_ones_equally(workers):
    dataset = TwoStreamDataset(**streams())
    assert len(dataset) == 8
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
    batches = list(loader)
    assert sorted(int(u) for batch in batches for u in batch["unlabeled"]) == [100 + n for n in range(8)]
    counts = Counter(int(label) for batch in batches for label in batch["label"])
    assert sorted(counts.values()) == [2, 3, 3]
    assert all(torch.equal(batch["image"][:, 0].long(), batch["label"]) for batch in batches)


def test_the_shorter_one_is_repeated_whichever_it_is():
    dataset = TwoStreamDataset(**streams(labeled=5, unlabeled=2))
    assert [(item["label"], item["strong_a"]) for item in dataset] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    assert dataset[-1]["label"] == 4


def test_reseeding_reaches_the_random_transforms_of_both():
    first, second = (RandLambdad("image", lambda x: x, prob=1.0) for _ in range(2))
    handler = Reseed(0, TwoStreamDataset(**streams(), transform=first, unlabeled_transform=second))
    drawn = []
    for epoch in (1, 2, 1):
        handler(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        drawn.append((first.R.rand(), second.R.rand()))
    assert drawn[0] == drawn[2] != drawn[1]


def test_transforms_and_their_cache():
    double, count = Lambdad("image", lambda x: 2 * x), []
    plus = Lambdad("image", lambda x: count.append(1) or x + 1)
    options = {"transform": double, "unlabeled_transform": plus, "progress": False}
    dataset = TwoStreamDataset(**streams(), **options, cache_rate=1.0)
    assert len(count) == 8
    assert [(float(i["image"]), float(i["unlabeled"])) for i in dataset][3] == (0.0, 104.0)
    assert len(count) == 8
    assert len(list(TwoStreamDataset(**streams(), **options))) == 8
    assert len(count) == 16


def test_what_is_refused():
    with pytest.raises(ValueError, match="found 0 labelled"):
        TwoStreamDataset(**streams(labeled=0))
    with pytest.raises(ValueError, match="and 0 unlabelled"):
        TwoStreamDataset(**streams(unlabeled=0))
    dataset = TwoStreamDataset(**streams())
    for index in (8, -9):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(KeyError, match="image"):
        TwoStreamDataset(**streams(), rename={})[0]


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
    labeled, rest = labeled_fraction(entries([6, 6]), fraction=0.01, seed=0)
    assert (len(labeled), len(rest)) == (2, 6)  # four of the drawn group are left out
    assert {e["group"] for e in labeled}.isdisjoint(e["group"] for e in rest)
    for fraction in (0, -1, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            labeled_fraction(entries([3]), fraction=fraction, seed=0)
    with pytest.raises(ValueError, match="found 1 images"):
        labeled_fraction(entries([1]), fraction=0.5, seed=0)


def write_list(path, **sections):
    path.write_text(json.dumps({"name": "x", "labels": {"0": "b", "1": "m"}, **sections}))
    return path


def test_draw_writes_a_datalist_of_its_own(tmp_path):
    every = entries([4] * 10)
    plain = [{"image": "u.png", "group": "u"}]
    test = [{"image": "t.png", "label": "tm.png", "group": "t"}]
    source = write_list(tmp_path / "datalist.json", training=every[:3], unlabeled=every[3:] + plain, test=test)
    before = source.read_text()
    for seed in (0, 1):
        out = tmp_path / f"run{seed}/datalist.json"
        counts = draw_labeled(source, out, fraction=0.05, seed=seed)
        content = json.loads(out.read_text())
        labeled, rest = labeled_fraction(every, fraction=0.05, seed=seed)
        assert counts == {"training": 2, "unlabeled": 37}
        assert (content["training"], content["unlabeled"]) == (labeled, rest + plain)
        assert (content["test"], content["labels"]) == (test, {"0": "b", "1": "m"})
        assert content["drawn"] == {"fraction": 0.05, "seed": seed, "at_least": 2}
        assert [path.name for path in out.parent.iterdir()] == ["datalist.json"]
    assert source.read_text() == before
    assert (tmp_path / "run0/datalist.json").read_text() != (tmp_path / "run1/datalist.json").read_text()


def test_drawing_everything_leaves_nothing_unlabelled(tmp_path):
    source = write_list(tmp_path / "datalist.json", training=entries([2]), unlabeled=entries([0, 3]))
    assert draw_labeled(source, tmp_path / "full.json", fraction=1.0, seed=0) == {"training": 5, "unlabeled": 0}
    assert "unlabeled" not in json.loads((tmp_path / "full.json").read_text())
    poor = write_list(tmp_path / "poor.json", training=entries([1]), unlabeled=[{"image": "u.png"}])
    with pytest.raises(DataFault, match="1 of the 2 training images have a label"):
        draw_labeled(poor, tmp_path / "x.json", fraction=0.5, seed=0)
