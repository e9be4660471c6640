# SPDX-License-Identifier: Apache-2.0
"""Eq. 4 by hand on linear critics, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ext.losses import WassersteinCriticLoss


def linear(weights):
    """A critic of one pixel: the sum of its channels by ``weights``."""
    critic = nn.Conv2d(len(weights), 1, 1, bias=False)
    critic.weight.data = torch.tensor(weights).view(1, -1, 1, 1)
    return critic


def pair(batch=2, channels=3, height=4, width=5):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, channels, height, width, generator=generator) for _ in range(2))


def test_penalties_by_hand():
    critic, (real, fake) = linear([3.0, 4.0, 0.0]), pair()
    distance = critic(fake).mean() - critic(real).mean()
    # The gradient at each pixel is (3, 4, 0), of norm 5; of the image of 20 pixels it is 5 times the root of 20.
    expected = {"pixel": 0.1 * (5 - 1) ** 2, "image": 0.1 * (5 * 20**0.5 - 1) ** 2}
    assert expected["pixel"] == pytest.approx(1.6)
    for norm, penalty in expected.items():
        torch.testing.assert_close(WassersteinCriticLoss(norm=norm)(critic, real, fake), distance + penalty)
    torch.testing.assert_close(WassersteinCriticLoss(penalty=0.0)(critic, real, fake), distance)


def test_a_critic_of_slope_1_costs_its_distance_alone():
    critic, (real, fake) = linear([0.6, 0.8]), pair(channels=2)
    expected = critic(fake).mean() - critic(real).mean()
    torch.testing.assert_close(WassersteinCriticLoss(penalty=7.0)(critic, real, fake), expected)


def test_gradient_reaches_the_critic_alone():
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1))
    real, fake = (some.requires_grad_() for some in pair())
    WassersteinCriticLoss()(critic, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    assert all(p.grad.any() for p in critic.parameters() if p.ndim > 1)


def test_the_penalty_alone_pulls_the_slope_to_1():
    critic = linear([0.1, 0.2, 0.0])
    optimizer, loss = torch.optim.Adam(critic.parameters(), lr=0.05), WassersteinCriticLoss()
    for _ in range(300):
        optimizer.zero_grad()
        loss.gradient_penalty(critic, *pair()).backward()
        optimizer.step()
    assert critic.weight.norm().item() == pytest.approx(1, abs=1e-3)


def test_between_images_lie_on_straight_lines():
    """One share for each pair: a critic that is told says what it saw."""
    seen = []

    def critic(image):
        seen.append(image.detach())
        return image.square()

    real, fake = pair()
    WassersteinCriticLoss().gradient_penalty(critic, real, fake)
    share = (seen[0] - fake) / (real - fake)
    for one in share:
        torch.testing.assert_close(one, one.mean().expand_as(one), rtol=1e-3, atol=1e-4)
    assert 0 <= share.min() <= share.max() <= 1
    assert share[0].mean() != share[1].mean()


def test_a_critic_learns_to_tell():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 8, 3), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 1))
    optimizer, loss = torch.optim.Adam(critic.parameters(), lr=0.01), WassersteinCriticLoss()
    for _ in range(60):
        real, fake = torch.rand(4, 1, 8, 8) + 1, torch.rand(4, 1, 8, 8)
        value = loss(critic, real, fake)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value < -0.5
    assert critic(torch.rand(4, 1, 8, 8) + 1).mean() > critic(torch.rand(4, 1, 8, 8)).mean() + 0.5


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm: found 'row'"):
        WassersteinCriticLoss(norm="row")
