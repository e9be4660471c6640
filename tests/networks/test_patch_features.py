# SPDX-License-Identifier: Apache-2.0
"""Against torchvision's own network, and windows of a map against a loop over its pixels."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from monai_ext.functional.stain_texture import stain_texture
from monai_ext.networks.patch_features import NoFeatures, PatchFeatures, StainTexture, features_or_exit


@pytest.fixture(scope="module")
def small():
    return PatchFeatures(backbone="resnet18")


def test_features_are_torchvisions_without_the_last_layer(tmp_path):
    torch.manual_seed(3)
    theirs = resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
    torch.save(theirs.state_dict(), tmp_path / "r50.pth")
    network = PatchFeatures(tmp_path / "r50.pth")
    windows = torch.rand(2, 3, 64, 64)
    found = network(windows)
    theirs.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(found, theirs(windows))
    assert found.shape == (2, network.width) == (2, 2048)


def test_random_features_repeat_and_leave_the_generator_alone(small):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again, other = PatchFeatures(backbone="resnet18"), PatchFeatures(backbone="resnet18", seed=1)
    assert torch.equal(torch.rand(1), expected)
    windows = torch.rand(1, 3, 32, 32)
    assert torch.equal(small(windows), again(windows))
    assert not torch.equal(small(windows), other(windows))
    assert not any(p.requires_grad for p in small.parameters())


def test_windows_keep_their_size(small):
    """A quarter goes in as it is, not enlarged."""
    assert small(torch.rand(3, 3, 128, 128)).shape == small(torch.rand(3, 3, 256, 256)).shape == (3, 512)


def test_windows_of_a_map_equal_a_loop_over_pixels(small):
    image = torch.rand(3, 150, 201)
    rows, columns = torch.tensor([0, 32, 15, 22, 50, 7]), torch.tensor([0, 64, 101, 73])
    found = small.of_map(small.map_of(image), rows, columns, 100)
    assert found.shape == (6, 4, 512)
    padded = nn.functional.pad(image[None], [0, 23, 0, 10], mode="replicate")
    with torch.no_grad():
        pixels = small.trunk(padded)[0].repeat_interleave(32, 1).repeat_interleave(32, 2)
    for (row, column), features in zip(product(rows.tolist(), columns.tolist()), found.flatten(0, 1), strict=True):
        expected = pixels[:, row : row + 100, column : column + 100].mean((1, 2))
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_the_whole_image_is_a_window_like_any_other(small):
    image = torch.rand(3, 128, 128)
    zero = torch.tensor([0])
    torch.testing.assert_close(small.of_map(small.map_of(image), zero, zero, 128)[0], small(image[None]))


def test_weights_of_another_network(tmp_path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18\.pth: \d+ keys differ from torchvision's resnet50"):
        PatchFeatures(tmp_path / "r18.pth")


def test_stain_and_texture_of_windows():
    windows = torch.rand(2, 3, 24, 32)
    found = StainTexture()(windows)
    expected = stain_texture(windows.double().numpy().transpose(0, 2, 3, 1))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_configuration_names_its_features(tmp_path):
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "r50.pth")
    paper = features_or_exit("resnet50", weights=tmp_path / "r50.pth", mode="dense")
    digest = hashlib.sha256((tmp_path / "r50.pth").read_bytes()).hexdigest()
    assert paper.source == {"network": "resnet50", "weights": "r50.pth", "sha256": digest}
    assert features_or_exit("random").source == {"network": "resnet50", "weights": "random, seed 0"}
    assert isinstance(features_or_exit("stain_texture"), StainTexture)
    nothing = features_or_exit("none", mode="dense")
    assert isinstance(nothing, NoFeatures)
    windows, five = torch.rand(5, 3, 8, 8), torch.arange(5)
    assert nothing(windows).shape == (5, 0)
    assert nothing.of_map(nothing.map_of(windows[0]), five, five[:2], 4).shape == (5, 2, 0)


def test_features_that_cannot_be_had_end_the_program_with_a_sentence(tmp_path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    for kind, options, parts in (
        ("resnet50", {}, ("feature_weights: found none", "IMAGENET1K_V1", "'stain_texture' or 'random'")),
        ("resnet50", {"weights": tmp_path / "r18.pth"}, ("feature_weights: ", "r18.pth", "keys differ")),
        ("resnet", {}, ("features: found 'resnet'", "resnet50, random, stain_texture, none")),
        ("stain_texture", {"mode": "dense"}, ("mode: found 'dense'", "'exact'")),
    ):
        with pytest.raises(SystemExit) as caught:
            features_or_exit(kind, **options)
        assert all(part in str(caught.value) for part in parts), caught.value
