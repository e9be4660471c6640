# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from PIL import Image

from monai_ext.data import SyntheticMaskDataset
from monai_ext.handlers import SyntheticPairs
from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB, sheet
from monai_ext.handlers.draw_pairs import outlined, picture_of


def read(entry):
    label = torch.zeros(1, 20, 32, dtype=torch.int32)
    label[0, 3:9, 4:10], label[0, 11:17, 15:29] = 1, 2
    return {"image": torch.zeros(3, 20, 32), "label": label}


def make(*names, number=3):
    data = [{"image": f"{name}.png", "label": ""} | ({"group": "g"} if name == "a" else {}) for name in names]
    return SyntheticMaskDataset(data, read, number=number, margin_px=4)


def run(folder, dataset, **options):
    """Draws white where masks are, black elsewhere."""
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=2, num_workers=0),
        network=torch.nn.Identity(),
        prepare_batch=lambda batch, device, non_blocking=False, **_: (
            2 * batch["mask"].expand(-1, 3, -1, -1) - 1,
            None,
        ),
        val_handlers=[SyntheticPairs(folder, dataset=dataset, **options)],
        decollate=False,
    ).run()


def test_pairs_lie_in_rows_and_columns_and_fit_each_other(tmp_path):
    dataset = make("a", "b")
    run(tmp_path, dataset)
    content = json.loads((tmp_path / "datalist.json").read_text())
    names = [f"{name}_{number:03d}" for name in "ab" for number in range(3)]
    assert [entry["image"] for entry in content["training"]] == [f"images/{name}.png" for name in names]
    assert [entry.get("group") for entry in content["training"]] == ["g"] * 3 + [None] * 3
    assert content["labels"] == {"0": "background", "1": "nucleus"}
    for index, name in enumerate(names):
        image, label = (np.asarray(Image.open(tmp_path / f"{folder}/{name}.png")) for folder in ("images", "labels"))
        assert np.array_equal(label, dataset[index]["instances"][0].numpy().T)
        assert np.array_equal(image, np.where(label[..., None] > 0, 255, 0).repeat(3, -1))
        assert label.dtype == np.uint16


def test_the_contact_sheet_has_a_row_for_each_patch(tmp_path):
    run(tmp_path, make("a", "b"), shown=2)
    picture = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    high, wide = 32 * 6, 20 * 6
    assert picture.shape == (2 * high + 6, 6 * wide + 5 * 6, 3)
    tiles = [picture[:high, start : start + wide] for start in range(0, 6 * (wide + 6), wide + 6)]
    blue, orange = ([(tile == colour).all(-1).any() for tile in tiles] for colour in (REFERENCE_RGB, PREDICTION_RGB))
    assert blue == [False, True, False, False, False, False]
    assert orange == [False, False, False, True, False, True]


def test_pairs_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    run(tmp_path, make("a", number=4))
    for name in ("a_note", "a_7", "b_001"):
        (tmp_path / f"images/{name}.png").touch()
    run(tmp_path, make("a", number=2))
    found = {path.stem for path in (tmp_path / "images").iterdir()}
    assert found == {"a_000", "a_001", "a_note", "a_7", "b_001"}
    assert {path.stem for path in (tmp_path / "labels").iterdir()} == {"a_000", "a_001"}


def test_pictures_by_hand():
    image = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]).expand(3, 2, 5)
    assert picture_of(image)[:, 0, 0].tolist() == [0, 0, 128, 255, 255]
    numbers = torch.zeros(1, 4, 4)
    numbers[0, 1:3, 1:3] = 1
    tile = outlined(torch.zeros(3, 2, 2), numbers, (1, 2, 3))
    assert tile.shape == (192, 192, 3)
    rows, columns = np.nonzero((tile == (1, 2, 3)).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (48, 143, 48, 143)
    assert tile[96, 96].tolist() == [128] * 3
    joined = sheet([[tile, tile], [tile]])
    assert joined.shape == (2 * 192 + 6, 2 * 192 + 6, 3)
    assert (joined[198:, 198:] == 255).all()
