# SPDX-License-Identifier: Apache-2.0
"""Sizes, parameters, what each scale adds, and what each critic sees."""

from __future__ import annotations

import pytest
import torch

from monai_ext.functional.scales import resize_image, resize_mask, scale_sizes
from monai_ext.networks import ComponentCritics, ConditionalSinGAN

SIZES = [(16, 20), (20, 25), (24, 30)]


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(**kwargs):
    torch.manual_seed(0)
    return ConditionalSinGAN(SIZES, channels=8, **kwargs)


def some_mask():
    mask = torch.zeros(2, 1, *SIZES[-1])
    mask[0, :, 4:12, 5:16], mask[1, :, 15:22, 3:25] = 1, 1
    return mask


def test_parameters_are_those_of_the_released_networks():
    network = ConditionalSinGAN(scale_sizes((256, 256)))
    assert [count(generator) for generator in network.generators] == [30_051] * 4 + [115_395]
    for scale, expected in ((3, 29_185), (4, 113_665)):
        assert [count(c) for c in ComponentCritics(scale).critics.values()] == [expected] * 3


def test_every_scale_has_its_size_and_range():
    network, mask = small(), some_mask()
    for scale, size in enumerate(SIZES):
        assert network(mask, scale=scale).shape == (2, 3, *size)
    assert network(mask).shape == (2, 3, *SIZES[-1])
    assert (network(mask, scale=0).abs() <= 1).all()


def test_equation_2_by_hand():
    network, mask = small().eval(), some_mask()
    network.amplitudes.copy_(torch.tensor([1.0, 0.3, 0.2]))
    noises = [torch.randn(2, 1, *SIZES[0]), None, torch.randn(2, 3, *SIZES[2])]

    def psi(scale, image):
        condition = 2 * resize_mask(mask, SIZES[scale]) - 1
        padded = torch.zeros(2, 4, image.shape[2] + 10, image.shape[3] + 10)
        padded[:, :, 5:-5, 5:-5] = torch.cat([image, condition], 1)
        return network.generators[scale](padded)

    y = psi(0, noises[0].expand(-1, 3, -1, -1))
    y = resize_image(y, SIZES[1])
    y = psi(1, y) + y
    y = resize_image(y, SIZES[2])
    y = psi(2, y + 0.2 * noises[2]) + y
    torch.testing.assert_close(network(mask, noises=noises), y)


def test_mask_and_noise_matter():
    network = small().eval()
    mask, noise = some_mask(), [torch.randn(2, 1, *SIZES[0]), None, None]
    assert not torch.equal(network(mask), network(1 - mask))
    assert not torch.equal(network(mask), network(mask, noises=noise))
    assert torch.equal(network(mask), network(mask, noises=[None] * 3))


def test_the_patch_comes_from_one_noise_or_from_none():
    network, mask = small().eval(), some_mask()
    noises = network.anchors(2)
    assert torch.equal(noises[0], network.anchor)
    assert noises[1:] == [None, None]
    assert network.anchor.shape == (1, 1, *SIZES[0])
    assert torch.equal(network(mask, noises=noises), network(mask, noises=network.anchors(2)))
    assert "anchor" in network.state_dict()
    assert 0.7 < network.anchor.std() < 1.3
    without = small(anchored=False).eval()
    assert torch.equal(without(mask, noises=without.anchors(2)), without(mask))


def test_noises_of_each_scale():
    network, mask = small(), some_mask()
    noises = network.noises(mask, generator=torch.Generator().manual_seed(1))
    assert [noise.shape for noise in noises] == [(2, 1, *SIZES[0]), (2, 3, *SIZES[1]), (2, 3, *SIZES[2])]
    again = network.noises(mask, scale=1, generator=torch.Generator().manual_seed(1))
    assert len(again) == 2
    assert all(torch.equal(one, other) for one, other in zip(again, noises, strict=False))
    assert not torch.equal(network.noises(mask)[0], network.noises(mask)[0])


def test_channels_double_every_four_scales_to_128():
    network = ConditionalSinGAN([(16 + n, 16 + n) for n in range(13)])
    assert [generator[0].out_channels for generator in network.generators] == [32] * 4 + [64] * 4 + [128] * 5


def test_parts_of_an_image():
    image, mask = torch.rand(2, 3, 6, 7) - 0.5, (torch.rand(2, 1, 6, 7) > 0.5).float()
    foreground, background = (ComponentCritics.part(name, image, mask) for name in ("foreground", "background"))
    assert torch.equal(ComponentCritics.part("global", image, mask), image)
    assert torch.equal(foreground + background, image)
    assert not foreground[(mask == 0).expand(-1, 3, -1, -1)].any()
    assert not background[(mask == 1).expand(-1, 3, -1, -1)].any()


@pytest.mark.parametrize("name", ["global", "foreground", "background"])
def test_each_critic_alone_teaches_the_generator(name):
    """The released code detaches what the latter two see."""
    network, critics, mask = small(), ComponentCritics(2, channels=8), some_mask()
    image = network(mask, noises=[torch.randn(2, 1, *SIZES[0]), None, None])
    image.retain_grad()
    critics(name, critics.part(name, image, mask)).mean().backward()
    inside = {"global": torch.ones_like(mask), "foreground": mask, "background": 1 - mask}[name] > 0
    assert not image.grad[~inside.expand_as(image)].any()
    assert image.grad[inside.expand_as(image)].any()
    assert all(p.grad.any() for generator in network.generators for p in generator.parameters())
    assert all(p.grad is None for other, c in critics.critics.items() if other != name for p in c.parameters())


def test_critics_bounded_or_not():
    image = 50 * torch.randn(2, 3, 24, 30)
    assert ComponentCritics(0)("global", image).shape == (2, 1, 14, 20)
    scores = ComponentCritics(0, bounded=True)("global", image)
    assert 0 <= scores.min() <= scores.max() <= 6
    assert ComponentCritics(0, components=["global"]).critics.keys() == {"global"}
    with pytest.raises(ValueError, match="components: found \\['edges'\\]"):
        ComponentCritics(0, components=["edges"])
    with pytest.raises(ValueError, match="components: found \\[\\]"):
        ComponentCritics(0, components=[])
