# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_ext.functional.crf as crf
from monai_ext.functional.crf import VIEW_NORMAL, VIEWS, crf_energy, make_stencil


def affinity(image, *, radius, sigma_space, sigma_intensity, views, spacing):
    """Dense (n, n) affinity of one image (M, X, Y, Z), averaged over the views, straight from the definition."""
    coordinates = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape[1:]), indexing="ij"), -1).reshape(-1, 3)
    steps = coordinates[:, None] - coordinates[None]
    intensity = image.reshape(image.shape[0], -1)
    contrast = ((intensity[:, :, None] - intensity[:, None]) ** 2).sum(0)
    distance = ((steps * np.asarray(spacing)) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * sigma_space**2) - contrast / (2 * sigma_intensity**2))
    kernel[np.all(steps == 0, -1)] = 0
    total = np.zeros_like(kernel)
    for view in views:
        same_plane = steps[..., VIEW_NORMAL[view]] == 0
        total += kernel * (same_plane & (np.abs(steps).max(-1) <= radius))
    return total / len(views)


def reference(probs, image, *, radius=5, sigma_space=6.0, sigma_intensity=0.1, views=VIEWS, spacing=(1, 1, 1)):
    """The general C-class double sum and, per sample, the affinity."""
    settings = dict(sigma_space=sigma_space, sigma_intensity=sigma_intensity, views=views, spacing=spacing)
    kernels = [affinity(x, radius=radius, **settings) for x in image.double().numpy()]
    values = []
    for p, kernel in zip(probs.detach().double().flatten(2).numpy(), kernels, strict=True):
        values.append((kernel * (1 - p.T @ p)).sum() / 2 / p.shape[1])
    return np.mean(values), kernels


def random_case(shape, *, batch=1, classes=2, channels=1, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=dtype)
    image = 0.15 * torch.randn(batch, channels, *shape, generator=generator, dtype=dtype)
    return logits.softmax(1), image


def test_three_views_of_radius_five_are_165_half_offsets():
    stencil = make_stencil((64, 64, 48), radius=5, sigma_space=math.inf)
    weights = dict(zip(stencil.offsets, np.exp(stencil.log_weights), strict=True))
    assert len(weights) == 165
    assert all(tuple(-o for o in offset) not in weights for offset in weights)
    for offset, weight in weights.items():
        assert weight == pytest.approx(2 / 3 if offset.count(0) == 2 else 1 / 3)


def test_two_voxels_by_hand():
    probs = torch.tensor([0.9, 0.2], dtype=torch.float64).reshape(1, 1, 2, 1)
    image = torch.tensor([0.0, 0.1], dtype=torch.float64).reshape(1, 1, 2, 1)
    kernel = math.exp(-1 / 72 - 0.5)
    expected = kernel * (0.9 * 0.8 + 0.2 * 0.1) / 2
    assert crf_energy(probs, image).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("views", [VIEWS, ("axial",), ("sagittal",), ("coronal", "axial")])
