# SPDX-License-Identifier: Apache-2.0
"""The backbone against torchvision's, its top-down path against a loop over its convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import ConvNeXt, convnext_small, convnext_tiny
from torchvision.models.convnext import CNBlockConfig

from monai_ext.networks import ConvNeXtFPN
from monai_ext.networks.convnext_fpn import SIZES, STRIDES


def small(**kwargs):
    torch.manual_seed(0)
    return ConvNeXtFPN(**({"size": "micro", "channels": 8} | kwargs))


def micro_of_torchvision(*, widths=SIZES["micro"][1], seed=1):
    torch.manual_seed(seed)
    pairs = zip(widths, (*widths[1:], None), SIZES["micro"][0], strict=True)
    return ConvNeXt([CNBlockConfig(width, following, depth) for width, following, depth in pairs])


def with_layer_scale(network):
    """Blocks that show, as after training."""
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            torch.nn.init.constant_(parameter, 0.5)
    return network


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("size", "theirs"), [("small", convnext_small), ("tiny", convnext_tiny)])
def test_the_body_is_torchvisions_less_its_head(size, theirs):
    with torch.device("meta"):
        mine, expected = ConvNeXtFPN(size=size), theirs(weights=None).features
    shapes = {name: value.shape for name, value in expected.state_dict().items()}
    assert {name: value.shape for name, value in mine.body.state_dict().items()} == shapes
    assert parameters(mine.body) == {"small": 49_453_152, "tiny": 27_818_592}[size]
    lateral = sum(width * 256 + 256 for width in (96, 192, 384, 768))
    assert parameters(mine) - parameters(mine.body) == lateral + 3 * (9 * 256 * 256 + 256)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_blocks(size):
    with torch.device("meta"):
        body = ConvNeXtFPN(size=size, channels=8).body
    depths, widths = SIZES[size]
    assert tuple(len(body[stage]) for stage in (1, 3, 5, 7)) == depths
    assert tuple(body[stage][0].layer_scale.shape[0] for stage in (1, 3, 5, 7)) == widths


@pytest.mark.parametrize("sides", [(64, 64), (32, 96)])
def test_levels_are_fine_to_coarse(sides):
    network = small(channels=5).eval()
    with torch.no_grad():
        levels = network(torch.randn(2, 3, *sides))
    assert STRIDES == (4, 8, 16, 32)
    shapes = [(2, 5, sides[0] // stride, sides[1] // stride) for stride in STRIDES]
    assert [tuple(level.shape) for level in levels] == shapes


def test_the_top_down_path_is_a_loop_over_its_convolutions():
    network = with_layer_scale(small()).double().eval()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        stages, x = [], image
        for downsample, blocks in zip(network.body[::2], network.body[1::2], strict=True):
            x = blocks(downsample(x))
            stages.append(x)
        lateral = [F.relu(F.conv2d(x, c[0].weight, c[0].bias)) for x, c in zip(stages, network.lateral, strict=True)]
        above = lateral[3]  # the coarsest has no 3x3 convolution
        expected = [above]
        for level, smooth in zip((2, 1, 0), network.smooth, strict=True):
            larger = above.repeat_interleave(2, 2).repeat_interleave(2, 3)
            convolution = smooth[0]
            above = F.relu(F.conv2d(lateral[level] + larger, convolution.weight, convolution.bias, padding=1))
            expected.insert(0, above)
        found = network(image)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.std() > 0


def test_stages_give_what_torchvision_gives():
    whole = with_layer_scale(micro_of_torchvision()).eval()
    network = with_layer_scale(small()).eval()
    network.body.load_state_dict(whole.features.state_dict())
    image, seen = torch.randn(1, 3, 32, 64), []
    network.lateral[3].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        network(image)
        torch.testing.assert_close(seen[0], whole.features(image))


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_for_other_than_three_channels(channels):
    network, usual = small(in_channels=channels).eval(), small()
    stem = network.body[0][0]
    assert (stem.in_channels, stem.kernel_size, stem.stride, stem.padding) == (channels, (4, 4), (4, 4), (0, 0))
    assert parameters(usual) - parameters(network) == (3 - channels) * 16 * 24
    with torch.no_grad():
        assert network(torch.randn(1, channels, 32, 32))[0].shape == (1, 8, 8, 8)


def test_blocks_are_left_out_in_training_only():
    with_none, network = small(stochastic_depth=0.0), small(stochastic_depth=0.4)
    blocks = [block for stage in network.body[1::2] for block in stage]
    chances = [block.stochastic_depth.p for block in blocks]
    assert chances == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image), with_none.train()(image))


def test_every_parameter_learns():
    network = small(stochastic_depth=0.0)
    sum(level.square().mean() for level in network(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_scripted_equals_eager():
    network = with_layer_scale(small()).eval()
    scripted, image = torch.jit.script(network), torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network(image))


def test_weights_from_a_file(tmp_path):
    theirs = micro_of_torchvision()
    torch.save(theirs.state_dict(), tmp_path / "micro.pth")
    networks = [ConvNeXtFPN(size="micro", channels=8, weights=tmp_path / "micro.pth") for _ in range(2)]
    for name, value in networks[0].body.state_dict().items():
        assert torch.equal(value, theirs.features.state_dict()[name])
    assert not torch.equal(networks[0].lateral[0][0].weight, networks[1].lateral[0][0].weight)
    one = ConvNeXtFPN(1, size="micro", channels=8, weights=str(tmp_path / "micro.pth"))
    differ = [n for n, v in one.body.state_dict().items() if v.shape != theirs.features.state_dict()[n].shape]
    assert differ == ["0.0.weight"]
    assert torch.equal(one.body[7][0].block[5].weight, theirs.features[7][0].block[5].weight)


def test_weights_of_another_network(tmp_path):
    torch.save(micro_of_torchvision(widths=(16, 48, 96, 192)).state_dict(), tmp_path / "narrow.pth")
    torch.save({"model": micro_of_torchvision().state_dict()}, tmp_path / "wrapped.pth")
    with pytest.raises(ValueError, match=r"narrow.pth: \d+ keys differ .*features.0.0.weight") as narrow:
        small(weights=tmp_path / "narrow.pth")
    assert "\n" not in str(narrow.value)
    with pytest.raises(ValueError, match=r"wrapped.pth: \d+ keys differ from torchvision's ConvNeXt"):
        small(weights=tmp_path / "wrapped.pth")


def test_an_unknown_size():
    with pytest.raises(ValueError, match="size: found 'huge', expected one of small, tiny"):
        small(size="huge")
