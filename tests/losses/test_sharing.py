# SPDX-License-Identifier: Apache-2.0
"""Knowledge sharing (Eq. 5, 6, 8, 10 and the penalty on collapse) against full maps, pair by pair of cells."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.reference.sharing_dense import dense_sharing_losses
from monai_ext.functional.knowledge_sharing import border_of_instances, foreground_of_instances
from monai_ext.functional.windows import Windows, inside
from monai_ext.losses import BorderSharingLoss, CollapseLoss, ForegroundSharingLoss, InstanceSharingLoss

PLACES = [
    *[(0, 2, 3), (0, 2, 3), (0, 4, 5), (1, 2, 3)],
    *[(0, -2, 2), (0, -3, 1), (1, 7, 9), (1, 40, 2)],  # two that meet off the image; the last lies outside
]
SIZE, SHAPE = 5, (2, 10, 12)
MODES = ("linear", "entropy", "warm_up")


def make(places=PLACES, *, size=SIZE, shape=SHAPE):
    table = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
    return Windows(image=table[:, 0], origin=table[:, 1:], size=size, shape=shape)


def case(windows, *, seed=0, dtype=torch.float64):
    """Logits of the cells, and the collaborator's map of the image."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(windows.image), windows.size, windows.size, generator=generator, dtype=dtype)
    foreground = torch.rand(windows.shape, generator=generator, dtype=dtype)
    return (2 * logits).requires_grad_(), foreground.requires_grad_()


def full_maps(values, windows):
    """One map of the image for each cell, 0 outside its window."""
    _, height, width = windows.shape
    maps = []
    for value, (x, y) in zip(values, windows.origin.tolist(), strict=True):
        one = value.new_zeros(height, width)
        for i in range(windows.size):
            for j in range(windows.size):
                if 0 <= x + i < height and 0 <= y + j < width:
                    one[x + i, y + j] = value[i, j]
        maps.append(one)
    return maps


def first_part(logits, windows, foreground, mode):
    """Sum over each cell's own window of the distance from the collaborator's map, one cell after the other."""
    m, own = full_maps(logits.sigmoid(), windows), full_maps(torch.ones_like(logits), windows)
    total = logits.new_zeros(())
    for i, b in enumerate(windows.image.tolist()):
        c, seen = foreground[b].detach(), own[i].bool()
        if mode == "entropy":
            total = total + F.binary_cross_entropy(m[i][seen], (c[seen] >= 0.5).to(c), reduction="sum")
            continue
        c = (c > 0.5).to(c) if mode == "warm_up" else c
        total = total + ((1 - c) * m[i] + c * (1 - m[i]))[seen].sum()
    return total


