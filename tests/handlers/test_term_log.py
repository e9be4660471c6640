# SPDX-License-Identifier: Apache-2.0
"""Epoch averages that can be done in the head."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from monai_ext.handlers.term_log import TermLog, read_rows


def step(engine: Engine, batch: float) -> dict:
    """Term a is the batch's number, b ten times it; the weight of b is the epoch."""
    terms = {"a": torch.tensor(float(batch)), "b": torch.tensor(10.0 * batch)}
    weights = {"a": 1.0, "b": float(engine.state.epoch)}
    return {"loss": sum(terms[k] * weights[k] for k in terms), "terms": terms, "weights": weights}


def make(tmp_path, *, validator: Engine | None = None, **kwargs) -> tuple[Engine, TermLog]:
    trainer = Engine(step)
    trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    log = TermLog(tmp_path, validator=validator, **kwargs)
    log.attach(trainer)
    return trainer, log


def make_validator() -> Engine:
    """Reports 0.1 times its epoch as Dice."""
    validator = Engine(lambda engine, batch: None)
    validator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(val_mean_dice=0.1 * e.state.epoch)
    )
    return validator


def validate(validator: Engine, epoch: int) -> None:
    """As MONAI's evaluators do it: the validator's epoch is the trainer's."""
    if validator.state.epoch_length is None:
        validator.state.epoch_length = 1
    validator.run([0], max_epochs=epoch) if epoch == 1 else _rerun(validator, epoch)


def _rerun(validator: Engine, epoch: int) -> None:
    validator.state.epoch, validator.state.max_epochs, validator.state.iteration = epoch - 1, epoch, 0
    validator.run([0], max_epochs=epoch)


def table(tmp_path) -> list[dict[str, str]]:
    with (tmp_path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_averages_weights_and_order_of_columns(tmp_path):
    trainer, _ = make(tmp_path)
    trainer.run([1, 3], max_epochs=2)
    rows = table(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0])[:7] == ["epoch", "loss", "term/a", "term/b", "weight/a", "weight/b", "lr"]
    assert [(float(r["term/a"]), float(r["term/b"])) for r in rows] == [(2, 20), (2, 20)]
    assert [(float(r["loss"]), float(r["weight/b"])) for r in rows] == [(2 + 20, 1), (2 + 40, 2)]
    for row in rows:
        assert float(row["lr"]) == 0.1
        assert float(row["epoch_s"]) > 0
        assert float(row["peak_memory_mib"]) > 1
        assert float(row["iterations_per_s"]) == pytest.approx(2 / float(row["epoch_s"]), rel=1e-4)


def test_learning_rate_is_the_one_used_in_the_epoch(tmp_path):
    trainer, _ = make(tmp_path)

    def halve(engine):
        engine.optimizer.param_groups[0]["lr"] /= 2

    trainer.add_event_handler(Events.EPOCH_COMPLETED, halve)
    trainer.run([1], max_epochs=3)
    assert [float(row["lr"]) for row in table(tmp_path)] == [0.1, 0.05, 0.025]


def test_learning_rates_of_groups_that_differ(tmp_path):
    trainer, _ = make(tmp_path)
    trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
    trainer.run([1], max_epochs=1)
    assert (table(tmp_path)[0]["lr/0"], table(tmp_path)[0]["lr/1"]) == ("0.1", "0.5")


@pytest.mark.parametrize("validate_first", [True, False])
def test_validation_lands_in_its_epoch_whatever_the_order(tmp_path, validate_first):
    validator = make_validator()
    trainer = Engine(step)
    every_second = Events.EPOCH_COMPLETED(every=2)
    if validate_first:
        trainer.add_event_handler(every_second, lambda e: validate(validator, e.state.epoch))
    TermLog(tmp_path, validator=validator).attach(trainer)
    if not validate_first:
        trainer.add_event_handler(every_second, lambda e: validate(validator, e.state.epoch))
    trainer.run([1], max_epochs=4)
    rows = table(tmp_path)
    assert [row["val/mean_dice"] for row in rows] == ["", "0.2", "", "0.4"]
    assert [row["term/a"] for row in rows] == ["1"] * 4


