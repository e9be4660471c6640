# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch

from monai_ext.functional.patch_mix import mean_entropy, mix_patches, patch_sources


def maps(*, batch=3, size=(16, 24), seed=0, correlated=False):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, batch, *size, generator=generator)
    return (first, first + 1e-3 * second) if correlated else (first, second)


def plain(image, first, second, grid, k):
    """One image (A, H, W), patch by patch; each of the two steps reads what the step before left."""
    height, width = (side // grid for side in first.shape)
    cells = [
        (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
        for i in range(grid)
        for j in range(grid)
    ]
    order = [sorted(range(len(cells)), key=lambda n, u=u: u[cells[n]].mean().item()) for u in (first, second)]
    image = image.clone()
    for mine, theirs in ((order[0], order[1]), (order[1], order[0])):
        old = image.clone()
        for rank in range(k):
            image[(slice(None), *cells[mine[-1 - rank]])] = old[(slice(None), *cells[theirs[rank]])]
    return image


@pytest.mark.parametrize("k", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("correlated", [False, True])
def test_equals_a_loop_over_patches(k, correlated):
    first, second = maps(correlated=correlated)
    image = torch.randn(3, 3, 16, 24)
    label = torch.randint(0, 5, (3, 1, 16, 24), dtype=torch.uint8)
    mixed, labels = mix_patches([image, label], first, second, grid=4, k=k)
    for n in range(3):
        assert torch.equal(mixed[n], plain(image[n], first[n], second[n], 4, k))
        assert torch.equal(labels[n], plain(label[n], first[n], second[n], 4, k))
    assert labels.dtype == torch.uint8


def test_k_zero_changes_nothing_and_arguments_stay():
    first, second = maps()
    image = torch.randn(3, 2, 16, 24)
    kept = image.clone()
    assert torch.equal(mix_patches([image], first, second, grid=8, k=0)[0], image)
    mix_patches([image], first, second, grid=8, k=3)
    assert torch.equal(image, kept)


def test_at_most_two_k_patches_change_and_images_do_not_mix():
    first, second = maps(batch=40, size=(16, 16))
    sources = patch_sources(first, second, grid=8, k=2)
    changed = (sources != torch.arange(64)).sum(1)
    assert changed.max() <= 4
    assert changed.min() >= 1
    image = torch.arange(40.0)[:, None, None, None].expand(40, 1, 16, 16)
    assert torch.equal(mix_patches([image], first, second, grid=8, k=2)[0], image)


def test_four_patches_by_hand():
    first = torch.tensor([[[0.9, 0.1], [0.3, 0.2]]])  # patch 0 is most uncertain, 1 most certain
    second = torch.tensor([[[0.4, 0.3], [0.8, 0.1]]])  # patch 2 and patch 3
    # patch 0 takes the content of 3, then 2 that of 1
    assert patch_sources(first, second, grid=2, k=1).tolist() == [[3, 1, 1, 3]]
    # one patch is most uncertain for both: the second step overwrites what the first wrote
    first, second = torch.tensor([[[0.9, 0.5], [0.6, 0.7]]]), torch.tensor([[[0.8, 0.4], [0.3, 0.1]]])
    assert patch_sources(first, second, grid=2, k=1).tolist() == [[1, 1, 2, 3]]


def test_entropy_of_the_mean_by_hand():
    sure, other, even = (torch.tensor(p).view(1, 2, 1, 1) for p in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)))
    assert mean_entropy(sure, sure).item() == pytest.approx(0, abs=1e-5)
    for pair in ((sure, other), (even, even)):
        assert mean_entropy(*pair).item() == pytest.approx(math.log(2), abs=1e-5)
    assert mean_entropy(sure, even).item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-5)
    assert torch.equal(mean_entropy(sure, even), mean_entropy(even, sure))


def test_sizes_and_numbers_that_do_not_fit():
    first, second = maps()
    with pytest.raises(ValueError, match="16 x 24"):
        mix_patches([torch.zeros(3, 1, 16, 24)], first, second, grid=5, k=1)
    with pytest.raises(ValueError, match="k: found 9"):
        patch_sources(first, second, grid=4, k=9)
