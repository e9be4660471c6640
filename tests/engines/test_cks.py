# SPDX-License-Identifier: Apache-2.0
"""CKS's iteration on tiny networks: whom each term reaches, when it changes, what it adds up to, that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer

from monai_ext.engines import CKSStep, cks
from monai_ext.functional.knowledge_sharing import foreground_of_instances
from monai_ext.functional.windows import Windows
from monai_ext.inferers import CellInferer
from monai_ext.losses import (
    BorderSharingLoss,
    CollapseLoss,
    ForegroundSharingLoss,
    InstanceSharingLoss,
    PointDetectionLoss,
)
from monai_ext.networks import Collaborator, ConvNeXtFPN, PointInstanceNet, PointTraining

SHARED = ("foreground", "instances", "border")
CKS = ("detection", "offset", *SHARED, "collapse")
MASKS = ("detection", "offset", "mask")
PRIOR_WEIGHT = 2.0


class Counted(torch.nn.Module):
    """Keeps the number of calls."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, *args):
        self.calls += 1
        return self.network(*args)


def make_losses():
    return {
        "detection": PointDetectionLoss(),
        "foreground": ForegroundSharingLoss(),
        "instances": InstanceSharingLoss(),
        "instances_warm_up": InstanceSharingLoss("warm_up"),
        "border": BorderSharingLoss(),
        "collapse": CollapseLoss(),
    }


def make_step(terms, *, seed=0, window_px=16, collaborator=True, losses=None, **kwargs):
    """``terms`` are names, or weights by name."""
    torch.manual_seed(seed)
    backbone = ConvNeXtFPN(1, size="micro", channels=8, stochastic_depth=0.0)
    network = PointInstanceNet(backbone, channels=8, mask_channels=8, window_px=window_px)
    return CKSStep(
        principal=PointTraining(network),
        collaborator=Counted(Collaborator(1, foreground=(8, 16), border=(8,))) if collaborator else None,
        losses=losses or make_losses(),
        weights=terms if isinstance(terms, dict) else dict.fromkeys(terms, 1.0),
        prior_weight=PRIOR_WEIGHT,
        **kwargs,
    )


