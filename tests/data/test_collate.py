# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from monai_ext.data import collate_cells


def item(cells, *, numbers=False, value=0.0):
    image = MetaTensor(torch.full((3, 8, 9), value), meta={"filename_or_obj": f"{value:g}.png"})
    made = {"image": image, "locations": torch.rand(cells, 2), "prior_px": torch.full((cells,), 5.0 + value)}
    if numbers:
        made |= {"numbers": torch.arange(1, cells + 1), "label": torch.full((1, 8, 9), value)}
    return made


@pytest.mark.parametrize("counts", [(2, 3), (3, 0, 1), (0, 2), (0, 0), (0,), (4,)])
def test_cells_are_joined_and_say_whose_they_are(counts):
    items = [item(count, numbers=True, value=float(n)) for n, count in enumerate(counts)]
    batch = collate_cells(items)
    assert batch["image"].shape == (len(counts), 3, 8, 9)
    assert batch["label"].shape == (len(counts), 1, 8, 9)
    assert batch["image"][:, 0, 0, 0].tolist() == list(range(len(counts)))
    assert batch["of_image"].tolist() == [n for n, count in enumerate(counts) for _ in range(count)]
    assert batch["of_image"].dtype == torch.int64
    assert batch["locations"].shape == (sum(counts), 2)
    assert batch["numbers"].tolist() == [k + 1 for count in counts for k in range(count)]
    assert batch["prior_px"].tolist() == [5.0 + n for n in batch["of_image"].tolist()]
    for n, one in enumerate(items):
        assert torch.equal(batch["locations"][batch["of_image"] == n], one["locations"])


def test_what_is_not_there_is_not_made_up():
    assert collate_cells([item(1), item(2)]).keys() == {"image", "locations", "prior_px", "of_image"}


def test_a_loaders_batches_have_metadata():
    loader = DataLoader(Dataset([item(2), item(0, value=1.0)]), batch_size=2, collate_fn=collate_cells)
    (batch,) = loader
    assert isinstance(batch["image"], MetaTensor)
    assert batch["image"].meta["filename_or_obj"] == ["0.png", "1.png"]
    assert batch["of_image"].tolist() == [0, 0]


def test_pictures_of_other_sizes_do_not_fit():
    other = item(1) | {"image": torch.zeros(3, 8, 10)}
    with pytest.raises(RuntimeError):
        collate_cells([item(1), other])
