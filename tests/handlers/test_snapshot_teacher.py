# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from monai_ext.handlers.snapshot_teacher import SnapshotTeacher


def student():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    return network


def history(every, *, epochs=7, validator=None, best=()):
    """Teacher's weight at the end of each epoch, while the student's weight equals the epoch."""
    network = student()
    handler = SnapshotTeacher({"a": network}, every=every, validator=validator)

    def update(engine, _):
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    trainer = Engine(update)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        if validator is not None and engine.state.epoch in best:
            validator.state.best_metric_epoch = engine.state.epoch

    handler.attach(trainer)
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(handler.teachers["a"].weight.item()))
    trainer.run([0], max_epochs=epochs)
    return seen


def test_renewed_exactly_every_few_epochs_with_the_latest_weights():
    assert history(3) == [0, 0, 3, 3, 3, 6, 6]


def test_renewed_at_20_40_60_80_of_100():
    seen = history(20, epochs=100)
    assert [epoch + 1 for epoch in range(1, 100) if seen[epoch] != seen[epoch - 1]] == [20, 40, 60, 80, 100]


def test_option_best_takes_the_best_validated_epoch():
    assert history(3, validator=Engine(lambda *_: None), best=(2, 4)) == [0, 0, 2, 2, 2, 4, 4]


def test_teachers_are_frozen_copies():
    network = student()
    teacher = SnapshotTeacher({"a": network}, every=1).teachers["a"]
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    torch.nn.init.ones_(network.weight)
    assert teacher.weight.item() == 0


def test_state_goes_round():
    network = student()
    handler = SnapshotTeacher({"a": network}, every=1)
    torch.nn.init.constant_(handler.teachers["a"].weight, 5)
    other = SnapshotTeacher({"a": student()}, every=1)
    other.load_state_dict(handler.state_dict())
    assert other.teachers["a"].weight.item() == 5


def test_every_zero_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        SnapshotTeacher({"a": student()}, every=0)