def make_batch(*counts, side=32, seed=0):
    """Images of noise with this many cells each; their masks are squares around the locations."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(len(counts), 1, side, side, generator=generator)
    locations = side * torch.rand(sum(counts), 2, generator=generator)
    of_image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    numbers = torch.cat([torch.arange(1, count + 1) * 3 for count in counts]) if counts else of_image
    label = torch.zeros(len(counts), 1, side, side)
    for place, b, number in zip(locations.long().tolist(), of_image.tolist(), numbers.tolist(), strict=True):
        label[b, 0, max(place[0] - 2, 0) : place[0] + 3, max(place[1] - 3, 0) : place[1] + 4] = number
    return {
        "image": image,
        "label": label,
        "locations": locations,
        "of_image": of_image,
        "numbers": numbers,
        "prior_px": 3 + torch.rand(sum(counts), generator=generator),
    }


def train(step, batch, *, times=1, lr=1e-3, device="cpu", amp=False):
    for student in step.students.values():
        student.to(device)
    trainer = SupervisedTrainer(
        device=torch.device(device),
        amp=amp,
        max_epochs=1,
        train_data_loader=[batch] * times,
        network=step.students["principal"],
        optimizer=torch.optim.AdamW([p for s in step.students.values() for p in s.parameters()], lr=lr),
        loss_function=None,
        iteration_update=step,
        decollate=False,
    )
    trainer.run()
    return trainer


def learns(module):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


PARTS = {
    "detection": {"backbone", "detector", "score"},
    "offset": {"backbone", "detector", "offset"},
    "mask": {"backbone", "trunk", "encoding", "mask"},
    "instances": {"backbone", "trunk", "encoding", "mask"},
    "collapse": {"backbone", "trunk", "encoding", "mask"},
    "foreground": {"foreground"},
    "border": {"backbone", "trunk", "encoding", "mask", "border"},
}
"""What learns from each term: parts of the principal network, and of the collaborator."""


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("term", PARTS)
def test_each_term_reaches_its_networks_alone(term, warm):
    step = make_step((term,), warm_up_iterations=int(warm))
    terms = step.terms(make_batch(3, 2))
    assert terms.keys() == {term}
    terms[term].backward()
    principal, collaborator = step.students["principal"].network, step.students["collaborator"].network
    parts = dict(principal.named_children()) | dict(collaborator.named_children())
    assert {name for name, part in parts.items() if learns(part)} == PARTS[term]


def test_all_terms_are_the_sum_of_each():
    step, batch = make_step(CKS), make_batch(3, 2)
    parameters = [p for s in step.students.values() for p in s.parameters()]
    whole = torch.autograd.grad(sum(step.terms(batch).values()), parameters)
    total = [torch.zeros_like(p) for p in parameters]
    for name in CKS:
        one = torch.autograd.grad(make_same(step, name).terms(batch)[name], parameters, allow_unused=True)
        total = [t if g is None else t + g for t, g in zip(total, one, strict=True)]
    for mine, other in zip(whole, total, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def make_same(step, *names):
    """A step of some terms over the same networks."""
    return CKSStep(
        principal=step.students["principal"],
        collaborator=step.students.get("collaborator"),
        losses=step.losses,
        weights=dict.fromkeys(names, 1.0),
        prior_weight=PRIOR_WEIGHT,
    )


@pytest.mark.parametrize("name", CKS)
def test_weight_zero_removes_a_term(name):
    step = make_step(dict.fromkeys(CKS, 1.0) | {name: 0.0})
    output = train(step, make_batch(2, 1)).state.output
    assert output["terms"].keys() == output["weights"].keys() == set(CKS) - {name}


def test_nothing_is_computed_for_terms_that_are_not_wanted():
    losses = {"detection": PointDetectionLoss(), "collapse": CollapseLoss()}  # any other would be missed
    step = make_step({"detection": 1.0, "collapse": 1.0, **dict.fromkeys(SHARED, 0.0)}, losses=losses)
    assert train(step, make_batch(2)).state.output["terms"].keys() == {"detection", "collapse"}
    assert step.students["collaborator"].calls == 0
    batch = {key: value for key, value in make_batch(2).items() if key not in ("prior_px", "label", "numbers")}
    assert step.terms(batch).keys() == {"detection", "collapse"}


def test_terms_are_weighted():
    weights = dict(zip(CKS, (1.0, 0.5, 2.0, 3.0, 0.25, 4.0), strict=True))
    output = train(make_step(weights), make_batch(2, 1)).state.output
    expected = sum(weights[name] * float(term) for name, term in output["terms"].items())
    assert float(output["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [0, 2, 9])
def test_the_first_phase_ends(monkeypatch, length):
    seen = []

    def spied(*args, prior_px, prior_weight, **kwargs):
        seen.append((prior_px, prior_weight))
        return foreground_of_instances(*args, prior_px=prior_px, prior_weight=prior_weight, **kwargs)

    monkeypatch.setattr(cks, "foreground_of_instances", spied)
    used, losses = [], make_losses()
    for name in ("instances", "instances_warm_up"):
        losses[name] = lambda *args, name=name: used.append(name) or make_losses()[name](*args)
    step = make_step(CKS, losses=losses, warm_up_iterations=length, warm_up_prior=(50.0, 1.5))
    batch = make_batch(2, 1)
    train(step, batch, times=4)
    warm = min(length, 4)
    assert used == ["instances_warm_up"] * warm + ["instances"] * (4 - warm)
    assert seen[:warm] == [(50.0, 1.5)] * warm
    for prior_px, prior_weight in seen[warm:]:
        assert torch.equal(prior_px, batch["prior_px"])
        assert prior_weight == PRIOR_WEIGHT


def by_hand(step, batch, *, collaborator=True):
    """All terms of a batch from the parts."""
    losses, image = step.losses, batch["image"]
    found = step.students["principal"](image, batch["locations"], batch["of_image"])
    windows = Windows(batch["of_image"], found.origin, 16, (len(image), *image.shape[2:]))
    probs = found.logits.sigmoid()
    target = foreground_of_instances(
        found.logits, windows, locations=found.locations, prior_px=batch["prior_px"], prior_weight=PRIOR_WEIGHT
    )
    terms = losses["detection"](found.levels, batch["locations"], batch["of_image"])
    terms |= {"collapse": losses["collapse"](probs, windows)}
    if not collaborator:
        return terms | {"instances": losses["instances"](found.logits, windows, target)}
    shared = step.students["collaborator"](image).sigmoid()
    return terms | {
        "foreground": losses["foreground"](shared[:, 0], target),
        "instances": losses["instances"](found.logits, windows, shared[:, 0]),
        "border": losses["border"](shared[:, 1], probs, windows),
    }


def test_the_terms_are_their_losses():
    step, batch = make_step(CKS), make_batch(4, 1, side=48)
    terms, expected = step.terms(batch), by_hand(step, batch)
    assert terms.keys() == expected.keys() == set(CKS)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def single(batch, number):
    """One image of a batch with its cells."""
    mine = batch["of_image"] == number
    rows = {key: batch[key][mine] for key in ("locations", "prior_px", "numbers")}
    maps = {key: batch[key][number : number + 1] for key in ("image", "label")}
    return rows | maps | {"of_image": torch.zeros(int(mine.sum()), dtype=torch.long)}


def test_images_with_different_numbers_of_cells_do_not_meet():
    counts = (4, 1)
    step, batch = make_step((*CKS, "mask")), make_batch(*counts, side=48)
    together = step.terms(batch)
    apart = [step.terms(single(batch, number)) for number in range(2)]
    for name in ("detection", "foreground", "border"):  # means over pixels
        torch.testing.assert_close(together[name], sum(terms[name] for terms in apart) / 2, rtol=1e-4, atol=1e-6)
    for name in ("instances", "collapse"):  # means over cells
        mean = sum(n * terms[name] for n, terms in zip(counts, apart, strict=True)) / sum(counts)
        torch.testing.assert_close(together[name], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("warm_up_iterations", [0, 5])
@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3), (1,)])
def test_batches_with_hardly_any_cell(counts, warm_up_iterations):
    step = make_step((*CKS, "mask"), warm_up_iterations=warm_up_iterations)
    trainer = train(step, make_batch(*counts), times=2)
    assert all(torch.isfinite(term) for term in trainer.state.output["terms"].values())
    parameters = [p for s in step.students.values() for p in s.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
    assert all(torch.isfinite(p).all() for p in parameters)
    assert learns(step.students["principal"].network.detector)
    assert learns(step.students["collaborator"].network.foreground)


def test_no_cell_costs_nothing_of_its_own():
    terms = make_step((*CKS, "mask")).terms(make_batch(0, 0))
    for name in ("offset", "instances", "collapse", "mask"):
        assert float(terms[name].detach()) == 0
        assert terms[name].requires_grad


def test_no_collaborator_with_its_terms():
    with pytest.raises(ValueError, match="foreground and border: found no collaborator"):
        make_step(CKS, collaborator=False)
    with pytest.raises(ValueError, match="border: found no collaborator"):
        make_step({"instances": 1.0, "border": 1.0, "foreground": 0.0}, collaborator=False)
    make_step({"instances": 1.0, "border": 0.0, "foreground": 0.0}, collaborator=False)


def test_without_a_collaborator_masks_learn_from_their_own_shifted_foreground():
    step = make_step(("detection", "offset", "instances", "collapse"), collaborator=False)
    batch = make_batch(3, 2)
    terms, expected = step.terms(batch), by_hand(step, batch, collaborator=False)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    step.prior_weight = 0.0
    assert abs(float(step.terms(batch)["instances"].detach() - terms["instances"].detach())) > 1e-4
    assert list(step.students) == ["principal"]


def test_the_mask_term_by_hand():
    step, batch = make_step(MASKS, collaborator=False), make_batch(4, 2, side=48)
    terms = step.terms(batch)
    found = step.students["principal"](batch["image"], batch["locations"], batch["of_image"])
    total, pixels = 0.0, 0
    for n, (x, y) in enumerate(found.origin.tolist()):
        rows, columns = (slice(max(k, 0), max(min(k + 16, 48), 0)) for k in (x, y))
        mask = batch["label"][batch["of_image"][n], 0, rows, columns] == batch["numbers"][n]
        logits = found.logits[n, rows.start - x : rows.stop - x, columns.start - y : columns.stop - y]
        total = total + F.binary_cross_entropy(logits.sigmoid(), mask.float(), reduction="sum")
        pixels += mask.numel()
    assert pixels < found.logits.numel()
    assert terms.keys() == set(MASKS)
    torch.testing.assert_close(terms["mask"], total / pixels)


def test_bfloat16_gives_the_terms_of_float32():
    step, batch = make_step((*CKS, "mask")), make_batch(3, 2)
    expected = {name: float(term) for name, term in step.terms(batch).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step.terms(batch)
    sum(terms.values()).backward()
    found = {name: float(term) for name, term in terms.items()}
    assert found == pytest.approx(expected, rel=0.05, abs=0.01)


def discs(*, side=64, cells=5, radius=6.0, seed=2):
    """Bright discs on dark ground with noise; clicks are up to 1 px off their middles."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.stack(torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij"))
    middles, truth = [], torch.zeros(side, side, dtype=torch.bool)
    while len(middles) < cells:
        place = radius + (side - 2 * radius) * torch.rand(2, generator=generator)
        if all((place - other).norm() > 2 * radius + 1 for other in middles):
            middles.append(place)
            truth |= (pixels - place[:, None, None]).square().sum(0) <= radius**2
    picture = truth + 0.1 * torch.randn(side, side, generator=generator)
    batch = {
        "image": ((picture - picture.mean()) / picture.std())[None, None],
        "locations": torch.stack(middles) + 2 * torch.rand(cells, 2, generator=generator) - 1,
        "of_image": torch.zeros(cells, dtype=torch.long),
        "prior_px": torch.full((cells,), 5.0),
    }
    return batch, torch.stack(middles), truth


