# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.networks.unet2p5d import UNet2p5d


def test_parameter_count_of_the_released_network():
    network = UNet2p5d(channels=(16, 32, 64, 128, 128), decoder_channels=(16, 16, 32, 64))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(2.47e6, rel=5e-3)


@pytest.mark.parametrize("shape", [(32, 32, 16), (16, 48, 32)])
def test_shape_and_torchscript(shape):
    network = UNet2p5d(1, 3, channels=(4, 8, 8, 8, 8)).eval()
    image = torch.rand(2, 1, *shape)
    logits = network(image)
    assert logits.shape == (2, 3, *shape)
    assert torch.equal(torch.jit.script(network)(image), logits)


def test_flat_levels_do_not_look_across_slices():
    network = UNet2p5d(1, 2, channels=(4, 4), flat_levels=2).eval()
    kernels = [tuple(m.kernel_size) for block in network.encoder for m in block if isinstance(m, torch.nn.Conv3d)]
    assert kernels == [(3, 3, 1)] * 4
    image = torch.zeros(1, 1, 8, 8, 8, requires_grad=True)
    network.encoder[0][0](image)[0, :, :, :, 3].sum().backward()
    assert image.grad[..., 3].abs().sum() > 0
    assert image.grad[..., [0, 1, 2, 4, 5, 6, 7]].abs().sum() == 0


def test_every_parameter_gets_gradient():
    network = UNet2p5d(1, 2, channels=(4, 4, 4))
    network(torch.rand(1, 1, 8, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
