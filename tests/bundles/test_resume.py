# SPDX-License-Identifier: Apache-2.0
"""A run that was killed and resumed ends in the weights of an unbroken one, bit by bit."""

from __future__ import annotations

import shutil
import signal
import time

import pytest
import torch
from ignite.engine import Events

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]

EPOCHS = 8


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_equal(first, second):
    """Two nested states hold the same values, to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def assert_tables_agree(first, second):
    """Each epoch is there once, with the same numbers but for time and memory."""
    assert [row["epoch"] for row in first] == [str(i + 1) for i in range(len(second))]
    for row, other in zip(first, second, strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"epoch_s", "iterations_per_s", "peak_memory_mib"}:
            assert row[key] == other[key], key


def run_interrupted(bundle, *names, iteration, models, epoch, **settings):
    """Stops in an iteration, of which the last whole epoch is kept, and goes on to the end."""

    def stop(_):
        raise KeyboardInterrupt

    workflow = bundle.workflow(*names, **settings)
    workflow.initialize()
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), stop)
    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    assert checkpoint(bundle.root / models)["epoch"] == epoch
    bundle.run(*names, **settings, resume=True)


def wait_for_epoch(process, folder, epoch, limit_s=120):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "checkpoint.pt").exists() and checkpoint(folder)["epoch"] >= epoch:
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of epoch {epoch}; exit status {process.poll()}")


@pytest.mark.parametrize("make", ["make_bundle", "make_eugmt", "make_cks", "make_mmt_psm", "make_cps_csingan"])
def test_killed_training_is_resumed(command_line, tmp_path, make, request):
    make_bundle = request.getfixturevalue(make)
    bundle = make_bundle(tmp_path / "bundle")
    folder = bundle.copy_configs()
    training = ["run", "training", *command_line.files("train", "smoke", "tiny"), "--max_epochs", EPOCHS]
    process = command_line.start(*training, folder=folder)
    try:
        wait_for_epoch(process, folder / "models", 2)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= checkpoint(folder / "models")["epoch"] < EPOCHS
    status, errors = command_line(*training, "--resume", True, folder=folder)
    assert status == 0, errors

    unbroken = make_bundle(tmp_path / "unbroken")
    unbroken.run("train", "smoke", max_epochs=EPOCHS)
    assert_equal(checkpoint(folder / "models"), checkpoint(unbroken.root / "models"))
    assert_equal(*(torch.load(b.root / "models/model.pt", weights_only=True) for b in (bundle, unbroken)))
    assert_tables_agree(bundle.metrics(), unbroken.metrics())


@pytest.mark.parametrize("refresh_best", [False, True])
def test_interrupted_stage_two_is_resumed(stage_one, tmp_path, refresh_best, make_bundle):
    """Stopped in epoch 3, after the second renewal of the teachers; the best epoch is always the first."""
    settings = {"max_epochs": 4, "refresh_epochs": 1, "refresh_best": refresh_best}
    settings["validate#evaluator#metric_cmp_fn"] = "$lambda _, best: best < 0"
    names = ("train", "smoke", "train_scm")
    unbroken, broken = (make_bundle(tmp_path / name) for name in ("unbroken", "broken"))
    for stage in (unbroken, broken):
        shutil.copytree(stage_one.root / "models", stage.root / "models")
    unbroken.run(*names, **settings)
    run_interrupted(broken, *names, iteration=5, models="models/scm", epoch=2, **settings)
    first, second = (checkpoint(stage.root / "models/scm") for stage in (broken, unbroken))
    assert {"primary", "auxiliary", "teachers", "optimizer", "lr_scheduler", "epoch", "best"} <= first.keys()
    assert first["best"]["epoch"] == 1
    assert_equal(first, second)
    assert_tables_agree(broken.metrics("scm"), unbroken.metrics("scm"))


def test_a_run_depends_on_its_seed(bundle, tmp_path, make_bundle):
    """Equality above says something: another seed gives other weights."""
    other = make_bundle(tmp_path / "other")
    for stage, seed in ((bundle, 0), (other, 1)):
        stage.run("train", "smoke", max_epochs=1, seed=seed)
    first, second = (checkpoint(stage.root / "models")["network"] for stage in (bundle, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)
