# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from monai_ext.functional.scales import scale_sizes
from monai_ext.networks import PatchGenerators, make_critics, make_generators

OPTIONS = {"smallest_px": 12, "channels": 4}


def generators():
    torch.manual_seed(0)
    return make_generators([(16, 16), (16, 16)], **OPTIONS)


def some_masks():
    return (torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float()


def test_each_mask_is_drawn_by_its_patchs_generator_whatever_the_company():
    network, masks = PatchGenerators(generators()).eval(), some_masks()
    with torch.no_grad():
        drawn = network(masks, patch=[0, 1, 0], seed=[5, 6, 7])
        alone = torch.cat([network(masks[n : n + 1], patch=[n % 2], seed=[5 + n]) for n in range(3)])
        noises = network.generators[1].noises(masks[1:2], generator=torch.Generator().manual_seed(6))
        expected = network.generators[1](masks[1:2], noises=noises)
    assert torch.equal(drawn, alone)
    assert torch.equal(drawn[1:2], expected.clamp(-1, 1))
    assert drawn.abs().max() <= 1


def test_seeds_and_patches_matter_and_not_without_noise():
    masks, patches = some_masks()[:1], generators()
    with torch.no_grad():
        noisy, quiet = (PatchGenerators(patches, noisy=noisy).eval() for noisy in (True, False))
        first = noisy(masks, patch=[0], seed=[1])
        assert not torch.equal(first, noisy(masks, patch=[0], seed=[2]))
        assert not torch.equal(first, noisy(masks, patch=[1], seed=[1]))
        assert torch.equal(quiet(masks, patch=[0], seed=[1]), quiet(masks, patch=[0], seed=[2]))


def test_generators_and_critics_of_patches_of_different_sizes():
    made = make_generators([(16, 16), (12, 20)], **OPTIONS)
    assert [network.sizes for network in made] == [scale_sizes((16, 16), smallest_px=12), [(12, 20)]]
    critics = make_critics(made, channels=4, components=["global"])
    assert [len(some) for some in critics] == [len(network.sizes) for network in made]
    assert {tuple(one.critics) for some in critics for one in some} == {("global",)}
