# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label as components
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

from monai_ext.data.histology_phantom import EPITHELIUM, LYMPHOID, STROMA, draw_tissue_stain, tissue_field

SIZE, DIAMETER_PX = 192, 20.0
BLUE, PINK = 0, 1


def stain_of(field):
    return draw_tissue_stain(np.random.default_rng([0, field]))


def border_of(labels):
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


def whole(labels):
    """The nuclei that the border does not cut."""
    return [one for one in regionprops(labels) if one.label not in border_of(labels)]


@pytest.fixture(scope="module")
def made():
    return [tissue_field(SIZE, rng=np.random.default_rng([1, n]), stain=stain_of(n)) for n in range(5)]


@pytest.fixture(scope="module")
def pure():
    """Of each kind of region, three pictures that hold nothing else."""
    stain, pictures = replace(stain_of(0), gaps=0.5), {}
    for kind in (LYMPHOID, EPITHELIUM, STROMA):
        only = replace(stain, shares=tuple(float(kind == other) for other in range(3)))
        pictures[kind] = [tissue_field(SIZE, rng=np.random.default_rng([2, n]), stain=only) for n in range(3)]
    return pictures


def test_shapes_types_and_numbers(made):
    for image, labels in made:
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((SIZE, SIZE), np.int32)
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
        assert labels.max() > 20
        assert 0.1 < (labels > 0).mean() < 0.65


def test_no_nucleus_is_a_sliver(made):
    """The least there is is the visible share, 0.3, of the smallest nucleus, 0.6 of a lymphoid one's width."""
    least = 0.3 * np.pi * (0.6 * 0.85 * DIAMETER_PX / 2) ** 2
    for _, labels in made:
        assert np.bincount(labels.ravel())[1:].min() >= np.floor(least)


def test_some_nuclei_touch_and_the_border_cuts_some(made):
    for _, labels in made:
        assert components(labels > 0)[1] < 0.9 * labels.max()
        assert 0.05 * labels.max() < np.unique(border_of(labels)).size - 1 < 0.6 * labels.max()


def test_nuclei_are_blue_violet_on_a_pink_ground(made):
    for n, (image, labels) in enumerate(made):
        density, inside = rgb2hed(image), labels > 0
        assert density[inside, BLUE].mean() > 2.5 * density[~inside, BLUE].mean()
        red, green, blue = image[inside].mean(axis=0)
        assert blue > red > green
        red, green, blue = image[~inside].mean(axis=0)
        assert red > blue > green
        assert white(image, stain_of(n))[inside].mean() < 0.003
        assert white(image, stain_of(n)).mean() < 0.15


def white(image, stain):
    return (image > 255 * stain.light - 14).all(axis=-1)


def test_torn_tissue_has_more_white_gaps():
    shares = []
    for gaps in (0.0, 1.0, 2.0):
        stain = replace(stain_of(0), gaps=gaps)
        pictures = [tissue_field(SIZE, rng=np.random.default_rng([3, n]), stain=stain)[0] for n in range(3)]
        shares.append(np.mean([white(image, stain).mean() for image in pictures]))
    assert shares[0] < 0.02 < shares[2]
    assert shares[0] < 0.6 * shares[1] < 0.6 * shares[2]


def test_kinds_of_regions_differ(pure):
    """Lymphoid nuclei are many, small, round and dark; epithelial ones large and pale; those of stroma few and thin."""
    count, width, thin, dark = ([], [], [], [])
    for kind in (LYMPHOID, EPITHELIUM, STROMA):
        nuclei = [one for _, labels in pure[kind] for one in whole(labels)]
        count.append(len(nuclei))
        width.append(np.mean([one.equivalent_diameter_area for one in nuclei]))
        thin.append(np.mean([one.axis_minor_length / one.axis_major_length for one in nuclei]))
        dark.append(np.mean([rgb2hed(image)[labels > 0, BLUE].mean() for image, labels in pure[kind]]))
    assert count[LYMPHOID] > 1.8 * count[EPITHELIUM] > 1.8 * count[STROMA] > 0
    assert width[EPITHELIUM] > 1.3 * width[LYMPHOID]
    assert thin[STROMA] < 0.45 < 0.6 < thin[EPITHELIUM] < thin[LYMPHOID]
    assert dark[LYMPHOID] > 1.3 * dark[EPITHELIUM]


