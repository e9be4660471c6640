# SPDX-License-Identifier: Apache-2.0
"""The collaborator against its drawing written out by hand, and its size against the principal network's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from monai_ext.networks import Collaborator, ConvNeXtFPN, PointInstanceNet
from monai_ext.networks.collaborator import ShiftedInstanceNorm, SmallUNet


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def counted(pairs, last):
    """Weights and shifts of 3x3 convolutions from and to these channels, and an output layer with a bias."""
    return sum(9 * before * after + after for before, after in pairs) + 9 * last + 1


def unet_pairs(channels, in_channels=3):
    down = [p for before, width in pairwise((in_channels, *channels)) for p in ((before, width), (width, width))]
    up = [p for fine, coarse in pairwise(channels) for p in ((fine + coarse, fine), (fine, fine))]
    return down + up


def convolve(x, layer, *, stride=1):
    """Convolution, each channel to mean 0 and variance 1, a shift, ReLU."""
    x = F.conv2d(x, layer[0].weight, stride=stride, padding=1)
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return ((x - mean) / (variance + 1e-6).sqrt() + layer[1].shift[:, None, None]).clamp_min(0)


def unet_by_hand(network, image):
    """Three scales."""
    first, second, third = network.down
    fine = convolve(convolve(image, first[0]), first[1])
    middle = convolve(convolve(fine, second[0], stride=2), second[1])
    x = convolve(convolve(middle, third[0], stride=2), third[1])
    for layer, kept in zip(network.up, (middle, fine), strict=True):
        x = F.interpolate(x, size=kept.shape[2:], mode="bilinear", align_corners=False)
        x = convolve(convolve(torch.cat([x, kept], 1), layer[0]), layer[1])
    return F.conv2d(x, network.last.weight, network.last.bias, padding=1)


def shifted(network):
    """Shifts that are not 0, so that one left out would show."""
    for module in network.modules():
        if isinstance(module, ShiftedInstanceNorm):
            torch.nn.init.normal_(module.shift)
    return network


def test_parameters_are_those_of_the_paper():
    a1 = Collaborator()
    with torch.device("meta"):
        principal = PointInstanceNet(ConvNeXtFPN())
    assert parameters(a1.foreground) == counted(unet_pairs((16, 32, 64)), 16) == 118_401
    assert parameters(a1.border) == counted([(3, 32), (32, 32)], 32) == 10_433
    assert parameters(principal) == 56_071_588
    assert parameters(a1) / parameters(principal) < 0.003


@pytest.mark.parametrize("channels", [(16,), (16, 32), (16, 32, 64, 128), (16, 32, 64, 128, 256)])
def test_wider_and_narrower_ones(channels):
    network = Collaborator(1, foreground=channels, border_unet=(8, 16))
    assert parameters(network.foreground) == counted(unet_pairs(channels, 1), channels[0])
    assert parameters(network.border) == counted(unet_pairs((8, 16), 1), 8)
    with torch.no_grad():
        assert network(torch.randn(1, 1, 48, 33)).shape == (1, 2, 48, 33)


def test_the_foreground_is_the_drawing_by_hand():
    torch.manual_seed(0)
    network = shifted(SmallUNet(3, (4, 6, 8))).double()
    image = torch.randn(2, 3, 21, 34, dtype=torch.float64)
    torch.testing.assert_close(network(image), unet_by_hand(network, image))


def test_the_border_is_three_layers():
    torch.manual_seed(0)
    network = shifted(Collaborator(2, border=(5, 7))).double()
    image = torch.randn(2, 2, 21, 34, dtype=torch.float64)
    first, second, last = network.border
    expected = F.conv2d(convolve(convolve(image, first), second), last.weight, last.bias, padding=1)
    torch.testing.assert_close(network(image)[:, 1:], expected)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 5)])
def test_any_size_comes_back(size):
    with torch.no_grad():
        assert Collaborator()(torch.randn(2, 3, *size)).shape == (2, 2, *size)


def test_images_of_a_batch_do_not_meet():
    network, images = shifted(Collaborator()), torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        apart = torch.cat([network(image) for image in images.split(1)])
        torch.testing.assert_close(network(images), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channel", "own"), [(0, "foreground"), (1, "border")])
def test_each_output_is_a_network_of_its_own(channel, own):
    network = Collaborator()
    network(torch.randn(1, 3, 32, 32))[:, channel].square().mean().backward()
    for name, parameter in network.named_parameters():
        learns = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert learns == name.startswith(own), name


def test_normalisation_has_no_scale_and_saves_none():
    network = ShiftedInstanceNorm(3)
    assert list(network.state_dict()) == ["shift"]
    assert network(torch.full((1, 3, 8, 8), 7.0)).abs().max() == 0
    x = network(3 + 5 * torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(x.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var((2, 3), correction=0), torch.ones(2, 3), atol=1e-4, rtol=0)
