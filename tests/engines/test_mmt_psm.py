# SPDX-License-Identifier: Apache-2.0
"""MMT-PSM's iteration on tiny detectors: whom each term reaches, what the start costs, edges, that it learns."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from benchmarks.reference.mmt_psm_apart import terms_apart
from monai_ext.engines import MMTPSMStep
from monai_ext.functional.distill import masks_of_levels
from monai_ext.losses import MaskGuidedDistillationLoss, SensitiveSampleLoss
from monai_ext.networks import CellMaskRCNN, DetectorTraining
from monai_ext.networks.aligned_roi_pool import paste_masks

OWN = ("rpn_objectness", "rpn_box", "class", "box", "mask")
ALL = (*OWN, "psm", "mgd")
SIDE = 64


def make_student(seed=0):
    torch.manual_seed(seed)
    network = CellMaskRCNN(
        backbone="resnet18", norm="group", channels=16, hidden=16, anchor_sizes=(8, 16, 32, 64, 128),
        proposals=20, box_samples=16, detections=10, box_dropout=0.0,
    )  # fmt: skip
    return DetectorTraining(network, adapter_channels=8)


def make_step(terms=ALL, *, seed=0, start_iteration=0, **kwargs):
    """A teacher that is no copy of its student, so that they disagree."""
    student, teacher = make_student(seed), make_student(seed + 1).requires_grad_(False).eval()
    classes = teacher.network.roi_heads.box_predictor.cls_score  # some proposals are cells, more are background
    classes.weight.mul_(20)
    classes.bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    losses = {"psm": SensitiveSampleLoss(), "mgd": MaskGuidedDistillationLoss()}
    return MMTPSMStep(
        student=student,
        teacher=teacher,
        losses=losses,
        mine=losses["psm"].mined,
        weights=dict.fromkeys(terms, 1.0),
        start_iteration=start_iteration,
        **kwargs,
    )


def make_target(*boxes):
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    places = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": places, "labels": torch.arange(len(boxes)) % 2 + 1, "masks": masks}


def make_batch(*, teacher_views=2, student_views=1, unlabeled=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = [make_target((10, 12, 40, 44), (20, 20, 30, 30)), make_target()]
    image = 0.1 * torch.randn(2, 3, SIDE, SIDE, generator=generator)
    for one, target in zip(image, targets, strict=True):
        one += target["masks"].sum(0)
    base = torch.randn(unlabeled, 3, SIDE, SIDE, generator=generator)
    views = {f"teacher_{k}": base + 0.1 * torch.randn(base.shape, generator=generator) for k in range(teacher_views)}
    views |= {f"student_{k}": base + 0.1 * torch.randn(base.shape, generator=generator) for k in range(student_views)}
    return {"image": image, "target": targets, **views}


def learns(module):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def parts_that_learn(step):
    student = step.students["student"]
    heads = student.network.roi_heads
    parts = {
        "backbone": student.network.backbone,
        "rpn": student.network.rpn,
        "box": torch.nn.ModuleList([heads.box_head, heads.box_predictor.bbox_pred]),
        "class": heads.box_predictor.cls_score,
        "mask": torch.nn.ModuleList([heads.mask_head, heads.mask_predictor]),
        "adapters": student.adapters,
    }
    return {name for name, part in parts.items() if learns(part)}


REACHED = {
    "rpn_objectness": {"backbone", "rpn"},
    "rpn_box": {"backbone", "rpn"},
    "class": {"backbone", "box", "class"},
    "box": {"backbone", "box"},
    "mask": {"backbone", "mask"},
    "psm": {"backbone", "box", "class"},
    "mgd": {"backbone", "adapters"},
}


@pytest.mark.parametrize("term", REACHED)
def test_each_term_reaches_its_parts_alone(term):
    step = make_step((term,))
    torch.manual_seed(0)
    terms = step.terms(make_batch())
    assert terms.keys() == {term}
    assert terms[term] > 0
    terms[term].backward()
    assert parts_that_learn(step) == REACHED[term]
    assert not learns(step.teacher)


def test_every_parameter_of_the_student_gets_gradient():
    step = make_step()
    torch.manual_seed(0)
    sum(step.terms(make_batch()).values()).backward()
    silent = {name for name, p in step.students["student"].named_parameters() if p.grad is None}
    assert silent == set()


def test_nothing_of_the_teacher_is_computed_before_the_start():
    class Untouched(torch.nn.Module):
        def __getattr__(self, name):
            raise AssertionError(name)

    step = make_step(start_iteration=5)
    step.teacher = Untouched.__new__(Untouched)
    batch = {key: value for key, value in make_batch().items() if "_" not in key}  # not even a view is looked at
    step.iteration = 4
    terms = step.terms(batch)
    assert terms.keys() == set(ALL)
    assert terms["psm"] == terms["mgd"] == 0
    sum(terms.values()).backward()
    assert not learns(step.students["student"].adapters)


def test_a_student_equal_to_its_teacher_in_the_same_view_has_no_feature_distance():
    step = make_step(("mgd",), mirror="none")
    step.teacher = deepcopy(step.students["student"]).requires_grad_(False)
    step.region = "all"
    batch = make_batch(teacher_views=1)
    batch["student_0"] = batch["teacher_0"]
    assert step.terms(batch)["mgd"].item() == pytest.approx(0, abs=1e-10)


def test_features_count_where_the_teacher_sees_instances_in_its_first_view():
    step, batch = make_step(("mgd",)), make_batch()
    seen = {}
    step.losses["mgd"] = lambda student, teacher, masks: seen.update(masks=masks) or student[0].sum() * 0
    step.terms(batch)
    network = step.teacher.network
    found = network.detect(network.features(batch["teacher_0"]), (SIDE, SIDE))
    union = torch.stack([paste_masks(one["masks"], one["boxes"], SIDE, SIDE).any(0) for one in found])
    expected = masks_of_levels(union, [(SIDE // s, SIDE // s) for s in (4, 8, 16, 32, 64)])
    assert expected[0].any()
    for mask, other in zip(seen["masks"], expected, strict=True):
        assert torch.equal(mask, other)


@pytest.mark.parametrize("region", ["all", "anchors"])
def test_other_regions(region):
    step, seen = make_step(("mgd",), region=region), {}
    step.losses["mgd"] = lambda student, teacher, masks: seen.update(masks=masks) or student[0].sum() * 0
    step.terms(make_batch())
    assert [tuple(mask.shape) for mask in seen["masks"]] == [(2, SIDE // s, SIDE // s) for s in (4, 8, 16, 32, 64)]
    covered = torch.cat([mask.flatten() for mask in seen["masks"]]).float().mean()
    assert covered == 1 if region == "all" else 0 < covered < 1


@pytest.mark.parametrize(("mirror", "teacher", "student"), [("none", 3, 2), ("half", 3, 2), ("both", 6, 2)])
def test_views(mirror, teacher, student):
    """Every second view is mirrored, or the teacher's are doubled; logits are of the same boxes in all."""
    step, seen = make_step(("psm",), mirror=mirror), {}
    step.losses["psm"] = lambda logits, taught: seen.update(logits=logits, taught=taught) or logits.sum() * 0
    step.terms(make_batch(teacher_views=3, student_views=2))
    assert len(seen["taught"]) == teacher
    assert len(seen["logits"]) == student
    assert seen["taught"].shape[1:] == seen["logits"].shape[1:]