def painted(network, image):
    network.eval()
    with torch.no_grad():
        return CellInferer()(image, network)[0, 0]


def iou(mask, truth):
    return float((mask & truth).sum() / (mask | truth).sum())


def test_it_learns_discs_from_points():
    batch, middles, truth = discs()
    step = make_step(CKS, seed=2, window_px=32)
    network = step.students["principal"].network
    # Masks start small, so that at first the prior says how far they reach and not the window.
    torch.nn.init.constant_(network.mask.bias, -0.5)
    first = iou(painted(network, batch["image"]) > 0, truth)
    train(step, batch, times=110, lr=5e-3)
    numbers = painted(network, batch["image"])
    last = iou(numbers > 0, truth)
    everything = float(truth.float().mean())
    assert last > 0.4
    assert last > max(2 * first, 2 * everything)
    assert abs(float(numbers.max()) - len(middles)) <= 2
    owners = [float(numbers[int(x), int(y)]) for x, y in middles]
    assert len({n for n in owners if n > 0}) == len(middles)  # each disc is a cell of its own
    sizes = torch.stack([(numbers == n).sum() for n in owners])
    assert sizes.min() > 0.4 * torch.pi * 6**2
    assert sizes.max() < 0.5 * 32**2


@pytest.mark.gpu
def test_the_gpu_with_amp_gives_the_terms_of_the_cpu(assert_same_on_the_gpu):
    assert_same_on_the_gpu(
        lambda **options: train(make_step((*CKS, "mask")), make_batch(3, 2), **options).state.output,
        amp=True, rel=0.05, abs=0.01,
    )  # fmt: skip
