# SPDX-License-Identifier: Apache-2.0
"""Rounds of a trainer whose network is one number, on images that are one number each."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_ext.handlers import PseudoLabelRound, ResumableCheckpoint

IMAGES = ["a.png", "b.png"]


class Labels:
    """Stands for the files: a round's items are its number and what each image was predicted."""

    def __init__(self, folder):
        self.output_dir, self.seen, self.written = folder, [], {}

    def start(self):
        self.seen = []

    def add(self, file, picture, labels, scores):
        assert picture.shape == (3, 2, 3)
        assert labels.shape == scores.shape == (3, 2)
        self.seen.append((file, int(labels[0, 0]), float(scores[0, 0])))

    def write(self, number):
        self.written[number] = [("pseudo", number, *one) for one in self.seen]
        return {"images": len(self.seen), "kept": 5, "dropped": 1, "patches": len(self.seen)}

    def items(self, number):
        return self.written[number]


class Run:
    """Trains a weight by 1 an epoch; predicts it for each image; validates what ``scores`` say of the epochs."""

    def __init__(self, folder, scores, labels=None, resume=False, restart=False, **options):
        self.weight = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.weight.weight)
        self.dataset = SimpleNamespace(data=["real"])
        self.labels = labels or Labels(folder)
        self.seen = []
        self.trainer, self.validator = Engine(self.train), Engine(self.validate(scores))
        self.validator.state.key_metric_name = "aji"
        self.rounds = PseudoLabelRound(
            labels=self.labels, evaluator=self.evaluator(), dataset=self.dataset,
            restart={"network": self.weight} if restart else None,
            validator=None if scores is None else self.validator, **({"round_epochs": 2, "rounds": 3} | options),
        )  # fmt: skip
        if scores is not None:
            self.trainer.add_event_handler(
                Events.EPOCH_COMPLETED, lambda engine: self.validator.run([0], max_epochs=engine.state.epoch)
            )
        self.rounds.attach(self.trainer)
        objects = {"network": self.weight, "rounds": self.rounds}
        ResumableCheckpoint(folder / "checkpoint.pt", objects, resume=resume).attach(self.trainer)

    def train(self, engine, batch):
        self.weight.weight.data += 1
        self.seen.append((engine.state.epoch, len(self.dataset.data)))

    def validate(self, scores):
        def process(engine, batch):
            engine.state.metrics["aji"] = scores[self.trainer.state.epoch - 1]

        return process

    def evaluator(self):
        def predict(engine, batch):
            value = float(self.weight.weight)
            picture = MetaTensor(torch.zeros(3, 2, 3), meta={"filename_or_obj": batch})
            engine.state.batch = [{"picture": picture}]
            return [{"pred": torch.stack([torch.full((2, 3), value), torch.full((2, 3), 0.5)])}]

        engine = Engine(predict)
        run = engine.run
        engine.run = lambda: run(IMAGES, max_epochs=1)
        return engine

    def run(self, epochs=8):
        self.trainer.run([0], max_epochs=epochs)
        return self

    def table(self):
        with (self.labels.output_dir / "rounds.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def test_each_round_learns_from_the_one_before(tmp_path):
    """The images are shown in each round's end, with the network as it is then; the labels before are replaced."""
    run = Run(tmp_path, [0.1, 0.2, 0.3, 0.1, 0.4, 0.5, 0.6, 0.7]).run()
    assert [epoch for epoch, _ in run.seen] == list(range(1, 9))
    assert [items for _, items in run.seen] == [1, 1, 3, 3, 3, 3, 3, 3]
    assert run.labels.written == {
        number: [("pseudo", number, name, 2 * number, 0.5) for name in IMAGES] for number in (1, 2, 3)
    }
    assert run.dataset.data == ["real", *run.labels.written[3]]
    rows = run.table()
    assert [row["metric"] for row in rows] == ["0.2", "0.3", "0.5", "0.7"], "the best of each round"
    assert [row["images"] for row in rows] == ["0", "2", "2", "2"]
    assert str(run.rounds).count("round") == 3


@pytest.mark.parametrize(
    ("scores", "epochs"),
    [
        ([0.5, 0.1, 0.4, 0.5, 0, 0, 0, 0], 4),  # not better than the round before
        ([0.5, 0.1, 0.6, 0.0, 0.2, 0.55, 0, 0], 6),  # better than the first, not than the second
        ([0.5, 0.1, float("nan"), float("nan"), 0.6, 0, 0.7, 0], 8),  # a round that nothing is known of
    ],
)
def test_it_stops_when_a_round_was_not_better(tmp_path, scores, epochs):
    run = Run(tmp_path, scores).run()
    assert len(run.seen) == epochs
    assert run.rounds.over


def test_without_validation_all_rounds_are_gone_through(tmp_path):
    run = Run(tmp_path, None, rounds=1).run(epochs=4)
    assert [items for _, items in run.seen] == [1, 1, 3, 3]
    assert [row["metric"] for row in run.table()] == ["", ""]


@pytest.mark.parametrize(("restart", "expected"), [(False, [2, 4]), (True, [2, 2])])
def test_rounds_restart_or_train_on(tmp_path, restart, expected):
    """The weight when the images are predicted; a restarted round is as long as the first."""
    run = Run(tmp_path, None, rounds=2, restart=restart).run(epochs=6)
    assert [run.labels.written[number][0][3] for number in (1, 2)] == expected


def test_a_restart_forgets_momentum_too(tmp_path):
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    run, first = Run(tmp_path, None), network.weight.detach().clone()
    rounds = PseudoLabelRound(
        labels=run.labels, evaluator=run.evaluator(), dataset=run.dataset, round_epochs=1, rounds=1,
        restart={"network": network, "optimizer": optimizer},
    )  # fmt: skip
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(network.weight, first)
    assert optimizer.state
    rounds._begin()
    assert torch.equal(network.weight, first)
    assert not optimizer.state


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 5])
def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path, stopped_after):
    scores = [0.1, 0.2, 0.3, 0.1, 0.4, 0.5, 0.2, 0.3]
    unbroken = Run(tmp_path / "unbroken", scores).run()
    broken = Run(tmp_path / "broken", scores).run(epochs=stopped_after)
    labels = Labels(tmp_path / "broken")
    labels.written = broken.labels.written  # they are on the disk
    resumed = Run(tmp_path / "broken", scores, labels=labels, resume=True).run()
    assert broken.seen + resumed.seen == unbroken.seen
    assert resumed.rounds.state_dict() == unbroken.rounds.state_dict()
    assert resumed.dataset.data == unbroken.dataset.data
    assert resumed.table() == unbroken.table()


def test_a_run_that_was_over_stays_so(tmp_path):
    scores = [0.5, 0.5, 0.1, 0.1, 0, 0, 0, 0]
    ended = Run(tmp_path, scores).run()
    assert len(ended.seen) == 4
    again = Run(tmp_path, scores, labels=ended.labels, resume=True).run()
    assert again.seen == []
    assert again.dataset.data == ended.dataset.data


def test_options_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="round"):
        Run(tmp_path, None, rounds=0)
