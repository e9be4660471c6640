# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_ext.engines import TrainStep


class Quadratic(TrainStep):
    """Terms whose gradients can be worked out in the head: near = w^2, far = 3w."""

    def __init__(self, network, weights, ramps=None, extra=None, **options):
        super().__init__(students={"network": network}, weights=weights, ramps=ramps, **options)
        self.extra = extra or {}

    def terms(self, batch):
        w = self.students["network"].weight.squeeze()
        terms = {"near": w**2, "far": 3 * w} | self.extra
        return {name: term for name, term in terms.items() if self.wants(name) or name in self.extra}


def make_trainer(step_of, *, epochs=1, items=1, lr=0.1, weight=2.0, **kwargs):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, weight)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[{"image": torch.zeros(1, 1)} for _ in range(items)],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=lambda *_: None,
        iteration_update=step_of(network),
        decollate=False,
        **kwargs,
    )
    return trainer, network


def test_one_update_by_hand():
    trainer, network = make_trainer(lambda net: Quadratic(net, {"near": 1.0, "far": 2.0}))
    trainer.run()
    # d/dw (w^2 + 2 * 3w) = 2w + 6 = 10 at w = 2; the step is 0.1 * 10
    assert network.weight.item() == pytest.approx(1.0)
    output = trainer.state.output
    assert output["loss"].item() == pytest.approx(4 + 12)
    assert {k: v.item() for k, v in output["terms"].items()} == {"near": 4.0, "far": 6.0}
    assert output["weights"] == {"near": 1.0, "far": 2.0}
    assert not output["loss"].requires_grad


@pytest.mark.parametrize(("clip_norm", "step"), [(None, 10.0), (4.0, 4.0), (11.0, 10.0)])
def test_a_long_gradient_is_cut(clip_norm, step):
    trainer, network = make_trainer(lambda net: Quadratic(net, {"near": 1.0, "far": 2.0}, clip_norm=clip_norm))
    trainer.run()
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * step)


def test_all_parameters_gradients_are_cut_together():
    """(6, 8) has the norm 10."""

    class Two(TrainStep):
        def terms(self, batch):
            first, second = self.students["network"].weight.flatten()
            return {"both": 6 * first + 8 * second}

    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    trainer, _ = make_trainer(lambda _: Two(students={"network": network}, weights={"both": 1.0}, clip_norm=5.0))
    trainer.optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    trainer.run()
    torch.testing.assert_close(network.weight.detach(), torch.tensor([[-3.0, -4.0]]))


@pytest.mark.gpu
def test_a_scaled_gradient_is_cut_at_its_own_length():
    """Under AMP the gradient is 65536 times as long."""
    network = torch.nn.Linear(1, 1, bias=False, device="cuda")
    torch.nn.init.constant_(network.weight, 2.0)
    step = Quadratic(network, {"near": 1.0, "far": 2.0}, clip_norm=4.0)
    trainer = SupervisedTrainer(
        torch.device("cuda"), 1, [{"image": torch.zeros(1, 1)}], network, torch.optim.SGD(network.parameters(), lr=0.1),
        None, iteration_update=step, decollate=False, amp=True,
    )  # fmt: skip
    trainer.run()
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * 4)


def test_gradients_do_not_add_up_over_iterations():
    trainer, network = make_trainer(lambda net: Quadratic(net, {"far": 1.0}), items=3)
    trainer.run()
    assert network.weight.item() == pytest.approx(2.0 - 3 * 0.1 * 3)


def test_weight_zero_removes_a_term():
    trainer, network = make_trainer(lambda net: Quadratic(net, {"near": 0, "far": 1.0}))
    trainer.run()
    assert set(trainer.state.output["terms"]) == {"far"}
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * 3)


def test_ramp_sees_whole_finished_epochs():
    seen = []

    def ramp(epoch):
        seen.append(epoch)
        return epoch / 2

    trainer, network = make_trainer(lambda net: Quadratic(net, {"far": 1.0}, {"far": ramp}), epochs=3, items=2)
    trainer.run()
    assert seen == [0, 0, 1, 1, 2, 2]
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * 3 * (0.5 + 0.5 + 1 + 1))


