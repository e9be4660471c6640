# SPDX-License-Identifier: Apache-2.0
"""CSinGAN's iteration on tiny patches: whose turn it is, whom each term reaches, what stays frozen, that it learns."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_ext.engines import CSinGANStep
from monai_ext.engines.csingan import Stage
from monai_ext.functional.scales import resize_image
from monai_ext.losses import WassersteinCriticLoss
from monai_ext.networks import ComponentCritics, ConditionalSinGAN

SIZES = [(16, 16), (20, 20)]
WEIGHTS = {
    **dict.fromkeys(("critic_global", "critic_foreground", "critic_background"), 1.0),
    **dict.fromkeys(("global", "foreground", "background"), 1.0),
    "reconstruction": 10.0,
}


def make_step(weights=WEIGHTS, *, patches=1, sizes=SIZES, **kwargs):
    torch.manual_seed(0)
    return CSinGANStep(
        generators=[ConditionalSinGAN(sizes, channels=8) for _ in range(patches)],
        critics=[[ComponentCritics(n, channels=8) for n in range(len(sizes))] for _ in range(patches)],
        critic_loss=WassersteinCriticLoss(),
        weights=weights,
        **kwargs,
    )


def make_batch(masks=2):
    """Dark squares on a bright ground, and squares elsewhere."""
    real_mask, mask = torch.zeros(1, 1, *SIZES[-1]), torch.zeros(masks, 1, *SIZES[-1])
    real_mask[..., 3:10, 4:12], mask[..., 9:17, 2:9] = 1, 1
    image = 0.5 - real_mask.expand(-1, 3, -1, -1) + 0.05 * torch.randn(1, 3, *SIZES[-1])
    repeated = (some.expand(masks, -1, -1, -1) for some in (image, real_mask))
    return dict(zip(("image", "real_mask"), repeated, strict=True)) | {"mask": mask}


def train(step, epochs, *, length=1, batch=None, lr=5e-4, device="cpu"):
    networks = [*step.generators, *(one for some in step.critics for one in some)]
    for network in networks:
        network.to(device)
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=epochs,
        train_data_loader=[make_batch() if batch is None else batch] * length,
        network=step.generators[0],
        optimizer=torch.optim.Adam([p for n in networks for p in n.parameters()], lr=lr, betas=(0.5, 0.999)),
        loss_function=None,
        iteration_update=step,
        decollate=False,
    )
    trainer.run()
    return trainer.state.output


def entered(step, scale=0):
    """A step that is in the middle of a scale."""
    step.iteration = 1 + scale * step.epochs_per_scale
    step._enter(Stage(0, scale), make_batch())
    return step


def learns(module):
    return any(p.grad is not None and p.grad.any() for p in module.parameters())


def test_every_scale_of_every_patch_has_its_turn():
    step = make_step(patches=2, epochs_per_scale=3)
    assert step.epochs == 12
    turns = [(patch, scale) for patch in range(2) for scale in range(2) for _ in range(3)]
    assert [tuple(step.stage_of(epoch)) for epoch in range(12)] == turns
    with pytest.raises(ValueError, match="epoch: found 12, expected less than 12"):
        step.stage_of(12)


@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize("term", ["global", "foreground", "background", "reconstruction"])
def test_each_of_the_generators_terms_reaches_its_scale_alone(term, scale):
    step = entered(make_step(), scale)
    step.generators[0].generators[scale].requires_grad_(True)
    step.terms(make_batch())[term].backward()
    assert [learns(generator) for generator in step.generators[0].generators] == [n == scale for n in range(2)]


@pytest.mark.parametrize("term", ["global", "foreground", "background"])
def test_each_critic_learns_from_its_own_term(term):
    step = entered(make_step())
    step.critics[0][0].requires_grad_(True)
    step.critic_terms(make_batch())[f"critic_{term}"].backward()
    assert [name for name, critic in step.critics[0][0].critics.items() if learns(critic)] == [term]
    assert not learns(step.generators[0])


def test_an_iteration_updates_critics_three_times_and_the_generator_once():
    step, seen = make_step(), []
    network, critics = step.generators[0].generators[0], step.critics[0][0]
    before = deepcopy((network.state_dict(), critics.state_dict()))
    step.iteration = 0
    for terms in step.passes(make_batch()):
        seen.append((set(terms), network[0].weight.requires_grad, next(critics.parameters()).requires_grad))
    three = {"critic_global", "critic_foreground", "critic_background"}
    assert seen == [(three, False, True)] * 3 + [(set(WEIGHTS) - three, True, False)]
    output = train(step, 1)
    assert output["terms"].keys() == WEIGHTS.keys()
    for module, state in zip((network, critics), before, strict=True):
        assert any(not torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_finished_scales_and_other_patches_stay_as_they_are():
    step = make_step(patches=2, epochs_per_scale=2)
    train(step, 2)
    first = deepcopy(step.generators[0].generators[0].state_dict())
    untouched = deepcopy(step.generators[1].state_dict())
    assert step.stage_of(1) == Stage(0, 0)
    step._stage = None
    networks = [*step.generators, *(one for some in step.critics for one in some)]
    continued = torch.optim.Adam([p for n in networks for p in n.parameters()], lr=1e-2)
    step.iteration = 2
    for _ in range(2):
        for terms in step.passes(make_batch()):
            continued.zero_grad(set_to_none=True)
            step.total(terms, step.weights).backward()
            continued.step()
        step.iteration += 1
    assert all(torch.equal(v, first[name]) for name, v in step.generators[0].generators[0].state_dict().items())
    assert all(torch.equal(value, untouched[name]) for name, value in step.generators[1].state_dict().items())
    assert not step.generators[0].generators[0].training
    assert step.generators[0].generators[1].training


def test_a_scale_starts_from_the_one_before_and_its_error():
    step, batch = make_step(epochs_per_scale=1), make_batch()
    nn.init.uniform_(step.generators[0].generators[0][0].weight)
    nn.init.uniform_(step.critics[0][0].critics["global"][0].weight)
    step.iteration = 1
    step._enter(Stage(0, 1), batch)
    for first, second in (step.generators[0].generators, step.critics[0]):
        state = first.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in second.state_dict().items())
    with torch.no_grad():
        drawn = step.generators[0](batch["real_mask"][:1], scale=0, noises=[step.generators[0].anchor])
    error = (resize_image(drawn, SIZES[1]) - batch["image"][:1]).square().mean().sqrt()
    torch.testing.assert_close(step.generators[0].amplitudes, torch.stack([torch.tensor(1.0), 0.1 * error]))


def test_at_the_finest_scale_critics_see_the_masks_as_they_are():
    """Made of the full size at each scale; from scale to scale 9 % of the pixels would be others."""
    step, batch = entered(make_step(), 1), make_batch()
    drawn, mask = step._draw(batch["mask"])
    assert torch.equal(mask, batch["mask"])
    assert drawn.shape == batch["image"].shape


def test_reconstruction_is_the_same_each_time_and_drawing_is_not():
    step, batch = entered(make_step()), make_batch()
    first, second = (step.terms(batch) for _ in range(2))
    assert torch.equal(first["reconstruction"], second["reconstruction"])
    assert not torch.equal(first["global"], second["global"])


def test_ends_of_the_patches_turns():
    step = make_step(patches=2, epochs_per_scale=3)
    assert step.ends == [6, 12]
    assert [step.stage_of(end - 1).patch for end in step.ends] == [0, 1]


def test_wider_scales_start_anew():
    step = make_step(sizes=[(16 + n, 16 + n) for n in range(5)], epochs_per_scale=1)
    before = deepcopy(step.generators[0].generators[4].state_dict())
    step.iteration = 4
    step._enter(Stage(0, 4), make_batch())
    found = step.generators[0].generators[4].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in found.items())


def test_without_components():
    weights = {"critic_global": 1.0, "global": 1.0, "reconstruction": 10.0}
    assert train(make_step(weights), 1)["terms"].keys() == weights.keys()
    assert train(make_step({"reconstruction": 1.0}), 1)["terms"].keys() == {"reconstruction"}
    with pytest.raises(ValueError, match=r"a critic_.* for each component"):
        make_step({"foreground": 1.0, "reconstruction": 1.0})
    with pytest.raises(ValueError, match=r"critics: found \[1\] scales"):
        CSinGANStep(
            generators=[ConditionalSinGAN(SIZES)], critics=[[ComponentCritics(0)]], critic_loss=None, weights=WEIGHTS
        )


def test_it_learns_to_draw_for_a_mask_that_it_has_no_image_of():
    step, batch = make_step(epochs_per_scale=60, critic_updates=1), make_batch()
    output = train(step, 120, batch=batch, lr=2e-3)
    assert output["terms"]["reconstruction"] < 0.1
    generator = step.generators[0].eval()
    with torch.no_grad():
        drawn = generator(batch["mask"], noises=generator.noises(batch["mask"]))
        again = generator(batch["real_mask"][:1], noises=generator.anchors(1))
    error = (again - batch["image"][:1]).square().mean()
    assert error < 0.1, "trained, the generator draws as it did while it was"
    inside = batch["mask"].expand_as(drawn) > 0
    assert drawn[inside].mean() < drawn[~inside].mean() - 0.3


@pytest.mark.gpu
def test_the_gpu_gives_the_terms_of_the_cpu(assert_same_on_the_gpu):
    """Over both scales, after one iteration of each; without AMP, as the bundle trains."""
    assert_same_on_the_gpu(
        lambda device, amp: train(make_step(epochs_per_scale=1), 2, device=device), amp=False, rel=1e-2, abs=1e-3
    )