def test_metrics_that_are_no_numbers_are_left_out(tmp_path):
    validator = make_validator()
    trainer, _ = make(tmp_path, validator=validator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: validate(validator, e.state.epoch))
    extra = {"per_class": torch.ones(3), "val_hd": torch.tensor(2.5)}
    validator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(extra))
    trainer.run([1], max_epochs=1)
    assert [k for k in table(tmp_path)[0] if k.startswith("val/")] == ["val/mean_dice", "val/hd"]


def resume_at(trainer: Engine, epoch: int) -> None:
    """What a checkpoint handler does on STARTED, registered after the log on purpose."""

    def restore(engine):
        engine.state.epoch, engine.state.iteration = epoch, epoch * engine.state.epoch_length

    trainer.add_event_handler(Events.STARTED, restore)


def test_resume_keeps_earlier_rows_and_drops_later_ones(tmp_path):
    trainer, _ = make(tmp_path)
    trainer.run([1, 3], max_epochs=4)
    earlier = table(tmp_path)
    trainer, _ = make(tmp_path)
    resume_at(trainer, 2)
    trainer.run([5], max_epochs=3)
    rows = table(tmp_path)
    assert rows[:2] == earlier[:2]
    assert [(row["epoch"], row["term/a"]) for row in rows[2:]] == [("3", "5")]


def test_columns_may_grow(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss,term/old\n1,4,2\n")
    trainer, _ = make(tmp_path)
    resume_at(trainer, 1)
    trainer.run([1], max_epochs=2)
    rows = table(tmp_path)
    assert (rows[0]["term/old"], rows[0]["term/a"], rows[1]["term/old"], rows[1]["term/a"]) == ("2", "", "", "1")


def test_a_new_run_starts_a_new_table(tmp_path):
    for batch in (1, 2):
        trainer, _ = make(tmp_path)
        trainer.run([batch], max_epochs=batch)
    assert [row["term/a"] for row in table(tmp_path)] == ["2", "2"]


def test_resume_names_a_table_of_another_kind(tmp_path):
    (tmp_path / "metrics.csv").write_text("val_mean_dice,0.8\n")
    trainer, _ = make(tmp_path)
    resume_at(trainer, 1)
    (tmp_path / "metrics.csv").write_text("val_mean_dice,0.8\nval_assd,1.2\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is not a table of epochs"):
        trainer.run([1], max_epochs=2)


def test_no_temporary_file_stays_and_a_crash_leaves_the_finished_epochs(tmp_path):
    trainer, _ = make(tmp_path)

    def fail(engine):
        if engine.state.epoch == 3:
            raise RuntimeError("power cut")

    trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.run([1], max_epochs=5)
    assert [row["epoch"] for row in table(tmp_path)] == ["1", "2"]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_numbers_go_to_tensorboard(tmp_path):
    seen = []
    writer = SimpleNamespace(add_scalar=lambda name, value, step: seen.append((name, value, step)))
    trainer, _ = make(tmp_path, summary_writer=writer)
    trainer.run([2], max_epochs=2)
    assert ("term/b", 20.0, 2) in seen
    assert ("weight/b", 2.0, 2) in seen


def test_read_rows(tmp_path):
    assert read_rows(tmp_path / "none.csv") == {}
    (tmp_path / "t.csv").write_text("epoch,loss,val/dice\n1,3.5,\n2,3,nan\n")
    rows = read_rows(tmp_path / "t.csv")
    assert rows[1] == {"epoch": 1, "loss": 3.5}
    assert rows[2]["val/dice"] != rows[2]["val/dice"]
    assert list(read_rows(tmp_path / "t.csv", before_epoch=2)) == [1]
