# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AttentionUnet
from torch import nn

from monai_ext.networks import InstanceNormAttentionUnet

WIDTHS = {"in_channels": 1, "out_channels": 2, "channels": (4, 8, 16), "strides": (2, 2)}


@pytest.mark.parametrize("dims", [2, 3])
def test_training_and_inference_see_one_function(dims):
    """Batch normalisation differs between the two, and ties the images of a batch together."""
    torch.manual_seed(0)
    network = InstanceNormAttentionUnet(spatial_dims=dims, **WIDTHS)
    image = torch.randn(2, 1, *[16] * dims)
    image[1] *= 5
    with torch.no_grad():
        trained = network.train()(image)
        assert torch.equal(trained, network.eval()(image))
        torch.testing.assert_close(network(image[:1]), trained[:1], rtol=1e-4, atol=1e-5)
    assert not list(network.buffers())
    assert any(isinstance(module, nn.modules.instancenorm._InstanceNorm) for module in network.modules())


def test_the_rest_is_monais():
    ours, monai = (kind(spatial_dims=3, **WIDTHS) for kind in (InstanceNormAttentionUnet, AttentionUnet))
    shapes = {name: value.shape for name, value in monai.named_parameters()}
    assert {name: value.shape for name, value in ours.named_parameters()} == shapes
    image = torch.randn(1, 1, 16, 16, 8)
    ours(image).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in ours.parameters())
    torch.testing.assert_close(torch.jit.script(ours)(image), ours(image))