def overlap(logits, windows, mode="linear"):
    """Every ordered pair of cells of one image, pixel by pixel."""
    m, total = full_maps(logits.sigmoid(), windows), logits.new_zeros(())
    for i, b in enumerate(windows.image.tolist()):
        for j, other in enumerate(windows.image.tolist()):
            if i != j and b == other:
                total = total + (m[i] * (-(1 - m[j]).log() if mode == "warm_up" else m[j])).sum()
    return total


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_instances_equal_a_double_loop(seed, mode):
    windows = make()
    logits, foreground = case(windows, seed=seed)
    found = InstanceSharingLoss(mode)(logits, windows, foreground)
    expected = first_part(logits, windows, foreground, mode) + overlap(logits, windows, mode)
    expected = expected / (len(PLACES) * SIZE**2)  # K
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_overlap_is_the_square_of_the_sum_less_the_sum_of_squares():
    windows = make()
    logits, foreground = case(windows)
    m = torch.stack(full_maps(logits.sigmoid(), windows))
    total = sum((m[windows.image == b].sum(0) ** 2).sum() - (m[windows.image == b] ** 2).sum() for b in range(2))
    assert total.item() == pytest.approx(overlap(logits, windows).item(), rel=1e-12)
    found = InstanceSharingLoss()(logits, windows, foreground) * len(PLACES) * SIZE**2
    assert (found - first_part(logits, windows, foreground, "linear")).item() == pytest.approx(total.item(), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_order_of_cells_does_not_matter(mode):
    windows = make()
    logits, foreground = case(windows)
    order = torch.randperm(len(PLACES), generator=torch.Generator().manual_seed(1))
    turned = Windows(windows.image[order], windows.origin[order], SIZE, SHAPE)
    loss = InstanceSharingLoss(mode)
    first, second = loss(logits, windows, foreground), loss(logits[order], turned, foreground)
    assert first.item() == pytest.approx(second.item(), rel=1e-12)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (first, second)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_off_the_image_count_nowhere(mode):
    windows = make()
    logits, foreground = case(windows)
    off = ~inside(windows)
    other = torch.where(off, 5 - logits.detach(), logits.detach()).requires_grad_()
    losses = [
        lambda z: InstanceSharingLoss(mode)(z, windows, foreground),
        lambda z: CollapseLoss()(z.sigmoid(), windows),
        lambda z: CollapseLoss(exponent=1.0)(z.sigmoid(), windows),
    ]
    assert off.any()
    for loss in losses:
        assert loss(logits).item() == loss(other).item()
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        assert gradient[off].eq(0).all()
        assert gradient[~off].ne(0).any()


def test_k_counts_pixels_off_the_image_too():
    windows = make([(0, -3, 0)])  # two rows of five remain
    found = InstanceSharingLoss()(torch.full((1, SIZE, SIZE), 50.0), windows, torch.zeros(SHAPE))
    assert found.item() == pytest.approx(2 * SIZE / SIZE**2)


@pytest.mark.parametrize("mode", MODES)
def test_cells_of_two_images_do_not_overlap(mode):
    logits, foreground = torch.full((2, SIZE, SIZE), 0.3), torch.rand(1, *SHAPE[1:]).expand(SHAPE)
    together = InstanceSharingLoss(mode)(logits, make([(0, 2, 2), (1, 2, 2)]), foreground)
    alone = InstanceSharingLoss(mode)(logits[:1], make([(0, 2, 2)]), foreground)
    twice = InstanceSharingLoss(mode)(logits, make([(0, 2, 2), (0, 2, 2)]), foreground)
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    assert twice > together + 0.1


def test_a_half_is_foreground_for_the_entropy_and_background_in_the_warm_up():
    windows, logits = make([(0, 2, 2)]), torch.full((1, SIZE, SIZE), 1.5)
    half, m = torch.full(SHAPE, 0.5), 1 / (1 + math.exp(-1.5))
    assert InstanceSharingLoss("entropy")(logits, windows, half).item() == pytest.approx(-math.log(m), rel=1e-5)
    assert InstanceSharingLoss("warm_up")(logits, windows, half).item() == pytest.approx(m, rel=1e-5)
    assert InstanceSharingLoss("linear")(logits, windows, half).item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_sure_cells_cost_a_finite_amount(mode):
    windows = make()
    logits = torch.full((len(PLACES), SIZE, SIZE), 200.0)
    logits[::2] *= -1
    logits.requires_grad_()
    found = InstanceSharingLoss(mode)(logits, windows, torch.rand(SHAPE).round())
    found.backward()
    assert found.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("mode", ["linear", "entropy"])
def test_foreground_equals_the_equation(mode):
    generator = torch.Generator().manual_seed(0)
    foreground, target = torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64)
    target[0, 0, :3] = 0.5  # counts as foreground
    total = 0.0
    for c, p in zip(foreground.flatten().tolist(), target.flatten().tolist(), strict=True):
        if mode == "linear":
            total += (1 - p) * c + p * (1 - c)
        else:
            total -= math.log(c) if p >= 0.5 else math.log(1 - c)
    found = ForegroundSharingLoss(mode)(foreground, target)
    assert found.item() == pytest.approx(total / foreground.numel(), rel=1e-9)


