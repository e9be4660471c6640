# SPDX-License-Identifier: Apache-2.0
"""Windows against slicing, one after another, and what is kept between runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from benchmarks.reference.windows_one_by_one import features_one_by_one
from monai_ext.inferers import WindowFeatureInferer
from monai_ext.networks import PatchFeatures


class Moments(nn.Module):
    """Mean and largest value of each channel, and how bright the upper left corner is."""

    def __init__(self):
        super().__init__()
        self.calls, self.factor = [], nn.Parameter(torch.ones(1))

    def forward(self, windows):
        self.calls.append(len(windows))
        return self.factor.detach() * torch.cat([windows.mean((2, 3)), windows.amax((2, 3)), windows[:, :1, 0, 0]], 1)


def test_windows_and_quarters_equal_slices_of_the_picture_as_it_lies():
    picture = torch.rand(3, 20, 33)  # columns first: 33 rows, 20 columns
    (found,) = WindowFeatureInferer(size=8, stride=5, batch_size=4)(MetaTensor(picture[None]), Moments())
    rows_first = picture.transpose(1, 2)
    expected = [(i, j) for i in range(0, 33 - 8 + 1, 5) for j in range(0, 20 - 8 + 1, 5)]
    assert [tuple(corner) for corner in found["corners"].tolist()] == expected
    assert (found["features"].shape, found["regions"].shape) == ((18, 7), (18, 4, 7))
    network = Moments()
    for (i, j), features, regions in zip(expected, found["features"], found["regions"], strict=True):
        window = rows_first[None, :, i : i + 8, j : j + 8]
        np.testing.assert_allclose(features, network(window)[0], rtol=1e-6)
        quarters = (window[..., :4, :4], window[..., :4, 4:], window[..., 4:, :4], window[..., 4:, 4:])
        for quarter, region in zip(quarters, regions, strict=True):
            np.testing.assert_allclose(region, network(quarter)[0], rtol=1e-6)


def test_a_picture_is_seen_as_the_plain_program_sees_its_windows_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 3)).astype(np.uint8)
    image = torch.from_numpy(pixels.transpose(2, 1, 0) / np.float32(255))
    (found,) = WindowFeatureInferer(size=8, stride=6)(image[None], Moments())
    device = torch.device("cpu")
    corners = found["corners"].tolist()
    expected = features_one_by_one(pixels, corners, size=8, network=Moments(), folder=tmp_path, device=device)
    np.testing.assert_allclose(found["features"], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found["regions"], expected[1], rtol=1e-6)
    assert len(list(tmp_path.iterdir())) == len(corners) == 12


def test_batches_change_nothing():
    picture = torch.rand(2, 3, 24, 24)
    one, many = (WindowFeatureInferer(size=8, stride=4, batch_size=n)(picture, Moments()) for n in (1, 100))
    for first, second in zip(one, many, strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in ("corners", "features", "regions"))


def test_a_quarter_that_windows_share_is_looked_at_once():
    network = Moments()
    (found,) = WindowFeatureInferer(size=8, stride=4)(torch.rand(1, 3, 24, 24), network)
    assert found["regions"].shape == (25, 4, 7)
    assert network.calls == [25, 36]


def test_dense_features_are_those_of_the_map():
    network, picture = PatchFeatures(backbone="resnet18"), torch.rand(3, 96, 128)
    (found,) = WindowFeatureInferer(size=64, stride=16, mode="dense")(picture[None], network)
    image = picture.transpose(1, 2).contiguous()
    rows, columns, whole = torch.arange(0, 65, 16), torch.arange(0, 33, 16), network.map_of(image)
    assert found["corners"].tolist() == torch.cartesian_prod(rows, columns).tolist()
    np.testing.assert_array_equal(found["features"], network.of_map(whole, rows, columns, 64).flatten(0, 1))
    quarter = network.of_map(whole, rows + 32, columns, 32).flatten(0, 1)
    np.testing.assert_array_equal(found["regions"][:, 2], quarter)
    assert found["features"].shape == (15, 512)


@pytest.mark.parametrize("stored", [False, True])
def test_a_dense_run_can_be_asked_for_exact_features(tmp_path, stored):
    network, pictures = PatchFeatures(backbone="resnet18"), torch.rand(2, 3, 96, 128)
    options = {"size": 64, "stride": 16, "store": tmp_path if stored else None}
    exact = WindowFeatureInferer(**options)(pictures, network)
    for _ in range(2 if stored else 1):  # the second time from the store
        dense = WindowFeatureInferer(**options, mode="dense")(pictures, network)
        assert not np.allclose(dense[1]["features"], exact[1]["features"], rtol=1e-3)
        for number in range(2):
            features, regions = dense[number]["exact"](dense[number]["corners"][[7, 2]])
            np.testing.assert_allclose(features, exact[number]["features"][[7, 2]], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(regions, exact[number]["regions"][[7, 2]], rtol=1e-4, atol=1e-6)
    assert "exact" not in exact[0]


def test_how_far_windows_lie_from_the_middle_of_their_image():
    (found,) = WindowFeatureInferer(size=8, stride=4)(torch.rand(1, 3, 12, 16), Moments())  # 16 rows, 12 columns
    middles = found["corners"] + 4
    np.testing.assert_allclose(found["off_centre_px"], np.hypot(middles[:, 0] - 8, middles[:, 1] - 6))


def test_an_interrupted_run_goes_on(tmp_path):
    pictures, network = torch.rand(3, 3, 16, 16), Moments()
    inferer = WindowFeatureInferer(size=8, stride=8, store=tmp_path / "features")
    first = inferer(pictures[:2], network)
    assert len(list((tmp_path / "features").iterdir())) == 2
    network.calls.clear()
    again = WindowFeatureInferer(size=8, stride=8, store=tmp_path / "features")(pictures, network)
    assert network.calls == [4, 16], "the third picture's windows and quarters alone"
    for one, other in zip(first, again, strict=False):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    network.factor.data.fill_(2.0)
    other = inferer(pictures[:1], network)
    np.testing.assert_allclose(other[0]["features"], 2 * first[0]["features"])
    WindowFeatureInferer(size=8, stride=4, store=tmp_path / "features")(pictures[:1], network)
    assert len(list((tmp_path / "features").iterdir())) == 5


def test_options_out_of_range():
    with pytest.raises(ValueError, match="size: found 15, expected an even number"):
        WindowFeatureInferer(size=15)
    with pytest.raises(ValueError, match="mode: found 'fast'"):
        WindowFeatureInferer(mode="fast")
    with pytest.raises(ValueError, match="size: found 8, expected 1 to 6"):
        WindowFeatureInferer(size=8)(torch.rand(1, 3, 6, 9), Moments())


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["exact", "dense"])
def test_the_gpu_gives_the_features_of_the_cpu(mode):
    """Up to what TF32 rounds; also those that a dense run is asked for afterwards."""
    picture, found = torch.rand(1, 3, 96, 128), []
    for device in ("cpu", "cuda"):
        network = PatchFeatures(backbone="resnet18").to(device)
        (one,) = WindowFeatureInferer(size=64, stride=16, mode=mode)(picture.to(device), network)
        asked = one["exact"](one["corners"][[7, 2]]) if mode == "dense" else ()
        found.append([one["features"], one["regions"], *asked])
    for expected, given in zip(*found, strict=True):
        np.testing.assert_allclose(given, expected, rtol=0.02, atol=0.002 * np.abs(expected).max())
