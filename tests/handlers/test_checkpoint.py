# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from monai_ext.handlers.checkpoint import ResumableCheckpoint, SaveWeights, save_atomically


def counting_trainer(network, optimizer, checkpoint):
    """Adds epoch * 1.0 to the single weight, one iteration an epoch: after 3 epochs the weight is 1 + 2 + 3."""

    def update(engine, _):
        with torch.no_grad():
            network.weight += engine.state.epoch

    engine = Engine(update)
    engine.state.device = torch.device("cpu")
    checkpoint.attach(engine)
    return engine


def make(path, *, resume=False, validator=None, begin=None):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    checkpoint = ResumableCheckpoint(
        path, {"network": network, "optimizer": optimizer}, resume=resume, validator=validator, begin=begin
    )
    return network, counting_trainer(network, optimizer, checkpoint)


def test_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    path = tmp_path / "checkpoint.pt"
    network, engine = make(path)
    engine.run([0], max_epochs=2)
    assert network.weight.item() == 3
    network, engine = make(path, resume=True)
    epochs = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    engine.run([0], max_epochs=4)
    assert epochs == [3, 4]
    assert engine.state.iteration == 4
    assert network.weight.item() == 1 + 2 + 3 + 4


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    network, engine = make(tmp_path / "c.pt")
    engine.run([0], max_epochs=2)
    network, engine = make(tmp_path / "c.pt", resume=True)
    engine.run([0], max_epochs=2)
    assert network.weight.item() == 3


def test_without_resume_or_file_it_starts_afresh(tmp_path):
    for resume in (False, True):
        network, engine = make(tmp_path / f"{resume}.pt", resume=resume)
        engine.run([0], max_epochs=1)
        assert network.weight.item() == 1


def test_best_score_is_restored(tmp_path):
    validator = Engine(lambda *_: None)
    validator.state.best_metric, validator.state.best_metric_epoch = 0.75, 1
    _, engine = make(tmp_path / "c.pt", validator=validator)
    engine.run([0], max_epochs=1)
    fresh = Engine(lambda *_: None)
    _, engine = make(tmp_path / "c.pt", resume=True, validator=fresh)
    engine.run([0], max_epochs=1)
    assert (fresh.state.best_metric, fresh.state.best_metric_epoch) == (0.75, 1)


def test_another_runs_checkpoint_is_begun_with_until_there_is_an_own_one(tmp_path):
    """What it lacks stays, its best score is not taken over, and its file is not written to."""
    validator = Engine(lambda *_: None)
    validator.state.best_metric, validator.state.best_metric_epoch = 0.75, 2
    _, engine = make(tmp_path / "first.pt", validator=validator)
    engine.run([0], max_epochs=2)
    state = torch.load(tmp_path / "first.pt")
    del state["optimizer"]
    torch.save(state, tmp_path / "first.pt")
    fresh = Engine(lambda *_: None)
    for epochs, expected in ((3, 1 + 2 + 3), (4, 1 + 2 + 3 + 4)):
        values = {"resume": True, "validator": fresh, "begin": tmp_path / "first.pt"}
        network, engine = make(tmp_path / "own.pt", **values)
        engine.run([0], max_epochs=epochs)
        assert network.weight.item() == expected
        assert not hasattr(fresh.state, "best_metric") or fresh.state.best_metric == -1
    assert torch.load(tmp_path / "first.pt")["epoch"] == 2
    _, engine = make(tmp_path / "second.pt", begin=tmp_path / "first.pt")
    with pytest.raises(SystemExit, match=r"first\.pt: this run had 2 epochs; expected fewer than max_epochs"):
        engine.run([0], max_epochs=2)
    _, engine = make(tmp_path / "third.pt", begin=tmp_path / "none.pt")
    with pytest.raises(SystemExit, match=r"none\.pt: cannot resume .*begin with another\.$"):
        engine.run([0], max_epochs=1)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_broken_checkpoint_stops_with_a_sentence(tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    _, engine = make(path, resume=True)
    with pytest.raises(SystemExit, match=r"c\.pt: cannot resume"):
        engine.run([0], max_epochs=1)


def test_a_schedule_of_another_length_stops(tmp_path):
    """PyTorch's state of a schedule holds its length: training would go on with a learning rate of 0."""

    def run(epochs, length):
        network, engine = make(tmp_path / "c.pt")
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=length)
        ResumableCheckpoint(tmp_path / "s.pt", {"lr_scheduler": scheduler}, resume=True).attach(engine)
        engine.run([0], max_epochs=epochs)

    run(1, 2)
    run(2, 2)
    with pytest.raises(SystemExit, match=r"s\.pt: cannot resume .*lr_scheduler was made for 2 epochs, here for 4"):
        run(4, 4)


def test_checkpoint_of_another_network_stops(tmp_path):
    path = tmp_path / "c.pt"
    save_atomically({"network": torch.nn.Linear(2, 2).state_dict(), "optimizer": {}, "epoch": 1}, path)
    _, engine = make(path, resume=True)
    with pytest.raises(SystemExit, match=r"size mismatch|Unexpected"):
        engine.run([0], max_epochs=2)


def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_atomically({"x": 1}, path)

    def break_off(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"x": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"x": 1}


def test_save_weights_on_a_trainer_follows_every_epoch(tmp_path):
    network, engine = make(tmp_path / "c.pt")
    SaveWeights(network, tmp_path / "model.pt").attach(engine)
    engine.run([0], max_epochs=3)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(state) == ["weight"]
    assert state["weight"].item() == 6


def test_save_weights_on_an_evaluator_keeps_the_best(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    scores = iter([0.3, 0.9, 0.5])
    evaluator = SupervisedEvaluator(device=torch.device("cpu"), val_data_loader=[], network=network)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    saver = SaveWeights(network, tmp_path / "model.pt")
    for epoch in (1, 2, 3):
        torch.nn.init.constant_(network.weight, epoch)
        score = next(scores)
        evaluator.state.epoch = epoch
        if score > evaluator.state.best_metric:
            evaluator.state.best_metric, evaluator.state.best_metric_epoch = score, epoch
        saver(evaluator)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 2


def test_wrapped_network_is_saved_without_prefix(tmp_path):
    from monai_ext.handlers.checkpoint import cpu_state_dict

    bare = torch.nn.Linear(1, 1)
    wrapped = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = bare
    assert cpu_state_dict(wrapped).keys() == {"weight", "bias"}