def test_foreground_gradient_is_that_of_equation_7():
    foreground, target = torch.rand(2, *SHAPE, dtype=torch.float64)
    foreground.requires_grad_()
    ForegroundSharingLoss()(foreground, target).backward()
    torch.testing.assert_close(foreground.grad, (1 - 2 * target) / target.numel(), rtol=1e-10, atol=0)


def test_entropy_of_a_map_that_is_sure_is_finite():
    foreground = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]], requires_grad=True)
    found = ForegroundSharingLoss("entropy")(foreground, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))
    found.backward()
    assert found.isfinite()
    assert foreground.grad.isfinite().all()


def test_border_is_half_a_square_with_a_gradient_to_both():
    windows = make()
    logits, border = case(windows)
    reached = border_of_instances(logits.sigmoid().detach(), windows)
    found = BorderSharingLoss()(border, logits.sigmoid(), windows)
    assert found.item() == pytest.approx(((border - reached) ** 2).mean().item() / 2, rel=1e-9)
    found.backward()
    torch.testing.assert_close(border.grad, (border.detach() - reached) / border.numel())
    assert logits.grad.ne(0).any()


def test_who_learns_from_what():
    windows = make()
    logits, foreground = case(windows)
    locations = windows.origin + SIZE / 2
    made = foreground_of_instances(logits, windows, locations=locations, prior_px=2.0, prior_weight=2.0)
    ForegroundSharingLoss()(foreground, made).backward()
    assert logits.grad is None
    assert foreground.grad.ne(0).any()
    target = torch.rand(SHAPE, dtype=torch.float64, requires_grad=True)
    for mode in ("linear", "entropy"):
        assert torch.autograd.grad(ForegroundSharingLoss(mode)(foreground, target), target, allow_unused=True) == (
            None,
        )
    for mode in MODES:
        foreground.grad = logits.grad = None
        InstanceSharingLoss(mode)(logits, windows, foreground).backward()
        assert foreground.grad is None
        assert logits.grad.ne(0).any()


