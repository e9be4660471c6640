# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_ext.handlers import MeanTeacher


def network(value=0.0):
    made = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1), torch.nn.Dropout(0.5))
    torch.nn.init.constant_(made[0].weight, value)
    return made


def weight(net):
    return net[0].weight.item()


def run(handler, students, *, iterations, updates=1):
    """The teacher's weight after each update, while each student's weight is 1 + its iteration."""
    seen = []

    def update(engine, _):
        for _ in range(updates):
            for student in students:
                torch.nn.init.constant_(student[0].weight, engine.state.iteration)
            engine.fire_event(IterationEvents.MODEL_COMPLETED)

    trainer = Engine(update)
    trainer.register_events(*IterationEvents)
    handler.attach(trainer)
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda: seen.append(weight(handler.teacher)))
    trainer.run([0] * iterations)
    return seen


def test_warm_up_discards_the_start_and_then_averages():
    student = network(-50.0)
    assert run(MeanTeacher({"a": student}), [student], iterations=4) == pytest.approx([1, 1.5, 2, 2.5])


def test_two_updates_an_iteration_share_the_step_number():
    student = network()
    seen = run(MeanTeacher({"a": student}), [student], iterations=2, updates=2)
    assert seen == pytest.approx([1, 1, 1.5, 1.75])


def test_it_starts_later_as_a_copy():
    """MMT-PSM: no teacher for 990 iterations, the student's copy at the next, then the mean."""
    student = network(-50.0)
    handler = MeanTeacher({"a": student}, start=2)
    assert run(handler, [student], iterations=5) == pytest.approx([-50, -50, 3, 3.5, 4])


def test_before_its_start_it_is_the_student_after_every_epoch():
    student = network(-50.0)
    handler = MeanTeacher({"a": student}, start=5)
    assert run(handler, [student], iterations=3) == pytest.approx([-50, -50, -50])
    assert weight(handler.teacher) == 3


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_a_run_that_goes_on_from_one_without_a_teacher_begins_with_a_copy(start):
    """Before, at and after the iteration that the teacher would have started at; a restored one stays."""
    for restored in (False, True):
        student = network(-50.0)
        handler = MeanTeacher({"a": student}, start=start)
        seen = []
        trainer = Engine(lambda engine, _, teacher=handler.teacher, seen=seen: seen.append(weight(teacher)))
        trainer.register_events(*IterationEvents)
        handler.attach(trainer)

        def go_on(engine, student=student, handler=handler, restored=restored):
            engine.state.epoch, engine.state.iteration = 1, 2
            torch.nn.init.constant_(student[0].weight, 7.0)
            if restored:
                handler.load_state_dict(network(3.0).state_dict())

        trainer.add_event_handler(Events.STARTED, go_on)
        trainer.run([0] * 2, max_epochs=2)
        assert seen == [3, 3] if restored else seen == [7, 7]


def test_without_warm_up():
    student = network(8.0)
    handler = MeanTeacher({"a": student}, decay=0.75, warm_up=False)
    assert run(handler, [student], iterations=2) == pytest.approx([0.75 * 8 + 0.25, 0.75 * 6.25 + 0.5])


def test_students_are_weighted():
    students = {"a": network(1.0), "b": network(3.0)}
    for weights, expected in ((None, 2.0), ({"a": 0.99, "b": 0.01}, 1.02), ({"a": 0.0, "b": 1.0}, 3.0)):
        handler = MeanTeacher(students, weights=weights)
        handler.update(0)
        assert weight(handler.teacher) == pytest.approx(expected)
    with pytest.raises(ValueError, match="weights"):
        MeanTeacher(students, weights={"a": 1.0})
    with pytest.raises(ValueError, match="weights"):
        MeanTeacher(students, weights={"a": 0.6, "b": 0.6})


@pytest.mark.parametrize(("buffers", "mean", "count"), [("own", 0.0, 0), ("average", 5.0, 7), ("copy", 4.0, 7)])
def test_buffer_policy(buffers, mean, count):
    students = {"a": network(), "b": network()}
    handler = MeanTeacher(students, buffers=buffers)
    for student, value in zip(students.values(), (4.0, 6.0), strict=True):
        student[1].running_mean.fill_(value)
        student[1].num_batches_tracked.fill_(7)
    handler.update(0)
    assert handler.teacher[1].running_mean.item() == pytest.approx(mean)
    assert handler.teacher[1].num_batches_tracked.item() == count
    assert handler.teacher.training is (buffers == "own")


def test_its_mode_comes_back_after_validation():
    for buffers in ("own", "copy"):
        student = network()
        handler = MeanTeacher({"a": student}, buffers=buffers)
        handler.teacher.train(buffers != "own")
        run(handler, [student], iterations=1)
        assert all(module.training is (buffers == "own") for module in handler.teacher.modules())


def test_the_teacher_is_a_copy_without_gradient():
    student = network(2.0)
    handler = MeanTeacher({"a": student})
    assert not any(p.requires_grad for p in handler.teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    torch.nn.init.constant_(student[0].weight, 5.0)
    assert weight(handler.teacher) == 2.0


def test_saved_and_restored():
    student = network()
    handler, other = MeanTeacher({"a": student}), MeanTeacher({"a": network()})
    run(handler, [student], iterations=3)
    handler.teacher[1].running_mean.fill_(9.0)
    other.load_state_dict(handler.state_dict())
    assert weight(other.teacher) == weight(handler.teacher)
    assert other.teacher[1].running_mean.item() == 9.0


@pytest.mark.parametrize("options", [{"decay": 1.5}, {"decay": -0.1}, {"buffers": "none"}, {"start": -1}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MeanTeacher({"a": network()}, **options)
