# SPDX-License-Identifier: Apache-2.0
"""Rescaled pictures, and cells as locations: a dot that is drawn is found again where its point went."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandRotate90d,
    RandZoomd,
    SpatialCropd,
    SpatialPadd,
)
from PIL import Image
from scipy import ndimage

from monai_ext.data import LoadPointsd
from monai_ext.transforms import LocationsFromInstancesd, PointsToLocationsd, RescaleToCelld

SIDES = (83, 60)
READ = [LoadImaged("image"), EnsureChannelFirstd("image")]


def grid(sides=SIDES):
    return np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"))


def save(path, array):
    """An array [x, y] as a picture."""
    Image.fromarray(array.T.copy()).save(path)
    return str(path)


def entry(folder, *, dot, **items):
    """A picture with a dot at [x, y], and a file that says where."""
    squares = np.square(grid() - np.array(dot)[:, None, None]).sum(0)
    image = save(folder / "a.png", (255 * np.exp(-squares / (2 * 2.5**2))).astype(np.uint8))
    rows = [{"label": "cell", "position": list(dot)}]
    (folder / "a.json").write_text(json.dumps({"space": "voxel", "points": rows}), encoding="utf-8")
    return {"image": image, "points": str(folder / "a.json"), **items}


@pytest.mark.parametrize(
    ("items", "options", "factor"),
    [
        ({"rescale": 0.5, "diameter_px": 40.0}, {"cell_px": 20.0, "diameter_px": 10.0}, 0.5),
        ({"rescale": 1.3}, {}, 1.3),
        ({"diameter_px": 40.0}, {"cell_px": 30.0, "diameter_px": 10.0}, 0.75),
        ({"diameter_px": 40.0}, {}, 1.0),
        ({}, {"cell_px": 30.0, "diameter_px": 15.0}, 2.0),
        ({"rescale": None, "diameter_px": None}, {"cell_px": 30.0, "diameter_px": 15.0}, 2.0),
        ({}, {"cell_px": 30.0}, 1.0),
        ({}, {}, 1.0),
    ],
)
def test_where_the_factor_comes_from(items, options, factor):
    rescale = RescaleToCelld("image", **options)
    assert rescale.factor_of(items) == pytest.approx(factor)
    given = items | {"image": torch.rand(3, 40, 21)}
    found = rescale(given)
    assert found["image"].shape == (3, int(40 * factor), int(21 * factor))
    assert given["image"].shape == (3, 40, 21)
    if factor == 1:
        torch.testing.assert_close(torch.as_tensor(found["image"]), given["image"])


@pytest.mark.parametrize("rescale", [0.0, -1.0, float("nan")])
def test_a_factor_that_is_none(rescale):
    with pytest.raises(ValueError, match="rescaling factor of"):
        RescaleToCelld("image")({"image": torch.rand(1, 8, 8), "rescale": rescale})


def test_label_maps_keep_their_numbers():
    label = torch.randint(0, 5, (1, 40, 30)) * 1000.0
    for keys, options in ((("image", "label"), {}), (("image", "cells"), {"modes": ("bilinear", "nearest-exact")})):
        found = RescaleToCelld(keys, **options)({"image": torch.rand(1, 40, 30), keys[1]: label, "rescale": 1.7})
        assert found[keys[1]].shape == found["image"].shape == (1, 68, 51)
        assert set(found[keys[1]].unique().tolist()) <= set(label.unique().tolist())
    assert RescaleToCelld("image", allow_missing_keys=True)({"rescale": 2.0}) == {"rescale": 2.0}


CHAINS = {
    "nothing": [],
    "flips": [RandFlipd("image", prob=1, spatial_axis=0), RandFlipd("image", prob=1, spatial_axis=1)],
    "one flip": [RandFlipd("image", prob=1, spatial_axis=1)],
    "quarter turn": [RandRotate90d("image", prob=1, max_k=1)],
    "crop": [SpatialCropd("image", roi_start=(12, 5), roi_end=(70, 55))],
    "padding": [SpatialPadd("image", (200, 191))],
    "zoom": [RandZoomd("image", prob=1, min_zoom=[1.15] * 2, max_zoom=[1.15] * 2, mode="bilinear", keep_size=False)],
    "as in training": [
        RandZoomd("image", prob=1, min_zoom=[0.9] * 2, max_zoom=[0.9] * 2, mode="bilinear", keep_size=False),
        SpatialPadd("image", (80, 80)),
        SpatialCropd("image", roi_start=(3, 2), roi_end=(80, 79)),
        RandFlipd("image", prob=1, spatial_axis=0),
        RandRotate90d("image", prob=1, max_k=1),
    ],
}


@pytest.mark.parametrize("rescale", [0.65, 1.0, 1.37])
@pytest.mark.parametrize("chain", CHAINS)
def test_points_stay_on_the_dot(tmp_path, chain, rescale):
    dot = (40.25, 28.5)
    given = entry(tmp_path, dot=dot, rescale=rescale)
    steps = [*READ, RescaleToCelld("image"), *CHAINS[chain], LoadPointsd("points"), PointsToLocationsd()]
    found = Compose(steps)(given)
    centre = ndimage.center_of_mass(found["image"][0].numpy())
    np.testing.assert_allclose(found["points"], [centre], atol=0.2)
    np.testing.assert_allclose(found["locations"].numpy() - 0.5, [centre], atol=0.2)


def discs(centres, sides=SIDES, radius=9.0):
    label = np.zeros(sides, dtype=np.uint16)
    for n, centre in enumerate(centres):
        label[np.square(grid(sides) - np.array(centre)[:, None, None]).sum(0) <= radius**2] = 1000 * n + 1
    return label


@pytest.mark.parametrize("rescale", [0.5, 0.65, 1.0, 1.3, 1.5, 3.0])
def test_a_result_comes_back_to_the_pictures_grid(tmp_path, rescale):
    centres = np.array([(12, 20.3), (40.6, 45), (70, 14), (66.2, 44.4), (39.5, 12), (14, 47)])
    label = discs(centres)
    before = Compose([*READ, RescaleToCelld("image"), NormalizeIntensityd("image")])
    data = before({"image": save(tmp_path / "a.png", label.astype(np.uint8)), "rescale": rescale})
    sides = data["image"].shape[1:]
    factors = np.divide(sides, SIDES)
    drawn = torch.from_numpy(discs((centres + 0.5) * factors - 0.5, sides, 9 * rescale).astype(np.float32))
    data["pred"] = MetaTensor(torch.stack([drawn, drawn / 6000])).copy_meta_from(data["image"])
    pred = Invertd("pred", before, orig_keys="image", nearest_interp=True, to_tensor=True)(data)["pred"]
    assert pred.shape == (2, *SIDES)
    numbers = np.unique(label)
    assert pred[0].unique().tolist() == numbers.tolist()
    torch.testing.assert_close(torch.as_tensor(pred[1]), torch.as_tensor(pred[0]) / 6000)
    away = []
    for number in numbers[1:]:
        there, here = label == number, pred[0].numpy() == number
        assert (there & here).sum() / (there | here).sum() > 0.85
        away.append(np.subtract(*map(ndimage.center_of_mass, (here, there))))
    assert np.abs(away).max() < 0.5
    assert np.abs(np.mean(away, axis=0)).max() < 0.15  # no shift of all of them


def test_undoing_it_keeps_the_picture():
    rescale = RescaleToCelld(("image", "label"))
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((1, *SIDES)), (0, 4, 4)))
    label = torch.from_numpy(discs([(15, 20), (40, 45)]).astype(np.float32))[None]
    given = {"image": MetaTensor(image.float()), "label": MetaTensor(label), "rescale": 2.0}
    back = rescale.inverse(rescale(given))
    torch.testing.assert_close(torch.as_tensor(back["image"]), image.float(), atol=0.01, rtol=0)
    assert torch.equal(torch.as_tensor(back["label"]), label)


def test_points_off_the_picture_are_dropped():
    inside = [(-0.5, -0.5), (0.0, 0.0), (9.4, 3.0), (5.0, 7.49)]
    outside = [(-0.51, 3.0), (3.0, -0.6), (9.5, 3.0), (5.0, 7.5), (100.0, 100.0)]
    points = np.array([p for pair in zip(inside, outside[:4], strict=True) for p in pair] + outside[4:])
    found = PointsToLocationsd(prior_px=7.0)({"image": torch.zeros(3, 10, 8), "points": points})
    np.testing.assert_allclose(found["locations"].numpy(), np.array(inside) + 0.5, atol=1e-6)
    assert found["locations"].dtype == found["prior_px"].dtype == torch.float32
    assert found["prior_px"].tolist() == [7.0] * 4


def test_an_entry_may_say_its_cells_size():
    given = {"image": torch.zeros(1, 10, 8), "points": np.array([(1.0, 2.0)]), "prior_px": 12}
    assert PointsToLocationsd(prior_px=7.0)(given)["prior_px"].tolist() == [12.0]


def test_no_point_is_left():
    for points in (np.zeros((0, 2)), np.array([(-5.0, 2.0)])):
        found = PointsToLocationsd("clicks", "picture")({"picture": torch.zeros(1, 9, 9), "clicks": points})
        assert found["locations"].shape == (0, 2)
        assert found["prior_px"].shape == (0,)


def horseshoe():
    """Its centre of mass is not in it."""
    label = np.zeros((30, 40), dtype=np.int64)
    label[3:20, 5:25] = 7
    label[3:16, 9:21] = 0
    label[22:29, 30:38] = 3
    label[0:3, 0:3] = 12  # 9 px
    return label


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_locations_of_instances_against_scipy(kind):
    label = horseshoe()
    found = LocationsFromInstancesd()({"label": kind(label[None].astype(np.float32))})
    assert found["numbers"].tolist() == [3, 7]
    assert found["numbers"].dtype == torch.int64
    assert found["locations"].dtype == torch.float32
    assert type(found["locations"]) is type(found["numbers"]) is torch.Tensor
    square, shoe = found["locations"].tolist()
    np.testing.assert_allclose(square, np.add(ndimage.center_of_mass(label == 3), 0.5), atol=1e-5)
    centre = np.array(ndimage.center_of_mass(label == 7))
    assert label[tuple(np.rint(centre).astype(int))] != 7
    pixels = np.argwhere(label == 7)
    nearest = np.linalg.norm(pixels - centre, axis=1).min()
    assert label[tuple(int(x) for x in shoe)] == 7
    assert np.linalg.norm(np.array(shoe) - 0.5 - centre) == pytest.approx(nearest)


def test_convex_cells_are_at_their_centres_of_mass():
    label = discs([(12, 20), (40, 45), (70, 14)])
    found = LocationsFromInstancesd("cells")({"cells": torch.from_numpy(label.astype(np.int32))[None]})
    ids = found["numbers"].tolist()
    assert ids == [1, 1001, 2001]
    np.testing.assert_allclose(found["locations"].numpy() - 0.5, ndimage.center_of_mass(label > 0, label, ids))


@pytest.mark.parametrize(("least", "numbers"), [(1, [3, 7, 12]), (9, [3, 7, 12]), (10, [3, 7]), (1000, [])])
def test_cells_that_are_cut_short_are_left_out(least, numbers):
    found = LocationsFromInstancesd(min_px=least)({"label": torch.as_tensor(horseshoe())[None]})
    assert found["numbers"].tolist() == numbers
    assert found["locations"].shape == (len(numbers), 2)


def test_a_map_of_nothing():
    found = LocationsFromInstancesd()({"label": torch.zeros(1, 8, 9)})
    assert found["locations"].shape == (0, 2)
    assert found["numbers"].shape == (0,)
    assert LocationsFromInstancesd(allow_missing_keys=True)({}) == {}
