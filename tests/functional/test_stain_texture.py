# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2hed

from monai_ext.functional.stain_texture import stain_texture, standardize


def tissue(haematoxylin, eosin, size=(40, 40)):
    """RGB of densities that are the same everywhere or maps."""
    density = np.zeros((*size, 3))
    density[..., 0], density[..., 1] = haematoxylin, eosin
    return (hed2rgb(density) * 255).round().astype(np.uint8)


def spots(period, size=40):
    """Dots of haematoxylin."""
    rows, columns = np.indices((size, size))
    return 0.2 * ((rows % period < period // 2) & (columns % period < period // 2))


def test_densities_by_hand():
    window = tissue(0.1, 0.05)
    found = stain_texture(window[None])[0]
    density = rgb2hed(window)
    assert found.shape == (40,)
    np.testing.assert_allclose(found[[0, 2, 4, 6]], density[0, 0, 0])
    np.testing.assert_allclose(found[[10, 14]], density[0, 0, 1])
    np.testing.assert_allclose(found[[1, 7, 8, 9, 11, 17]], 0, atol=1e-12)
    assert density[0, 0, 0] == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(found[20:30].sum(), 1)
    np.testing.assert_allclose(found[30:].sum(), 1)


def test_flips_and_quarter_turns_change_nothing_and_numbers_from_0_to_1_are_the_same():
    rng = np.random.default_rng(0)
    window = tissue(rng.random((40, 40)) * 0.2, 0.05)
    expected = stain_texture(window[None])
    for other in (window[::-1], window[:, ::-1], np.rot90(window), window / 255):
        np.testing.assert_allclose(stain_texture(other[None]), expected, atol=0.03)
    turned = stain_texture(np.rot90(window)[None])
    np.testing.assert_allclose(turned[:, :20], expected[:, :20])


def test_stains_and_textures_lie_apart():
    kinds = [tissue(0.1, 0.02), tissue(0.02, 0.1), tissue(spots(4), 0.02), tissue(spots(10), 0.02)]
    found = standardize(stain_texture(kinds))
    apart = np.linalg.norm(found[:, None] - found, axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 3


def test_standardize():
    features = np.array([[1.0, 5, 2], [3, 5, 8]])
    np.testing.assert_allclose(standardize(features), [[-1, 0, -1], [1, 0, 1]])
    quarters = np.array([[[2.0, 5, 5]] * 4])
    np.testing.assert_allclose(standardize(quarters, features), [[[0, 0, 0]] * 4])
