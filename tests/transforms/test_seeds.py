# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, list_data_collate
from monai.transforms import Compose, NormalizeIntensityd, Orientationd, RandFlipd, Spacingd

from monai_ext.data.points_io import LoadPointsd, PointSet, write_points
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.functional.seed_expansion import expand_seeds
from monai_ext.transforms.seeds import ExpandSeedsd, ValidRegiond

LABELS = ("F", "L", "R", "P", "A", "I", "S")
POSITIONS = np.array([[6, 6, 5], [2, 6, 5], [10, 6, 5], [6, 2, 5], [6, 10, 5], [6, 6, 1], [6, 6, 8]], dtype=np.float64)


def case(spacing=(1.0, 1.0, 2.0), channels=1):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(channels, 12, 12, 10)).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (5, -3, 7)
    meta = {"filename_or_obj": "a.nii.gz"}
    return {
        "image": MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine), meta=meta),
        "points": POSITIONS.copy(),
        "points_label": LABELS,
    }


@pytest.mark.parametrize("cost", ["gradient", "additive", "saturating"])
def test_equals_the_function(cost):
    data = case()
    out = ExpandSeedsd(cost=cost, epsilon=0.4, spatial_weight=0.7)(data)
    expected = expand_seeds(
        data["image"][0].numpy(), [(POSITIONS[0], POSITIONS[1:])],
        epsilon=0.4, cost=cost, spacing=(1, 1, 2), spatial_weight=0.7,
    )  # fmt: skip
    seeds = out["seeds"]
    assert isinstance(seeds, MetaTensor)
    assert seeds.shape == (1, 12, 12, 10)
    assert seeds.dtype == torch.uint8
    assert torch.equal(seeds.affine, data["image"].affine)
    assert seeds.meta["filename_or_obj"] == "a.nii.gz"
    np.testing.assert_array_equal(seeds[0].numpy(), expected)
    assert set(out) == {"image", "seeds"}
    assert set(data) == {"image", "points", "points_label"}


def test_spacing_comes_from_the_affine():
    fine = ExpandSeedsd(cost="additive", spatial_weight=1.0, epsilon=0.5)(case(spacing=(1, 1, 1)))
    thick = ExpandSeedsd(cost="additive", spatial_weight=1.0, epsilon=0.5)(case(spacing=(1, 1, 5)))
    assert (fine["seeds"] != thick["seeds"]).any()


def test_valid_region_is_background():
    data = case()
    data["valid"] = torch.ones(1, 12, 12, 10, dtype=torch.uint8)
    data["valid"][:, :5] = 0
    seeds = ExpandSeedsd(epsilon=0.5)(data)["seeds"]
    assert (seeds[:, :5] == 0).all()
    assert (ExpandSeedsd(epsilon=0.5, valid_key=None)(data)["seeds"][:, :5] != 0).any()


def test_channel_chooses_what_is_measured():
    data = case(channels=2)
    first, second = (ExpandSeedsd(channel=c)(data)["seeds"] for c in (0, 1))
    assert (first != second).any()
    alone = dict(data, image=data["image"][1:])
    assert torch.equal(ExpandSeedsd()(alone)["seeds"], second)


def test_two_objects():
    data = case()
    second = [[9, 9, 5], [7, 9, 5], [11, 9, 5], [9, 7, 5], [9, 11, 5], [9, 9, 3], [9, 9, 7]]
    data["points"] = np.concatenate([POSITIONS, second])
    data["points_label"] = (*LABELS, *(name + "2" for name in LABELS))
    seeds = ExpandSeedsd(epsilon=0.1)(data)["seeds"][0]
    assert seeds[6, 6, 5] == 1
    assert seeds[9, 9, 5] == 1
    assert seeds[4, 4, 4] == UNLABELLED
    assert seeds[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": POSITIONS[1:], "points_label": LABELS[1:]}, r"a.nii.gz \(points\): object 1: found points L, R"),
        ({"points": POSITIONS[:-1], "points_label": LABELS[:-1]}, "expected F and 6 others"),
        ({"points": POSITIONS + np.array([0, 0, 3])}, r"a.nii.gz \(points\): .*in the image"),
        ({"points": np.where(np.arange(7)[:, None] == 0, 2.0, POSITIONS)}, "expected one inside the box"),
    ],
)
def test_bad_points_name_the_file_and_key(change, message):
    with pytest.raises(ValueError, match=message):
        ExpandSeedsd()({**case(), **change})


