# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_ext.engines import PASegStep
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.losses import MultiViewCRFLoss, PartialLoss, VarianceLoss

TERMS = ("partial", "crf", "variance")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 6, 6, 6, generator=generator)
    seeds = torch.full_like(image, UNLABELLED)
    seeds[:, :, 0], seeds[:, :, 3, 3, 3] = 0, 1
    valid = torch.ones_like(image)
    valid[:, :, :2] = 0
    return {"image": image, "seeds": seeds, "valid": valid, "label": (image > 0).float()}


def make_step(weights, **kwargs):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    losses = {
        "partial": PartialLoss(),
        "crf": MultiViewCRFLoss(radius=2),
        "variance": VarianceLoss(),
        "regularizer": lambda logits, extra: (logits.softmax(1)[:, 1:] * extra).mean(),
    }
    return PASegStep(network=network, losses=losses, weights=weights, **kwargs), network


@pytest.mark.parametrize("name", TERMS)
def test_each_term_alone_is_finite_and_reaches_every_parameter(batch, name):
    step, network = make_step({name: 1.0})
    terms = step.terms(batch)
    assert list(terms) == [name]
    terms[name].backward()
    assert torch.isfinite(terms[name])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_overall_loss_is_equation_11(batch):
    weights = {"partial": 1.0, "crf": 0.7, "variance": 0.3}
    step, network = make_step(weights)
    total = step.total(step.terms(batch), step.weights_at(0))
    logits = network(batch["image"])
    expected = (
        PartialLoss()(logits, batch["seeds"])
        + 0.7 * MultiViewCRFLoss(radius=2)(logits, batch["image"])
        + 0.3 * VarianceLoss()(logits, batch["image"], batch["valid"])
    )
    assert torch.allclose(total, expected)


def test_gradient_of_the_partial_term_comes_from_labelled_voxels_only(batch):
    step, _ = make_step({"partial": 1.0})
    logits = torch.zeros(2, 2, 6, 6, 6, requires_grad=True)
    step.students["network"] = lambda image: logits
    step.terms(batch)["partial"].backward()
    labelled = (batch["seeds"] != UNLABELLED).expand_as(logits)
    assert logits.grad[~labelled].abs().max() == 0
    assert logits.grad[labelled].abs().min() > 0


def test_another_label_key_is_full_supervision(batch):
    step, network = make_step({"partial": 1.0}, labels_key="label")
    assert torch.allclose(step.terms(batch)["partial"], PartialLoss()(network(batch["image"]), batch["label"]))


def test_regularizer_sees_its_key(batch):
    step, network = make_step({"regularizer": 1.0}, regularizer_key="valid")
    expected = (network(batch["image"]).softmax(1)[:, 1:] * batch["valid"]).mean()
    assert torch.allclose(step.terms(batch)["regularizer"], expected)


def test_crop_without_object_or_labels_is_finite(batch):
    for value in (0, UNLABELLED):
        step, network = make_step(dict.fromkeys(TERMS, 1.0))
        crop = batch | {"seeds": torch.full_like(batch["seeds"], value)}
        loss = step.total(step.terms(crop), step.weights_at(0))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_student_that_predicts_only_background_still_learns(batch):
    step, network = make_step(dict.fromkeys(TERMS, 1.0))
    with torch.no_grad():
        network.bias.copy_(torch.tensor([40.0, -40.0]))
    loss = step.total(step.terms(batch), step.weights_at(0))
    loss.backward()
    assert torch.isfinite(loss)
    assert network.weight.grad.abs().sum() > 0


def test_loss_falls_on_a_toy_set(batch):
    step, network = make_step({"partial": 1.0, "crf": 0.1, "variance": 0.1})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        loss = step.total(step.terms(batch), step.weights_at(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
def test_the_gpu_gives_the_terms_of_the_cpu(batch, amp, assert_same_on_the_gpu):
    def train(device, amp):
        step, network = make_step({"partial": 1.0, "crf": 0.7, "variance": 0.3})
        trainer = SupervisedTrainer(
            torch.device(device), 1, [batch] * 3, network.to(device), torch.optim.SGD(network.parameters(), lr=0.1),
            None, iteration_update=step, decollate=False, amp=amp,
        )  # fmt: skip
        trainer.run()
        return trainer.state.output

    assert_same_on_the_gpu(train, amp=amp, rel=0.05 if amp else 1e-4)