def collapse(p, *, exponent, share=1.0, size=SIZE):
    return 0.01 * max(p * share, 1 / size**2) ** -exponent


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_collapse_of_a_uniform_mask(p, exponent):
    windows = make([(0, 2, 3), (1, 4, 4)])
    found = CollapseLoss(exponent=exponent)(torch.full((2, SIZE, SIZE), p), windows)
    assert found.item() == pytest.approx(0.01 * p**-exponent, rel=1e-5)
    half = CollapseLoss(delta=0.005, exponent=exponent)(torch.full((2, SIZE, SIZE), p), windows)
    assert half.item() == pytest.approx(found.item() / 2, rel=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_collapse_is_a_mean_over_cells_and_counts_what_is_in_the_image(exponent):
    windows = make([(0, 2, 3), (0, -3, 2), (1, 40, 2)])
    probs = torch.stack([torch.full((SIZE, SIZE), p) for p in (0.4, 0.7, 0.9)])
    each = [collapse(p, exponent=exponent, share=s) for p, s in ((0.4, 1), (0.7, 2 / SIZE), (0.9, 0))]
    found = CollapseLoss(exponent=exponent)(probs, windows)
    assert found.item() == pytest.approx(sum(each) / 3, rel=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_collapse_of_an_empty_mask_is_finite(exponent):
    probs = torch.zeros(2, SIZE, SIZE, requires_grad=True)
    found = CollapseLoss(exponent=exponent)(probs, make([(0, 2, 3), (1, 2, 3)]))
    found.backward()
    assert found.item() == pytest.approx(0.01 * SIZE ** (2 * exponent), rel=1e-5)
    assert probs.grad.isfinite().all()


def test_collapse_pushes_masks_up():
    probs = torch.rand(len(PLACES), SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    windows = make()
    CollapseLoss()(probs, windows).backward()
    assert probs.grad[inside(windows)].lt(0).all()


def losses_of(logits, foreground, windows):
    """Every loss of this file, ready to be called; the collaborator's map serves as border too."""
    target = foreground.detach().flip(-1)
    return {
        **{f"foreground {m}": lambda m=m: ForegroundSharingLoss(m)(foreground, target) for m in ("linear", "entropy")},
        **{f"instances {m}": lambda m=m: InstanceSharingLoss(m)(logits, windows, foreground) for m in MODES},
        "border": lambda: BorderSharingLoss()(foreground, logits.sigmoid(), windows),
        "collapse": lambda: CollapseLoss()(logits.sigmoid(), windows),
        "collapse 1": lambda: CollapseLoss(exponent=1.0)(logits.sigmoid(), windows),
    }


NAMES = list(losses_of(*case(make()), make()))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    windows = make([(0, 1, 1), (0, 2, 2), (0, -1, 3)], size=4, shape=(1, 6, 6))
    logits, foreground = case(windows)
    foreground = foreground.detach().mul(0.9).add(0.05)
    if name.startswith("foreground"):
        target, loss = foreground.flip(-1), ForegroundSharingLoss(name.split()[1])
        assert torch.autograd.gradcheck(lambda c: loss(c, target), foreground.requires_grad_())
        return
    assert torch.autograd.gradcheck(lambda z: losses_of(z, foreground, windows)[name](), logits)
    if name == "border":
        probs = logits.detach().sigmoid()
        assert torch.autograd.gradcheck(
            lambda c: BorderSharingLoss()(c, probs, windows), foreground.clone().requires_grad_()
        )


def test_no_cell():
    windows = make([])
    logits, foreground = torch.zeros(0, SIZE, SIZE, requires_grad=True), torch.rand(SHAPE)
    for mode in MODES:
        found = InstanceSharingLoss(mode)(logits, windows, foreground)
        assert found.item() == 0
        assert found.requires_grad
        found.backward()
    assert CollapseLoss()(logits.sigmoid(), windows).item() == 0
    found = BorderSharingLoss()(foreground, logits.sigmoid(), windows)
    assert found.item() == pytest.approx(foreground.square().mean().item() / 2, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype, name):
    windows = make()
    logits, foreground = (t.detach().to(dtype) for t in case(windows))
    found = losses_of(logits, foreground, windows)[name]()
    assert found.dtype == torch.float32
    assert found.shape == ()
    expected = losses_of(logits.float(), foreground.float(), windows)[name]()
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_narrows_nothing(name):
    windows = make()
    loss = losses_of(*(t.detach().float() for t in case(windows)), windows)[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss().item(), rel=1e-6)


def test_equals_the_dense_reference_of_the_benchmark():
    windows = make([(0, 2, 3), (0, 4, 5), (0, -2, 2), (0, 7, 9)], shape=(1, *SHAPE[1:]))
    logits, foreground = case(windows)
    border = foreground.detach().flip(1).requires_grad_()
    locations = windows.origin.clamp_min(0) + 1.7
    made = foreground_of_instances(logits, windows, locations=locations, prior_px=2.0, prior_weight=2.0)
    found = {
        "foreground": ForegroundSharingLoss()(foreground, made),
        "instances": InstanceSharingLoss()(logits, windows, foreground),
        "border": BorderSharingLoss()(border, logits.sigmoid(), windows),
        "collapse": CollapseLoss()(logits.sigmoid(), windows),
    }
    expected = dense_sharing_losses(
        logits, windows.origin, locations, foreground[0], border[0], prior_px=2.0, prior_weight=2.0
    )
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-6), name
    for mine, theirs in zip(
        *(torch.autograd.grad(sum(d.values()), (logits, foreground, border)) for d in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("loss", [ForegroundSharingLoss, InstanceSharingLoss])
def test_an_unknown_mode_is_named(loss):
    with pytest.raises(ValueError, match="mode"):
        loss("both")