def test_needs_a_voxel_size():
    data = case()
    data["image"] = data["image"].as_tensor()
    with pytest.raises(TypeError, match="image: found Tensor"):
        ExpandSeedsd()(data)


def test_valid_region():
    data = case()
    data["image"][0, 3, 3, 3] = data["image"].min() - 1
    assert ValidRegiond()(data)["valid"].all()
    valid = ValidRegiond(mode="above_minimum")(data)["valid"]
    assert valid.dtype == torch.uint8
    assert torch.equal(valid.affine, data["image"].affine)
    assert torch.nonzero(valid[0] == 0).tolist() == [[3, 3, 3]]
    flat = dict(data, image=torch.zeros(1, 4, 4))
    assert not ValidRegiond(mode="above_minimum")(flat)["valid"].any()


def test_valid_region_of_a_chosen_channel():
    data = case(channels=2)
    data["image"][1, 0, 0, 0] = -100
    assert ValidRegiond(mode="above_minimum", channel=1)(data)["valid"][0, 0, 0, 0] == 0
    assert ValidRegiond(mode="above_minimum", channel=0)(data)["valid"][0, 0, 0, 0] == 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mode: found 'nonzero'"):
        ValidRegiond(mode="nonzero")
    with pytest.raises(ValueError, match="cost: found 'raster'"):
        ExpandSeedsd(cost="raster")
    with pytest.raises(ValueError, match="epsilon: found 2"):
        ExpandSeedsd(epsilon=2)
    for transform in (ValidRegiond, ExpandSeedsd):
        with pytest.raises(ValueError, match="expected the key of one image"):
            transform(keys=("image", "other"))


def test_in_a_cached_pipeline():
    chain = Compose(
        [
            NormalizeIntensityd("image"),
            ValidRegiond("image", mode="above_minimum"),
            ExpandSeedsd("image", epsilon=0.3),
            RandFlipd(("image", "valid", "seeds"), prob=1.0, spatial_axis=0),
        ]
    )
    cached = CacheDataset([case(), case(spacing=(1, 1, 1))], chain, progress=False, num_workers=0)
    batch = list_data_collate([cached[0], cached[1]])
    assert batch["seeds"].shape == batch["valid"].shape == (2, 1, 12, 12, 10)
    np.testing.assert_array_equal(cached[0]["seeds"], chain(case())["seeds"])
    assert batch["seeds"][0, 0, 11 - 6, 6, 5] == 1


@pytest.mark.parametrize("axcodes", ["RAS", "LPI"])
@pytest.mark.parametrize("spacing", [0.7, 1.5, 2.0, 3.1])
@pytest.mark.parametrize("planes", [12, 13, 14])
def test_border_clicks_stay_border_clicks_when_the_image_is_resampled(tmp_path, planes, spacing, axcodes):
    """An object that fills the image: all six clicks lie in border planes, so nothing is background."""
    last = planes - 1
    low, high = np.full((3, 3), planes // 2.0), np.full((3, 3), planes // 2.0)
    np.fill_diagonal(low, 0)
    np.fill_diagonal(high, last)
    points = np.stack([low, high], axis=1).reshape(6, 3)
    write_points(tmp_path / "p.json", PointSet(tuple("FLRPAIS"), np.vstack([[planes // 2] * 3, points]), "voxel"))
    image = MetaTensor(torch.randn(1, *[planes] * 3), affine=torch.eye(4), meta={"original_affine": np.eye(4)})
    steps = [
        Orientationd("image", axcodes, labels=None),
        Spacingd("image", [spacing] * 3),
        LoadPointsd("points"),
        ExpandSeedsd(),
    ]
    seeds = Compose(steps)({"image": image, "points": str(tmp_path / "p.json")})["seeds"]
    assert (seeds != 0).all()
