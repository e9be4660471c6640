# SPDX-License-Identifier: Apache-2.0
"""EUGMT's iteration on tiny networks: what is called, what reaches whom, and the sums of Eq. 8 to 14."""

from __future__ import annotations

import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceLoss

from monai_ext.engines import EUGMTStep
from monai_ext.functional.confident_joint import noisy_pixels
from monai_ext.functional.patch_mix import mean_entropy, mix_patches
from monai_ext.functional.ramps import sigmoid_ramp
from monai_ext.handlers import MeanTeacher
from monai_ext.losses import MaskedConsistencyLoss

FIRST = ("supervised", "cross_pseudo", "mean_teacher", "consistency")
MIXED = ("mixed_supervised", "mixed_cross_pseudo", "mixed_mean_teacher")
ALL = dict.fromkeys((*FIRST, *MIXED), 1.0)
SEGMENT = DiceLoss(to_onehot_y=True, softmax=True)
SIZE = 16


class Counted(torch.nn.Sequential):
    """Two convolutions that keep what they were given."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
        self.inputs = []

    def forward(self, image):
        self.inputs.append((image.detach().clone(), torch.is_grad_enabled()))
        return super().forward(image)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    keys = ("image", "strong", "unlabeled", "strong_a", "strong_b")
    made = {key: torch.randn(2, 3, SIZE, SIZE, generator=generator) for key in keys}
    return made | {"label": (torch.rand(2, 1, SIZE, SIZE, generator=generator) > 0.6).long()}


def make_step(weights, *, names=("a", "b"), **kwargs):
    torch.manual_seed(1)
    students = {name: Counted() for name in names}
    handler = MeanTeacher(students, weights={name: 1 / len(names) for name in names})
    handler.teacher = Counted().requires_grad_(False)  # another than the students, as later in training
    kwargs = {"grid": 4, "patches": 1} | kwargs
    step = EUGMTStep(
        students=students,
        teacher=handler.teacher,
        supervision=SEGMENT,
        consistency=MaskedConsistencyLoss(),
        weights=weights,
        **kwargs,
    )
    return step, students, handler


def train(step, students, handler, batch, *, times=1, device="cpu", amp=False):
    for network in (*students.values(), handler.teacher):
        network.to(device)
    trainer = SupervisedTrainer(
        device=torch.device(device),
        amp=amp,
        max_epochs=1,
        train_data_loader=[batch] * times,
        network=students["a"],
        optimizer=torch.optim.AdamW([p for s in students.values() for p in s.parameters()], lr=1e-2),
        loss_function=SEGMENT,
        iteration_update=step,
        decollate=False,
    )
    handler.attach(trainer)
    trainer.run()
    return trainer


def collected(step, batch):
    """All terms of the first update, added up over groups."""
    terms = {}
    for group in step.terms(batch):
        for name, term in group.items():
            terms[name] = terms.get(name, 0) + term
    return terms


def test_eleven_forwards_and_two_updates_a_student(batch):
    step, students, handler = make_step(ALL)
    trainer = train(step, students, handler, batch)
    calls = {name: net.inputs for name, net in (*students.items(), ("teacher", handler.teacher))}
    assert {name: len(inputs) for name, inputs in calls.items()} == {"a": 4, "b": 4, "teacher": 3}
    assert not any(graph for _, graph in calls["teacher"])
    assert all(graph for name in ("a", "b") for _, graph in calls[name])
    for name in ("a", "b"):
        assert torch.equal(calls[name][0][0], batch["image"])
        assert torch.equal(calls[name][1][0], batch[f"strong_{name}"])
        assert torch.equal(calls[name][2][0], calls["b"][2][0])  # one mixed image goes to both
    assert torch.equal(calls["teacher"][1][0], batch["unlabeled"])
    noise = calls["teacher"][2][0] - batch["unlabeled"]
    assert 0 < noise.abs().max() <= 0.2 + 1e-6
    assert noise.std() == pytest.approx(0.0955, rel=0.1)  # the values beyond two deviations moved to them
    states = trainer.optimizer.state
    assert all(states[p]["step"].item() == 2 for s in students.values() for p in s.parameters())
    assert trainer.state.output["terms"].keys() == ALL.keys()


def test_the_first_updates_terms_are_the_equations(batch):
    step, students, handler = make_step(dict.fromkeys(FIRST, 1.0), noise_sd=0.0)
    terms = collected(step, batch)
    logits = {name: net(batch[f"strong_{name}"]) for name, net in students.items()}
    taught = handler.teacher(batch["unlabeled"])
    hard = {name: z.argmax(1, keepdim=True) for name, z in (*logits.items(), ("teacher", taught))}
    expected = dict.fromkeys(FIRST, 0.0)
    for name, other in (("a", "b"), ("b", "a")):
        expected["supervised"] += SEGMENT(students[name](batch["image"]), batch["label"])  # Eq. 9
        expected["cross_pseudo"] += SEGMENT(logits[name], hard[other])  # Eq. 11
        expected["mean_teacher"] += SEGMENT(logits[name], hard["teacher"])  # Eq. 13
        mask = noisy_pixels(hard[name][:, 0], taught.softmax(1), trim=step.trim)
        squares = (taught.softmax(1) - logits[name].softmax(1)).square().sum(1)
        expected["consistency"] += (squares * mask).sum() / mask.sum()  # Eq. 14
    assert terms.keys() == expected.keys()
    for name in FIRST:
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_the_second_updates_terms_are_on_mixed_images(batch):
    step, students, _ = make_step(ALL)
    probs = {"labeled": {}, "unlabeled": {}}
    list(step.terms(batch, probs))
    terms = {}
    for group in step.mixed_terms(batch, probs):
        for name, term in group.items():
            terms[name] = terms.get(name, 0) + term
    maps = {
        kind: [mean_entropy(probs[kind][name], probs[kind]["teacher"]) for name in "ab"]
        for kind in ("labeled", "unlabeled")
    }
    image, label = mix_patches([batch["strong"], batch["label"]], *maps["labeled"], grid=4, k=1)
    view, taught = mix_patches([batch["strong_a"], probs["unlabeled"]["teacher"]], *maps["unlabeled"], grid=4, k=1)
    assert not torch.equal(image, batch["strong"])
    logits = {name: net(view) for name, net in students.items()}
    expected = {
        "mixed_supervised": sum(SEGMENT(net(image), label) for net in students.values()),
        "mixed_cross_pseudo": sum(SEGMENT(logits[n], logits[o].argmax(1, keepdim=True)) for n, o in ("ab", "ba")),
        "mixed_mean_teacher": sum(SEGMENT(z, taught.argmax(1, keepdim=True)) for z in logits.values()),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("student", ["a", "b"])
@pytest.mark.parametrize("term", FIRST)
def test_a_students_group_reaches_that_student_alone(batch, term, student):
    step, students, handler = make_step({term: 1.0})
    groups = list(step.terms(batch))
    assert [list(group) for group in groups] == [[term], [term]]
    groups["ab".index(student)][term].backward()
    for name, net in students.items():
        grads = [p.grad for p in net.parameters()]
        touched = all(g is not None and g.abs().sum() > 0 for g in grads)
        assert touched if name == student else all(g is None for g in grads)
    assert all(p.grad is None for p in handler.teacher.parameters())


def test_groups_have_the_gradient_of_the_whole(batch):
    step, students, _ = make_step(dict.fromkeys(FIRST, 1.0), noise_sd=0.0)
    for group in step.terms(batch):
        sum(group.values()).backward()
    grads = [p.grad.clone() for s in students.values() for p in s.parameters()]
    for student in students.values():
        student.zero_grad()
    sum(collected(step, batch).values()).backward()
    whole = [p.grad for s in students.values() for p in s.parameters()]
    for mine, other in zip(grads, whole, strict=True):
        torch.testing.assert_close(mine, other)


def test_baselines_call_no_more_than_they_need(batch):
    supervised, students, handler = make_step({"supervised": 1.0}, names=("a",))
    train(supervised, students, handler, batch)
    assert (len(students["a"].inputs), len(handler.teacher.inputs)) == (1, 0)
    cross, students, handler = make_step({"supervised": 1.0, "cross_pseudo": 1.0})
    train(cross, students, handler, batch)
    assert [len(net.inputs) for net in (*students.values(), handler.teacher)] == [2, 2, 0]
    mean, students, handler = make_step({"supervised": 1.0, "consistency": 1.0}, names=("a",), select="all")
    train(mean, students, handler, batch)
    assert (len(students["a"].inputs), len(handler.teacher.inputs)) == (2, 2)
    ucmt, students, handler = make_step({name: w for name, w in ALL.items() if name != "consistency"})
    train(ucmt, students, handler, batch)
    assert [len(net.inputs) for net in (*students.values(), handler.teacher)] == [4, 4, 2]


def test_all_pixels_and_noisy_pixels_differ(batch):
    values = []
    for select in ("noisy", "all"):
        step, students, handler = make_step({"consistency": 1.0}, select=select, noise_sd=0.0)
        values.append(collected(step, batch)["consistency"].item())
    logits = {name: net(batch[f"strong_{name}"]) for name, net in students.items()}
    taught = handler.teacher(batch["unlabeled"]).softmax(1)
    whole = sum((taught - z.softmax(1)).square().sum(1).mean() for z in logits.values())
    assert values[1] == pytest.approx(whole.item(), rel=1e-5)
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_lambda_rises_with_the_iteration(batch):
    ramp = lambda epochs: sigmoid_ramp(epochs, length=4)  # noqa: E731
    step, *_ = make_step({"supervised": 1.0, "cross_pseudo": 1.0}, ramps={"cross_pseudo": ramp})
    assert [step.weights_at(t)["cross_pseudo"] for t in (0, 2, 4)] == pytest.approx([math.exp(-5), math.exp(-1.25), 1])
    assert step.weights_at(2.5)["cross_pseudo"] > step.weights_at(2)["cross_pseudo"]
    assert step.weights_at(0)["supervised"] == 1


def test_a_student_that_sees_background_only_gives_a_finite_loss(batch):
    step, students, handler = make_step(ALL)
    for net in (*students.values(), handler.teacher):
        torch.nn.init.constant_(net[2].bias, 0)
        with torch.no_grad():
            net[2].bias[0] += 50
    trainer = train(step, students, handler, batch)
    assert torch.isfinite(trainer.state.output["loss"])
    assert all(torch.isfinite(p).all() for s in students.values() for p in s.parameters())


def test_the_loss_falls_on_a_toy_set():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    label = (image[:, :1] > 0).long()
    batch = {key: image for key in ("image", "strong", "unlabeled", "strong_a", "strong_b")} | {"label": label}
    step, students, handler = make_step({name: 1.0 if "supervised" in name else 0.1 for name in ALL})
    first = train(step, students, handler, batch).state.output["terms"]["supervised"].item()
    last = train(step, students, handler, batch, times=60).state.output["terms"]["supervised"].item()
    assert last < 0.5 * first


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match="need two students"):
        make_step(ALL, names=("a",))
    with pytest.raises(ValueError, match="select"):
        make_step(ALL, select="some")


@pytest.mark.gpu
def test_the_gpu_with_amp_gives_the_terms_of_the_cpu(batch, assert_same_on_the_gpu):
    assert_same_on_the_gpu(
        lambda **options: train(*make_step(ALL, noise_sd=0.0), batch, **options).state.output, amp=True, rel=0.05
    )
