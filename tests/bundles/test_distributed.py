# SPDX-License-Identifier: Apache-2.0
"""Two processes under ``torchrun``, on the CPU by gloo."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]

RANKS = {
    "run": [
        "$@train#trainer.run()",
        "$torch.save([n.state_dict() for n in (@network, @second) if n], @bundle_root + '/rank%d.pt' % @rank)",
    ],
    "training": "%run",
    "second": None,
}


def torchrun(bundle, command_line, *names, **overlay):
    """Trains, and leaves what each rank ended with in ``rank<n>.pt``."""
    (bundle.root / "configs/ranks.json").write_text(json.dumps(RANKS | overlay))
    files = command_line.files("train", "smoke", *names, "tiny", "multi_gpu_train", "ranks")
    program = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    status, errors = command_line("-m", "monai.bundle", "run", "training", *files, folder=bundle.root, program=program)
    assert status == 0, errors
    first, second = (torch.load(bundle.root / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one if "running" not in name)
    return first


def test_two_processes_train_one_network(bundle, command_line):
    bundle.copy_configs()
    (network,) = torchrun(bundle, command_line)
    rows = bundle.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"term/partial", "term/crf", "term/variance", "val/mean_dice"} <= rows[0].keys()
    saved = torch.load(bundle.root / "models/checkpoint.pt", weights_only=True)
    assert all(torch.equal(saved["network"][name.removeprefix("module.")], network[name]) for name in network)
    assert [path.name for path in bundle.root.rglob("model.pt")] == ["model.pt"]
    bundle.run("inference", workflow_type="infer")
    assert len(list((bundle.root / "output/stage1/tensorboard").glob("events*"))) == 1


def test_two_processes_train_two_students_and_their_teacher(eugmt, command_line):
    eugmt.copy_configs()
    overlay = {
        "run": [
            "$@train#trainer.run()",
            "$torch.save([n.state_dict() for n in @networks], @bundle_root + '/rank%d.pt' % @rank)",
        ],
        "networks": "$[*@students.values(), @shipped]",
    }
    first, second, teacher = torchrun(eugmt, command_line, **overlay)
    assert [row["epoch"] for row in eugmt.metrics()] == ["1", "2"]
    saved = torch.load(eugmt.root / "models/checkpoint.pt", weights_only=True)
    for role, network in (("student_a", first), ("student_b", second)):
        assert all(torch.equal(saved[role][name.removeprefix("module.")], network[name]) for name in network)
    assert all(torch.equal(saved["teacher"][name], teacher[name]) for name in teacher)
    assert any(not torch.equal(first[f"module.{name}"], teacher[name]) for name in teacher)
    eugmt.run("inference", workflow_type="infer")


def test_two_processes_train_two_unlike_networks(cks, command_line):
    cks.copy_configs()
    overlay = {
        "run": [
            "$@train#trainer.run()",
            "$torch.save([n.state_dict() for n in @networks], @bundle_root + '/rank%d.pt' % @rank)",
        ],
        "networks": "$[@principal, @collaborator]",
    }
    principal, collaborator = torchrun(cks, command_line, **overlay)
    assert [row["epoch"] for row in cks.metrics()] == ["1", "2"]
    saved = torch.load(cks.root / "models/checkpoint.pt", weights_only=True)
    for role, network in (("principal", principal), ("collaborator", collaborator)):
        assert all(torch.equal(saved[role][name.removeprefix("module.")], network[name]) for name in network)
    cks.run("inference", workflow_type="infer")


def test_two_processes_train_a_detector_and_its_teacher(mmt_psm, command_line):
    """Before the start the adaptation layers have no part in the loss."""
    mmt_psm.copy_configs()
    overlay = {
        "run": [
            "$@train#trainer.run()",
            "$torch.save([n.state_dict() for n in @networks], @bundle_root + '/rank%d.pt' % @rank)",
        ],
        "networks": "$[@student, @teacher]",
        "teacher_start": 0,
    }
    student, teacher = torchrun(mmt_psm, command_line, **overlay)
    rows = mmt_psm.metrics()
    assert [float(row["weight/mgd"]) > 0 for row in rows] == [False, True]
    assert {"val/map", "val/aji"} <= rows[0].keys()
    saved = torch.load(mmt_psm.root / "models/checkpoint.pt", weights_only=True)
    assert all(torch.equal(saved["student"][name.removeprefix("module.")], student[name]) for name in student)
    assert all(torch.equal(saved["teacher"][name], teacher[name]) for name in teacher)
    assert any(not torch.equal(student[f"module.{name}"], teacher[name]) for name in teacher)
    assert saved["lr_scheduler"]["last_epoch"] == 4, "epochs have as many iterations as on one process"
    mmt_psm.run("inference", workflow_type="infer")


def test_two_processes_train_on_the_same_pseudo_labels(cps_csingan, command_line):
    """The first predicts for both; it and the second then train on the same items."""
    cps_csingan.copy_configs()
    overlay = {
        "run": [
            "$@train#trainer.run()",
            "$torch.save([n.state_dict() for n in @networks], @bundle_root + '/rank%d.pt' % @rank)",
        ],
        "networks": "$[@student]",
        "needs_used": {"training": ["image"]},
        "validate#evaluator": None,
        "restart": False,
    }
    (student,) = torchrun(cps_csingan, command_line, **overlay)
    assert [row["epoch"] for row in cps_csingan.metrics()] == ["1", "2"]
    saved = torch.load(cps_csingan.root / "models/checkpoint.pt", weights_only=True)
    assert all(torch.equal(saved["student"][name.removeprefix("module.")], student[name]) for name in student)
    assert [row["patches"] for row in saved["rounds"]["rows"]] == [0, 6]
    cps_csingan.run("inference", workflow_type="infer")


def test_two_processes_train_stage_two(stage_one, bundle, command_line):
    shutil.copytree(stage_one.root / "models", bundle.copy_configs() / "models")
    overlay = {"second": "@auxiliary", "auxiliary_def": bundle.auxiliary, "refresh_epochs": 1, "max_epochs": 2}
    networks = torchrun(bundle, command_line, "train_scm", **overlay)
    saved = torch.load(bundle.root / "models/scm/checkpoint.pt", weights_only=True)
    for role, network in zip(("primary", "auxiliary"), networks, strict=True):
        assert all(torch.equal(saved[role][name.removeprefix("module.")], network[name]) for name in network)
        assert all(torch.equal(saved["teachers"]["teachers"][role][name], saved[role][name]) for name in saved[role])
    assert [row["epoch"] for row in bundle.metrics("scm")] == ["1", "2"]
    bundle.run("inference", workflow_type="infer", ckpt_dir=str(bundle.root / "models/scm"))