def test_unweighted_term_is_an_error():
    trainer, _ = make_trainer(lambda net: Quadratic(net, {"near": 1.0}, extra={"stray": torch.ones(())}))
    with pytest.raises(KeyError, match="stray"):
        trainer.run()


def test_weights_that_teach_nothing_are_an_error():
    network = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Every loss weight is 0"):
        Quadratic(network, {"near": 0})
    with pytest.raises(ValueError, match="clip_norm: found 0"):
        Quadratic(network, {"near": 1.0}, clip_norm=0)
    with pytest.raises(ValueError, match="Ramps for"):
        Quadratic(network, {"near": 1.0}, {"nera": lambda e: 1.0})


def test_non_finite_loss_names_iteration_terms_and_files():
    from monai.data import MetaTensor

    trainer, network = make_trainer(lambda net: Quadratic(net, {"near": 1.0, "far": 1.0}), weight=float("nan"))
    image = MetaTensor(torch.zeros(1, 1), meta={"filename_or_obj": ["case-07.nii.gz"]})
    trainer.data_loader = [{"image": image}]
    with pytest.raises(FloatingPointError, match=r"iteration 1 .*near = nan, far = nan.*case-07\.nii\.gz"):
        trainer.run()
    assert torch.isnan(network.weight).all()


def test_events_fire_in_monais_order():
    trainer, _ = make_trainer(lambda net: Quadratic(net, {"near": 1.0}))
    order = []
    for event in IterationEvents:
        if event in trainer._allowed_events:
            trainer.add_event_handler(event, lambda _, name: order.append(name), event.name)
    trainer.run()
    expected = ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED"]
    assert [name for name in order if name in expected] == expected


def test_students_are_put_into_training_mode():
    trainer, network = make_trainer(lambda net: Quadratic(net, {"near": 1.0}))
    network.eval()
    trainer.run()
    assert network.training


class TwoPasses(Quadratic):
    """One update from ``near`` in two groups, then one from ``far``; keeps the weight that each saw."""

    def passes(self, batch):
        self.seen = []
        yield self.halves()
        self.seen.append(self.students["network"].weight.item())
        yield {"far": 3 * self.students["network"].weight.squeeze()}

    def halves(self):
        for _ in range(2):
            self.seen.append(self.students["network"].weight.item())
            yield {"near": self.students["network"].weight.squeeze() ** 2 / 2}


def test_groups_add_up_and_passes_update_in_turn():
    made = []
    trainer, network = make_trainer(lambda net: made.append(TwoPasses(net, {"near": 1.0, "far": 2.0})) or made[0])
    events = []
    for event in (IterationEvents.BACKWARD_COMPLETED, IterationEvents.MODEL_COMPLETED):
        trainer.add_event_handler(event, lambda _, name: events.append(name), event.name)
    trainer.run()
    assert made[0].seen == pytest.approx([2.0, 2.0, 2.0 - 0.1 * 4])
    assert network.weight.item() == pytest.approx(1.6 - 0.1 * 6)
    output = trainer.state.output
    assert {name: term.item() for name, term in output["terms"].items()} == pytest.approx({"near": 4.0, "far": 4.8})
    assert output["loss"].item() == pytest.approx(4.0 + 2 * 4.8)
    back, model = "BACKWARD_COMPLETED", "MODEL_COMPLETED"
    assert events == [back, back, model, back, model]


def test_missing_term_is_an_error():
    trainer, _ = make_trainer(lambda net: TwoPasses(net, {"near": 1.0, "far": 1.0, "none": 1.0}))
    with pytest.raises(KeyError, match="none"):
        trainer.run()


def test_ramp_by_iteration_sees_fractions():
    seen = []

    def ramp(epochs):
        seen.append(epochs)
        return 1.0

    def make(net):
        step = Quadratic(net, {"far": 1.0}, {"far": ramp})
        step.ramp_unit = "iteration"
        return step

    make_trainer(make, epochs=2, items=2)[0].run()
    assert seen == [0, 0.5, 1, 1.5]
    with pytest.raises(ValueError, match="ramp_unit"):
        TrainStep.__init__(object.__new__(Quadratic), students={}, weights={"a": 1}, ramp_unit="hour")
