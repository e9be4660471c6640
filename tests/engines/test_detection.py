# SPDX-License-Identifier: Apache-2.0
"""A detector on labelled images: its terms, where their gradient goes, and that it learns."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer

from monai_ext.data import collate_instances
from monai_ext.engines import DetectionStep
from monai_ext.networks import CellMaskRCNN, LabeledTraining
from monai_ext.networks.detector_losses import detector_losses

TERMS = ("rpn_objectness", "rpn_box", "class", "box", "mask")


def item(*corners, side=64, size=14):
    """Bright squares on a dark ground."""
    image, masks = torch.zeros(3, side, side), torch.zeros(len(corners), side, side, dtype=torch.bool)
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + size, column : column + size] = True
        image[:, mask] = 1.0
    boxes = torch.tensor([[c, r, c + size, r + size] for r, c in corners], dtype=torch.float32).view(-1, 4)
    return {"image": image, "target": {"boxes": boxes, "labels": torch.ones(len(corners)).long(), "masks": masks}}


def trainer_of(items, weights, *, epochs=1, rate=0.01, device="cpu", amp=False):
    torch.manual_seed(0)
    network = CellMaskRCNN(
        classes=2, backbone="resnet18", norm="group", channels=32, hidden=32, anchor_sizes=[8, 16, 32, 64, 128],
        proposals=30, box_samples=16, box_dropout=0.0,
    )  # fmt: skip
    student = LabeledTraining(network).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=rate, momentum=0.9)
    trainer = SupervisedTrainer(
        torch.device(device), epochs, DataLoader(items, batch_size=len(items), collate_fn=collate_instances), student,
        optimizer, None, iteration_update=DetectionStep(student=student, weights=weights), decollate=False, amp=amp,
    )  # fmt: skip
    return network, trainer


def test_terms_are_the_detectors_losses():
    items = [item((5, 9), (40, 30)), item()]
    network, trainer = trainer_of(items, dict.fromkeys(TERMS, 1.0), rate=0.0)
    batch = collate_instances(items)
    torch.manual_seed(3)
    expected = detector_losses(network.train(), network.features(batch["image"]), batch["target"], image_size=(64, 64))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: torch.manual_seed(3))
    trainer.run()
    output = trainer.state.output
    assert output["terms"].keys() == set(TERMS)
    for name in TERMS:
        torch.testing.assert_close(output["terms"][name], expected[name].detach())
    assert float(output["loss"]) == pytest.approx(sum(float(value) for value in output["terms"].values()), rel=1e-5)


def test_every_parameter_gets_gradient_and_a_weight_of_0_removes_a_term():
    """But for the last layer's normalisation none is idle; without the mask's term its head is."""
    network, trainer = trainer_of([item((5, 9), (40, 30))], dict.fromkeys(TERMS, 1.0))
    trainer.run()
    assert [name for name, value in network.named_parameters() if value.grad is None and ".fc." not in name] == []
    network, trainer = trainer_of([item((5, 9))], dict.fromkeys(TERMS, 1.0) | {"mask": 0.0})
    trainer.run()
    assert trainer.state.output["terms"].keys() == set(TERMS) - {"mask"}
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    assert idle
    assert all("mask" in name for name in idle)


def test_images_without_nuclei_give_a_finite_loss():
    _, trainer = trainer_of([item(), item()], dict.fromkeys(TERMS, 1.0))
    trainer.run()
    assert torch.isfinite(trainer.state.output["loss"])
    assert all(float(trainer.state.output["terms"][name]) == 0 for name in ("rpn_box", "box", "mask"))


def test_the_loss_falls():
    losses = []
    _, trainer = trainer_of([item((5, 9), (40, 30)), item((20, 40))], dict.fromkeys(TERMS, 1.0), epochs=12)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(float(trainer.state.output["loss"])))
    trainer.run()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
def test_the_gpu_gives_the_terms_of_the_cpu(amp, assert_same_on_the_gpu):
    def train(**options):
        _, trainer = trainer_of([item((5, 9), (40, 30)), item((20, 40))], dict.fromkeys(TERMS, 1.0), **options)
        trainer.run()
        return trainer.state.output

    assert_same_on_the_gpu(train, amp=amp, rel=0.1 if amp else 1e-3)