def test_mirrored_views_are_answered_about_the_mirrored_boxes():
    """A constant image has the same answers in a mirrored view, far from its borders and whatever the boxes."""
    student = make_student().eval()
    levels = [torch.rand(1, 1, 16, SIDE // s, SIDE // s) for s in (4, 8, 16, 32, 64)]
    both = [torch.cat([level, level.flip(-1)]) for level in levels]
    boxes = [torch.tensor([[3.0, 5.0, 30.0, 50.0], [40.0, 2.0, 60.0, 20.0]])]
    with torch.no_grad():
        answers = student.answers(both, [False, False], boxes, (SIDE, SIDE))
        mirrored = student.answers(both, [False, True], boxes, (SIDE, SIDE))
        pooled = student.network.roi_heads.box_roi_pool
        seen = pooled([level[0] for level in levels], boxes)
        other = pooled([level.flip(-1)[0] for level in levels], [flip(boxes[0])])
    assert not torch.allclose(answers.logits[0], answers.logits[1])
    torch.testing.assert_close(seen, other.flip(-1), rtol=0, atol=1e-5)
    for plain, back in zip(mirrored.adapted, answers.adapted, strict=True):
        torch.testing.assert_close(plain[1], back[0], rtol=0, atol=1e-5)


def flip(boxes):
    return torch.stack([SIDE - boxes[:, 2], boxes[:, 1], SIDE - boxes[:, 0], boxes[:, 3]], 1)


@pytest.mark.parametrize("unlabeled", [1, 2])
def test_no_proposal_and_no_object_give_finite_losses_with_a_graph(unlabeled, monkeypatch):
    step = make_step()
    none = [torch.zeros(0, 4) for _ in range(unlabeled)]
    monkeypatch.setattr(step.teacher.network, "proposals", lambda features, size: none)
    batch = make_batch(unlabeled=unlabeled)
    batch["target"] = [make_target(), make_target()]
    terms = step.terms(batch)
    assert terms["psm"] == terms["mgd"] == 0
    assert all(torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert learns(step.students["student"].network.rpn)


@pytest.mark.parametrize("mined", ["some", "all", "none"])
def test_the_student_is_asked_about_mined_proposals_alone(mined):
    """The teacher is asked about all; without ``psm`` the student is asked about none."""
    step, seen = make_step(("mgd",) if mined == "none" else ("psm",)), {}
    if mined == "all":
        step.mine = None
    asked = step.students["student"].answers
    step.students["student"].answers = lambda levels, mirrored, boxes, size: (
        seen.update(boxes=boxes) or asked(levels, mirrored, boxes, size)
    )
    batch = make_batch()
    step.terms(batch)
    taught, boxes, _ = step._teach(torch.stack([batch["teacher_0"], batch["teacher_1"]]))
    kept = step.losses["psm"].mined(taught.logits)
    assert 0 < kept.sum() < len(kept)
    expected = {"some": torch.cat(boxes)[kept], "all": torch.cat(boxes), "none": torch.zeros(0, 4)}[mined]
    torch.testing.assert_close(torch.cat(seen["boxes"]), expected)


def trainer_of(step, batches, *, device="cpu", amp=False):
    student = step.students["student"].to(device)
    step.teacher.to(device)
    return SupervisedTrainer(
        torch.device(device), 1, batches, student, torch.optim.Adam(student.parameters(), lr=1e-3), None,
        iteration_update=step, decollate=False, amp=amp,
    )  # fmt: skip


def test_training_lowers_the_loss():
    seen = []
    trainer = trainer_of(make_step(), [make_batch()] * 12)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(float(trainer.state.output["loss"])))
    trainer.run()
    assert sum(seen[-3:]) < 0.7 * sum(seen[:3])


def test_options_out_of_range():
    for options in ({"mirror": "all"}, {"region": "boxes"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            make_step(**options)
    with pytest.raises(ValueError, match="psm and mgd: found no teacher"):
        MMTPSMStep(student=make_student(), teacher=None, losses={}, weights=dict.fromkeys(ALL, 1.0))
    with pytest.raises(ValueError, match="teacher_0"):
        make_step().terms({"image": torch.zeros(1, 3, SIDE, SIDE), "target": [make_target()]})


def test_equals_every_view_of_every_image_on_its_own():
    """The reference asks the student about every proposal."""
    step, batch = make_step(), make_batch()
    torch.manual_seed(3)
    found = step.terms(batch)
    torch.manual_seed(3)
    expected = terms_apart(batch, student=step.students["student"], teacher=step.teacher, losses=step.losses)
    assert found["psm"] > 0 < found["mgd"]
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
def test_the_gpu_gives_the_terms_of_the_cpu(amp, assert_same_on_the_gpu):
    def train(**options):
        trainer = trainer_of(make_step(), [make_batch()], **options)
        trainer.run()
        return trainer.state.output

    assert_same_on_the_gpu(train, amp=amp, rel=0.1 if amp else 1e-3)