@pytest.mark.parametrize(("shape", "radius"), [((5, 4, 3), 5), ((6, 5, 7), 2), ((1, 6, 4), 3), ((8, 1, 1), 2)])
def test_equals_the_dense_double_sum(shape, radius, views):
    probs, image = random_case(shape, batch=2)
    expected, _ = reference(probs, image, radius=radius, views=views)
    assert crf_energy(probs, image, radius=radius, views=views).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_any_number_of_classes_and_channels(classes):
    probs, image = random_case((4, 5, 3), batch=2, classes=max(classes, 2), channels=3)
    expected, _ = reference(probs, image, radius=2, sigma_intensity=0.3)
    given = probs[:, 1:] if classes == 1 else probs
    assert crf_energy(given, image, radius=2, sigma_intensity=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_two_dimensions_is_one_plane():
    probs, image = random_case((6, 7), batch=2)
    for spacing in (None, (2.0, 0.5)):
        mm = (1, 1, 1) if spacing is None else (*spacing, 1)
        expected, _ = reference(probs[..., None], image[..., None], radius=3, views=("axial",), spacing=mm)
        assert crf_energy(probs, image, radius=3, spacing=spacing).item() == pytest.approx(expected, rel=1e-12)


def test_spacing_scales_distance_but_not_the_window():
    probs, image = random_case((5, 4, 6))
    spacing = (0.5, 1.0, 3.0)
    expected, _ = reference(probs, image, radius=2, spacing=spacing)
    found = crf_energy(probs, image, radius=2, spacing=spacing).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert found != pytest.approx(crf_energy(probs, image, radius=2).item(), rel=1e-3)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_hard_constant_map_costs_nothing(constant):
    _, image = random_case((6, 5, 4))
    probs = torch.full((1, 1, 6, 5, 4), constant, dtype=torch.float64)
    assert crf_energy(probs, image).item() == pytest.approx(0, abs=1e-12)
    assert crf_energy(probs.float(), image.float()).item() == pytest.approx(0, abs=1e-4)


def test_a_constant_half_is_a_quarter_of_all_affinities():
    _, image = random_case((4, 4, 4))
    _, (kernel,) = reference(torch.full((1, 2, 4, 4, 4), 0.5), image)
    half = torch.full((1, 1, 4, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    energy = crf_energy(half, image)
    energy.backward()
    assert energy.item() == pytest.approx(kernel.sum() / 4 / 64, rel=1e-12)
    assert half.grad.abs().max() == 0  # the top of the hill


def test_unchanged_when_foreground_and_background_are_exchanged():
    probs, image = random_case((5, 6, 4))
    assert crf_energy(probs.flip(1), image).item() == pytest.approx(crf_energy(probs, image).item(), rel=1e-12)


def test_unchanged_by_mirroring_and_by_adding_to_the_intensity():
    probs, image = random_case((5, 6, 4))
    expected = crf_energy(probs, image, radius=2).item()
    for axis in (2, 3, 4):
        assert crf_energy(probs.flip(axis), image.flip(axis), radius=2).item() == pytest.approx(expected, rel=1e-12)
    assert crf_energy(probs, image + 7, radius=2).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_and_views_permute_together(order):
    probs, image = random_case((3, 5, 4))
    axes = (0, 1, *(2 + axis for axis in order))
    name = {axis: view for view, axis in VIEW_NORMAL.items()}
    for view in VIEWS:
        moved = name[order.index(VIEW_NORMAL[view])]
        expected = crf_energy(probs, image, radius=2, views=(view,)).item()
        found = crf_energy(probs.permute(axes), image.permute(axes), radius=2, views=(moved,)).item()
        assert found == pytest.approx(expected, rel=1e-12)


def test_three_views_are_the_mean_of_single_views():
    probs, image = random_case((5, 4, 6))
    single = [crf_energy(probs, image, views=(view,)).item() for view in VIEWS]
    assert crf_energy(probs, image).item() == pytest.approx(sum(single) / 3, rel=1e-12)


def test_closed_form_gradient_of_the_foreground():
    probs, image = random_case((4, 5, 3), batch=2)
    foreground = probs[:, 1:].clone().requires_grad_()
    crf_energy(foreground, image, radius=2).backward()
    _, kernels = reference(probs, image, radius=2)
    for p, kernel, gradient in zip(foreground.detach(), kernels, foreground.grad, strict=True):
        expected = kernel @ (1 - 2 * p.flatten().numpy()) / foreground.numel()
        assert np.allclose(gradient.flatten().numpy(), expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("shape", "classes"), [((4, 3, 3), 1), ((3, 4), 1), ((3, 2, 3), 3)])
def test_gradcheck(shape, classes):
    probs, image = random_case(shape, classes=max(classes, 2), channels=2)
    probs = (probs[:, 1:] if classes == 1 else probs).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: crf_energy(p, image, radius=2), probs)


def test_blocks_of_any_size_agree(monkeypatch):
    probs, image = random_case((5, 6, 7), batch=2)
    results = []
    for block in (10**6, 1, 13, 100):
        monkeypatch.setattr(crf, "_CPU_BLOCK", block)
        leaf = probs.clone().requires_grad_()
        energy = crf_energy(leaf, image, radius=3)
        energy.backward()
        results.append((energy.detach(), leaf.grad))
    for energy, gradient in results[1:]:
        assert torch.allclose(energy, results[0][0], rtol=1e-12)
        assert torch.allclose(gradient, results[0][1], rtol=1e-10)


def test_large_raw_intensities_do_not_reach_into_the_padding():
    probs, image = random_case((4, 5, 6))
    image = 1e6 * image
    expected, _ = reference(probs, image, radius=2)
    assert crf_energy(probs, image, radius=2).item() == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_one_voxel_has_no_pair():
    probs = torch.full((1, 2, 1, 1, 1), 0.5, requires_grad=True)
    energy = crf_energy(probs, torch.zeros(1, 1, 1, 1, 1))
    energy.backward()
    assert energy.item() == 0
    assert probs.grad.abs().max() == 0


def test_only_the_prediction_gets_a_gradient_and_only_a_first_one():
    probs, image = random_case((4, 4))
    probs, image = probs.requires_grad_(), image.requires_grad_()
    crf_energy(probs, image).backward()
    assert probs.grad.abs().max() > 0
    assert image.grad is None
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(crf_energy(probs, image), probs, create_graph=True)


def test_float32_inside_even_under_autocast():
    probs, image = random_case((8, 8, 6), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = crf_energy(probs, image)
    assert energy.dtype == torch.float32
    assert energy.item() == crf_energy(probs, image).item()
    leaf = probs.bfloat16().requires_grad_()
    crf_energy(leaf, image.bfloat16()).backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_meta_tensors_give_a_plain_scalar():
    probs, image = random_case((4, 4, 4))
    energy = crf_energy(MetaTensor(probs), MetaTensor(image))
    assert type(energy) is torch.Tensor
    assert energy.item() == crf_energy(probs, image).item()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 1, 4, 4, 5)}, "on one 2-D or 3-D grid"),
        ({"image": torch.zeros(2, 1, 4, 4, 4)}, "1 predictions for 2 images"),
        ({"radius": 0}, "radius >= 1"),
        ({"sigma_intensity": 0.0}, "positive sigma_space"),
        ({"views": ()}, "CRF views"),
        ({"views": ("axial", "axial")}, "CRF views"),
        ({"views": ("oblique",)}, "oblique"),
        ({"spacing": (1.0, 1.0)}, "3 positive numbers in mm"),
    ],
)
def test_bad_arguments_are_named(change, message):
    settings = {"image": torch.zeros(1, 1, 4, 4, 4), **change}
    with pytest.raises(ValueError, match=message):
        crf_energy(torch.zeros(1, 2, 4, 4, 4), settings.pop("image"), **settings)


@pytest.mark.gpu
def test_the_gpu_gives_the_cpu_gradient():
    probs, image = random_case((20, 18, 16), dtype=torch.float32)
    gradients = []
    for device in ("cpu", "cuda"):
        leaf = probs.detach().clone().to(device).requires_grad_()
        crf_energy(leaf, image.to(device)).backward()
        gradients.append(leaf.grad.cpu())
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)