def test_patches_of_one_picture_differ_so_that_choosing_matters(made, pure):
    def spread(pictures):
        """Mean over pictures of how much the number of nuclei varies between its nine patches, relatively."""
        scores = []
        for _, labels in pictures:
            patches = labels.reshape(3, SIZE // 3, 3, SIZE // 3).swapaxes(1, 2).reshape(9, -1)
            counts = np.array([np.unique(patch[patch > 0]).size for patch in patches])
            scores.append(counts.std() / counts.mean())
        return np.mean(scores)

    assert spread(made) > 1.4 * spread(pure[LYMPHOID] + pure[EPITHELIUM])


def test_fibroblasts_lie_along_each_other(pure):
    """Of neighbours in stroma; in lymphoid tissue directions are any, so that the mean cosine is about 0."""

    def alignment(pictures):
        cosines = []
        for _, labels in pictures:
            nuclei = whole(labels)
            for one in nuclei:
                far = [np.hypot(*np.subtract(one.centroid, other.centroid)) or np.inf for other in nuclei]
                cosines.append(np.cos(2 * (one.orientation - nuclei[int(np.argmin(far))].orientation)))
        return np.mean(cosines)

    assert alignment(pure[STROMA]) > 0.7
    assert abs(alignment(pure[LYMPHOID])) < 0.4


def test_some_nuclei_are_pale(pure):
    densities = []
    for image, labels in pure[LYMPHOID]:
        blue = rgb2hed(image)[..., BLUE]
        densities += [blue[labels == one.label].mean() for one in whole(labels)]
    pale = np.array(densities) < 0.65 * np.median(densities)
    assert 0.02 < pale.mean() < 0.3


def test_a_threshold_sees_nuclei_but_does_not_part_them(made):
    dice, parted, nuclei = [], 0, 0
    for image, labels in made:
        blue, inside = rgb2hed(image)[..., BLUE], labels > 0
        found = blue > threshold_otsu(blue)
        dice.append(2 * (found & inside).sum() / (found.sum() + inside.sum()))
        parts, count = components(found)
        overlap = np.histogram2d(parts.ravel(), labels.ravel(), (np.arange(count + 2), np.arange(labels.max() + 2)))[0]
        union = overlap.sum(1, keepdims=True) + overlap.sum(0) - overlap
        parted += ((overlap / union)[1:, 1:].max(axis=0) > 0.5).sum()
        nuclei += labels.max()
    assert 0.7 < np.mean(dice) < 0.95
    assert 0.2 < parted / nuclei < 0.75


def test_densities_weaken_the_light_by_the_law_of_beer_and_lambert():
    """On a slide that is the same but stained half, -log of what is left of the light is half, noise apart."""
    clean = replace(stain_of(0), blur_px=1e-3, light=np.full(3, 0.95))
    pictures = [
        tissue_field(SIZE, rng=np.random.default_rng(3), stain=replace(clean, strength=strength))[0] / 255
        for strength in (1.0, 0.5)
    ]
    full, half = (-np.log10(np.clip(picture, 1e-2, None) / 0.95) for picture in pictures)
    seen = (full > 0.3) & (full < 0.8)
    assert seen.sum() > 500
    assert (full[seen] / half[seen]).mean() == pytest.approx(2, rel=0.03)


def test_stains_differ_from_field_to_field():
    stains = [stain_of(n) for n in range(20)]
    for stain in stains:
        assert np.linalg.norm(stain.haematoxylin) == pytest.approx(1)
        assert np.linalg.norm(stain.eosin) == pytest.approx(1)
        assert stain.haematoxylin[0] > stain.eosin[0]  # haematoxylin takes red light away, eosin green
        assert stain.eosin[1] == stain.eosin.max()
        assert sum(stain.shares) == pytest.approx(1)
        assert min(stain.shares) >= 0.15
    assert np.std([stain.strength for stain in stains]) > 0.05
    assert np.std([stain.haematoxylin for stain in stains], axis=0).min() > 0.01
    assert np.std([stain.shares for stain in stains], axis=0).min() > 0.05


def test_the_random_state_decides_all_and_colours_no_label():
    first, again = (tissue_field(64, rng=np.random.default_rng(3), stain=stain_of(0)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    drawn, redrawn = (tissue_field(64, rng=np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, redrawn, strict=True))
    other_colours = replace(stain_of(1), shares=stain_of(0).shares, gaps=stain_of(0).gaps)
    image, labels = tissue_field(64, rng=np.random.default_rng(3), stain=other_colours)
    assert np.array_equal(labels, first[1])
    assert not np.array_equal(image, first[0])
    assert not np.array_equal(tissue_field(64, rng=np.random.default_rng(4), stain=stain_of(0))[1], first[1])


def test_each_nucleus_is_one_piece(made):
    """Also small ones, of which a neighbour more often leaves two pieces: there the larger is kept."""
    small = [tissue_field(96, rng=np.random.default_rng([9, n]), diameter_px=5.0) for n in range(9)]
    for _, labels in made + small:
        for number in range(1, labels.max() + 1):
            assert components(labels == number)[1] == 1


@pytest.mark.parametrize("diameter_px", [10.0, 20.0, 34.0])
def test_nuclei_have_the_size_asked_for(diameter_px):
    stain = replace(stain_of(0), shares=(0.3, 0.4, 0.3))
    _, labels = tissue_field(
        round(10 * diameter_px), rng=np.random.default_rng(0), stain=stain, diameter_px=diameter_px
    )
    widths = np.array([one.equivalent_diameter_area for one in whole(labels)])
    assert widths.mean() == pytest.approx(diameter_px, rel=0.2)
    assert widths.std() > 0.1 * diameter_px


@pytest.mark.parametrize(("size", "diameter_px"), [(8, 20.0), (16, 60.0), (40, 12.0), (50, 4.0)])
def test_other_sizes_have_a_nucleus(size, diameter_px):
    for seed in range(8):
        image, labels = tissue_field(size, rng=np.random.default_rng(seed), diameter_px=diameter_px)
        assert (image.shape, labels.shape) == ((size, size, 3), (size, size))
        assert labels.max() >= 1
        assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))
