# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.engines import CoTrainingStep, SCMStep, scm_targets
from monai_ext.handlers import SnapshotTeacher
from monai_ext.losses import PartialLoss, SoftLabelDistillationLoss

NAMES = ("self_primary", "cross_primary", "self_auxiliary", "cross_auxiliary")


def networks():
    torch.manual_seed(0)
    return {name: torch.nn.Conv3d(1, 2, 3, padding=1) for name in ("primary", "auxiliary")}


@pytest.fixture
def image():
    return torch.randn(2, 1, 5, 5, 5, generator=torch.Generator().manual_seed(1))


def make_step(weights, kind=SCMStep, **kwargs):
    students = networks()
    teachers = SnapshotTeacher(students, every=1).teachers
    if kind is SCMStep:
        kwargs["distillation"] = SoftLabelDistillationLoss(temperature=4.0)
    step = kind(students=students, teachers=teachers, supervision=PartialLoss(), weights=weights, **kwargs)
    return step, students, teachers


def test_targets_carry_no_gradient_and_go_crosswise(image):
    _, _, teachers = make_step({"self_primary": 1.0})
    pseudo, other = scm_targets(image, teachers)
    assert not any(t.requires_grad for t in (*pseudo.values(), *other.values()))
    assert torch.equal(other["primary"], teachers["auxiliary"](image))
    assert torch.equal(other["auxiliary"], teachers["primary"](image))
    assert torch.equal(pseudo["primary"][:, 0], teachers["primary"](image).argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_each_term_reaches_its_own_student_and_no_teacher(image, name):
    step, students, teachers = make_step({name: 1.0})
    terms = step.terms({"image": image})
    assert list(terms) == [name]
    terms[name].backward()
    for role, student in students.items():
        touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
        assert touched is name.endswith(role)
    assert all(p.grad is None for teacher in teachers.values() for p in teacher.parameters())


def test_equations_14_and_15(image):
    lam = 0.25
    weights = {name: lam if name.startswith("cross") else 1 - lam for name in NAMES}
    step, students, teachers = make_step(weights)
    total = step.total(step.terms({"image": image}), step.weights_at(0))
    expected = torch.zeros(())
    for role, other in (("primary", "auxiliary"), ("auxiliary", "primary")):
        logits = students[role](image)
        pseudo = teachers[role](image).argmax(1, keepdim=True)
        soft = teachers[other](image)
        expected = (
            expected + (1 - lam) * PartialLoss()(logits, pseudo) + lam * SoftLabelDistillationLoss()(logits, soft)
        )
    assert torch.allclose(total, expected)


def test_equal_networks_have_nothing_to_distil(image):
    step, students, teachers = make_step({"cross_primary": 1.0})
    for network in (*students.values(), *teachers.values()):
        network.load_state_dict(students["primary"].state_dict())
    assert step.terms({"image": image})["cross_primary"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("needs_labels", [False, True])
def test_co_training_hands_over_the_other_students_detached_logits(image, needs_labels):
    seen = []

    def exchange(logits, other, *labels):
        seen.append((logits, other, labels))
        return (logits * other).mean()

    step, students, _ = make_step(
        dict.fromkeys(NAMES, 0.5), CoTrainingStep, exchange=exchange, needs_labels=needs_labels
    )
    terms = step.terms({"image": image})
    assert set(terms) == set(NAMES)
    (logits_a, other_a, labels_a), (logits_b, other_b, _) = seen
    assert torch.equal(other_a, logits_b.detach())
    assert torch.equal(other_b, logits_a.detach())
    assert not other_a.requires_grad
    assert len(labels_a) == int(needs_labels)
    terms["cross_primary"].backward()
    assert all(p.grad is None for p in students["auxiliary"].parameters())
