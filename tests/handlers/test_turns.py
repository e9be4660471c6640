# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import nn

from monai_ext.data import SyntheticMaskDataset
from monai_ext.handlers import SaveInTurn, TurnPictures
from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB
from monai_ext.handlers.report_data import read_pictures
from monai_ext.networks import make_generators


def run(*handlers, epochs):
    engine = Engine(lambda _, batch: None)
    for handler in handlers:
        handler.attach(engine)
    engine.run([0], max_epochs=epochs)


def test_weights_are_written_at_the_end_of_each_turn(tmp_path):
    networks, seen = [nn.Linear(1, 1) for _ in range(2)], []
    saver = SaveInTurn(networks, [tmp_path / "new/a.pt", tmp_path / "new/b.pt"], [2, 5])
    engine = Engine(lambda _, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def learn(engine):
        for network in networks:
            network.weight.data.fill_(engine.state.epoch)

    saver.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: seen.append(len(list(tmp_path.glob("new/*")))))
    engine.run([0], max_epochs=6)
    assert seen == [0, 1, 1, 1, 2, 2]
    first, second = (torch.load(tmp_path / f"new/{name}.pt", weights_only=True) for name in "ab")
    assert (first["weight"].item(), second["weight"].item()) == (2, 5)


def test_each_network_has_a_path_and_an_end(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        SaveInTurn([nn.Linear(1, 1)], [tmp_path / "a.pt"], [])


def read(entry):
    label = torch.zeros(1, 24, 24, dtype=torch.int32)
    label[0, 3:9, 4:10], label[0, 14:20, 12:19] = 1, 2
    return {"image": torch.full((3, 24, 24), 0.5), "label": label}


def make_pictures(folder, *, turn=4, **options):
    torch.manual_seed(0)
    dataset = SyntheticMaskDataset(
        [{"image": f"{name}.png", "label": ""} for name in "ab"], read, number=3, margin_px=4
    )
    generators = make_generators(dataset.sizes, smallest_px=20, channels=4)
    stages = [(patch, scale) for patch in range(2) for scale in range(3) for _ in range(turn)]
    options = {"every": 3, "masks": 2} | options
    return TurnPictures(folder, generators=generators, dataset=dataset, stage_of=lambda n: stages[n], **options)


def test_pictures_of_each_patch_as_far_as_it_has_come(tmp_path):
    pictures = make_pictures(tmp_path)
    run(pictures, epochs=13)
    first, second = read_pictures(tmp_path)
    assert [first.rank, second.rank] == ["patch_1", "patch_2"]
    assert first.name == "a, scale 3 of 3 (24 x 24 px), epoch 12"
    assert second.name == "b, scale 1 of 3 (20 x 20 px), epoch 13"
    assert np.asarray(Image.open(io.BytesIO(first.png))).shape == (192, 6 * 192 + 5 * 6, 3)


def test_when_pictures_are_made(tmp_path):
    pictures, seen = make_pictures(tmp_path), []
    pictures.draw = lambda patch, scale: seen.append((patch, scale)) or np.zeros((2, 2, 3), np.uint8)
    run(pictures, epochs=10)
    # Epochs 3, 6 and 9; 4 and 8, the ends of scales; 10, the last.
    assert seen == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 2)]
    assert json.loads((tmp_path / "overlays/cases.json").read_text())["cases"] == []


def test_a_picture_shows_the_patch_and_what_is_drawn(tmp_path):
    pictures = make_pictures(tmp_path)
    network = pictures.generators[1]
    network.generators[2].train()
    drawn = pictures.draw(1, 2)
    assert network.generators[2].training, "as it was"
    tiles = [drawn[:, start : start + 192] for start in range(0, 6 * 198, 198)]
    blue, orange = ([(tile == colour).all(-1).any() for tile in tiles] for colour in (REFERENCE_RGB, PREDICTION_RGB))
    assert blue == [True, False, False, False, False, False]
    assert orange == [False, False, False, True, False, True]
    middle = tiles[0][11 * 8 + 4, 11 * 8 + 4]
    assert middle.tolist() == [191] * 3, "0.5 in a range from -1 to 1"


def test_pictures_take_part_in_no_ones_statistics(tmp_path):
    pictures = make_pictures(tmp_path)
    before = {key: value.clone() for key, value in pictures.generators[0].state_dict().items()}
    pictures.generators[0].train()
    pictures.draw(0, 0)
    after = pictures.generators[0].state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
