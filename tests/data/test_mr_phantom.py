# SPDX-License-Identifier: Apache-2.0
"""What the phantom volumes must look like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label

from monai_ext.data.mr_phantom import PhantomSpec, _smooth_field, phantom_volume

SMALL = {"shape": (32, 28, 20), "spacing_mm": (1.0, 1.0, 1.5)}


def components(mask):
    return label(mask, generate_binary_structure(3, 3))[1]


def best_threshold_dice(image, mask):
    scores = [
        2 * (mask[image > t]).sum() / ((image > t).sum() + mask.sum())
        for t in np.quantile(image, np.linspace(0, 1, 99))
    ]
    return max(scores)


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_volume_has_zero_surround_and_one_component_per_object(objects, seed):
    image, mask, affine = phantom_volume(**SMALL, objects=objects, rng=np.random.default_rng(seed))
    assert image.shape == mask.shape == (32, 28, 20)
    assert (image.dtype, mask.dtype) == (np.float32, np.uint8)
    assert np.isfinite(image).all()
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1], 0] == 0).all()
    assert 0.3 < (image == 0).mean() < 0.8
    assert (image[mask == 1] > 0).all()
    assert set(np.unique(mask)) == {0, 1}
    assert components(mask) == objects
    assert np.allclose(affine[:3, :3], np.diag([1, 1, 1.5]))
    assert not np.allclose(affine[:3, 3], 0)


@pytest.mark.parametrize("seed", range(3))
def test_target_is_brighter_than_its_surroundings_but_no_threshold_finds_it(seed):
    image, mask, _ = phantom_volume(rng=np.random.default_rng(seed))
    head = image[(image > 0) & (mask == 0)]
    assert np.median(image[mask == 1]) > np.quantile(head, 0.75)
    assert best_threshold_dice(image, mask) < 0.7


def test_best_threshold_dice_can_be_one():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    assert best_threshold_dice(mask * 5.0 + 1, mask) == 1


def test_same_generator_state_same_volume_and_another_differs():
    first, again, other = (phantom_volume(**SMALL, rng=np.random.default_rng(s))[0] for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_target_has_the_same_size_in_millimetres_on_an_anisotropic_grid():
    volumes = []
    for shape, spacing in (((48, 48, 48), (1, 1, 1)), ((48, 48, 16), (1, 1, 3)), ((24, 48, 48), (2, 1, 1))):
        mask = phantom_volume(shape=shape, spacing_mm=spacing, rng=np.random.default_rng(1))[1]
        volumes.append(mask.sum() * np.prod(spacing))
    assert volumes[1] == pytest.approx(volumes[0], rel=0.1)
    assert volumes[2] == pytest.approx(volumes[0], rel=0.1)


def test_each_number_of_the_look_acts():
    def draw(**look):
        look = {"bias": 0.0, "noise": 0.0, "texture": 0.0, **look}
        image, mask, _ = phantom_volume(**SMALL, spec=PhantomSpec(**look), rng=np.random.default_rng(2))
        return image[mask == 1], image[image > 0]

    inside, head = draw()
    assert inside.std() < 0.1 * inside.mean()
    assert draw(noise=0.4)[0].std() > 2 * inside.std()
    assert draw(texture=0.4)[0].std() > 2 * inside.std()
    ratio = draw(bias=0.4)[1] / head
    assert 0.2 < abs(ratio - 1).max() <= 0.4 + 1e-5
    assert draw(contrast=0.9)[0].mean() > 1.2 * inside.mean()
    assert (draw(nodules=30)[1] > 0.9 * head.max()).sum() > (head > 0.9 * head.max()).sum()


@pytest.mark.parametrize("wrong", [{"shape": (32, 32)}, {"shape": (32, 32, 8)}, {"objects": 0}, {"objects": 3}])
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        phantom_volume(**{**SMALL, **wrong}, rng=np.random.default_rng(0))


def test_texture_is_isotropic_in_millimetres():
    field = _smooth_field((48, 48, 32), np.array([1.0, 1.0, 3.0]), 3.0, np.random.default_rng(0))
    assert field.mean() == pytest.approx(0, abs=1e-9)
    assert field.std() == pytest.approx(1)
    # Noise smoothed by a Gaussian of width s correlates as exp(-d^2 / 4 s^2): at d = s = 3 mm that is exp(-1/4).
    assert np.mean(field * np.roll(field, 3, axis=0)) == pytest.approx(np.exp(-0.25), abs=0.05)
    assert np.mean(field * np.roll(field, 1, axis=2)) == pytest.approx(np.exp(-0.25), abs=0.05)
