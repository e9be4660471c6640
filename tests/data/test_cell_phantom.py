# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from skimage.filters import threshold_otsu

from monai_ext.data.cell_phantom import CLICK_ERROR_PX, STYLES, cell_picture, draw_exposure
from monai_ext.functional.instances import centroids

SIZE = 128


@pytest.fixture(scope="module", params=STYLES)
def made(request):
    return [cell_picture(SIZE, rng=np.random.default_rng([0, n]), style=request.param) for n in range(4)]


def test_shapes_types_and_values(made):
    for picture, labels, points in made:
        assert (picture.shape, picture.dtype) == ((SIZE, SIZE), np.uint8)
        assert (labels.shape, labels.dtype) == ((SIZE, SIZE), np.uint16)
        assert (points.shape, points.dtype) == ((labels.max(), 2), np.float64)
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
        assert 0.05 < (labels > 0).mean() < 0.5


def test_each_cell_is_in_one_piece_and_has_its_click(made):
    for _, labels, points in made:
        _, centres = centroids(labels, inside=True)
        for number, ((x, y), centre) in enumerate(zip(points, centres, strict=True), start=1):
            assert label(labels == number)[1] == 1
            assert labels[round(y), round(x)] == number
            assert np.hypot(y - centre[0], x - centre[1]) <= CLICK_ERROR_PX + 1e-9
    errors = np.concatenate([points - centroids(labels, inside=True)[1][:, ::-1] for _, labels, points in made])
    assert np.hypot(*errors.T).mean() > 0.5


def test_some_cells_touch_and_the_border_cuts_some(made):
    def touching(labels):
        above, below = labels[:-1], labels[1:]
        return ((above != below) & (above > 0) & (below > 0)).any()

    assert sum(touching(labels) for _, labels, _ in made) >= 3
    assert sum(label(labels > 0)[1] < labels.max() for _, labels, _ in made) >= 3
    assert all(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).any() for _, labels, _ in made)


def test_a_threshold_finds_nuclei_but_neither_parts_them_nor_sees_unstained_cells():
    def dice(style):
        scores = []
        for n in range(4):
            picture, labels, _ = cell_picture(SIZE, rng=np.random.default_rng([1, n]), style=style)
            found = picture > threshold_otsu(picture)
            scores.append(2 * (found & (labels > 0)).sum() / (found.sum() + (labels > 0).sum()))
        return np.mean(scores)

    assert 0.7 < dice("nuclei") < 0.98
    assert dice("label_free") < 0.6


@pytest.mark.parametrize("diameter_px", [10.0, 30.0])
def test_cells_have_the_size_asked_for(diameter_px):
    exposure = draw_exposure(np.random.default_rng(0), diameter_px=diameter_px)
    assert 0.8 * diameter_px < exposure.diameter_px < 1.2 * diameter_px
    _, labels, _ = cell_picture(256, rng=np.random.default_rng(0), exposure=exposure)
    whole = np.setdiff1d(labels, np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    diameters = 2 * np.sqrt(np.bincount(labels.ravel())[whole[whole > 0]] / np.pi)
    assert diameters.mean() == pytest.approx(exposure.diameter_px, rel=0.2)
    assert diameters.std() > 0.1 * diameters.mean()


def test_fields_differ_and_seeds_repeat():
    exposures = [draw_exposure(np.random.default_rng(n)) for n in range(20)]
    assert np.std([exposure.light for exposure in exposures]) > 10
    one, again = (cell_picture(64, rng=np.random.default_rng(3), exposure=exposures[0]) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    other = cell_picture(64, rng=np.random.default_rng(3), exposure=exposures[1])
    assert not np.array_equal(one[0], other[0])


def test_a_picture_smaller_than_its_cells_has_one():
    for seed, size in zip(range(20), [8, 24] * 10, strict=True):
        _, labels, points = cell_picture(size, rng=np.random.default_rng(seed), diameter_px=40.0)
        assert labels.max() == len(points) >= 1
    with pytest.raises(ValueError, match="style is 'x'"):
        cell_picture(rng=np.random.default_rng(0), style="x")
