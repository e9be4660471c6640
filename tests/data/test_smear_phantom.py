# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as components

from monai_ext.data.smear_phantom import CYTOPLASM, NUCLEUS, draw_smear_stain, smear_field

SIZE = 192


def stain_of(field):
    return draw_smear_stain(np.random.default_rng([0, field]))


@pytest.fixture(scope="module")
def made():
    return [smear_field(SIZE, rng=np.random.default_rng([1, n]), stain=stain_of(n)) for n in range(6)]


def masks_of(instances, kind):
    return np.array([mask for one, mask in instances if one == kind])


def best_iou(grey, truth):
    return max((found & truth).sum() / (found | truth).sum() for found in (grey < t for t in np.unique(grey)))


def test_shapes_types_and_classes(made):
    for image, instances in made:
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        assert {kind for kind, _ in instances} == {CYTOPLASM, NUCLEUS} == {1, 2}
        for _, mask in instances:
            assert (mask.shape, mask.dtype) == ((SIZE, SIZE), bool)
            assert mask.any()
        assert 0.15 < masks_of(instances, CYTOPLASM).any(axis=0).mean() < 0.9


def test_cytoplasm_holds_the_nuclei_that_follow_it(made):
    inside = naked = 0
    for _, instances in made:
        owner, followers = None, 0
        for kind, mask in instances:
            if kind == CYTOPLASM:
                owner, followers = mask, 0
                continue
            contained = owner is not None and not (mask & ~owner).any()
            inside, naked = inside + contained, naked + (not contained)
            followers += contained
            assert followers <= 2
    assert inside > 10 * naked


def test_cells_overlap_and_the_border_cuts_some(made):
    for _, instances in made:
        cytoplasm = masks_of(instances, CYTOPLASM)
        depth = cytoplasm.sum(axis=0)
        assert (depth > 1).sum() > 0.1 * (depth > 0).sum()
        assert components(depth > 0)[1] < len(cytoplasm)  # parts of the union are no cells
    edges = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for _, ins in made for mask in masks_of(ins, CYTOPLASM)]
    assert 0.1 < np.mean(edges) < 0.9


def test_an_overlap_is_darker_and_a_nucleus_darkest(made):
    """Absorbances add, so that grey values fall from glass over one cell and two cells to nuclei, in each picture."""
    for image, instances in made:
        grey, depth = image.mean(axis=-1), masks_of(instances, CYTOPLASM).sum(axis=0)
        nuclei = masks_of(instances, NUCLEUS).any(axis=0)
        means = [grey[(depth == cells) & ~nuclei].mean() for cells in (0, 1, 2)] + [grey[nuclei].mean()]
        assert (np.diff(means) < -3).all()


def test_absorbances_add_to_the_light_that_is_left():
    """On a slide that is the same but stained half, -log of what is left of the light is half, noise apart."""
    clean = replace(stain_of(0), shading=0.0, dirt=0.0, blur_px=1e-3, strength=1.0, light=np.full(3, 0.9))
    pictures = [
        smear_field(SIZE, rng=np.random.default_rng(3), stain=replace(clean, strength=strength))[0] / 255
        for strength in (1.0, 0.5)
    ]
    whole, half = (-np.log10(np.clip(picture, 1e-2, None) / 0.9) for picture in pictures)
    seen = (whole > 0.3) & (whole < 0.9)
    assert seen.sum() > 500
    assert (whole[seen] / half[seen]).mean() == pytest.approx(2, rel=0.05)


def test_no_threshold_finds_cytoplasm_or_parts_cells(made):
    """Not the best grey level for each picture, nor one for all; and few cells are ever a part by themselves."""
    greys = np.array([image.mean(axis=-1).round() for image, _ in made])
    truths = np.array([masks_of(instances, CYTOPLASM).any(axis=0) for _, instances in made])
    assert 0.4 < best_iou(greys, truths) < 0.75
    assert 0.5 < np.mean([best_iou(grey, truth) for grey, truth in zip(greys, truths, strict=True)]) < 0.8
    parted = cells = 0
    for grey, (_, instances) in zip(greys, made, strict=True):
        cytoplasm = masks_of(instances, CYTOPLASM)
        cells += len(cytoplasm)
        hits = np.zeros(len(cytoplasm), dtype=bool)
        for level in np.quantile(grey, np.linspace(0.05, 0.7, 14)):
            parts, count = components(grey < level)
            for part in (parts == number for number in range(1, count + 1)):
                if part.sum() > 100:
                    hits |= (cytoplasm & part).sum((1, 2)) > 0.5 * (cytoplasm | part).sum((1, 2))
        parted += hits.sum()
    assert parted < 0.45 * cells


def test_dark_is_not_yet_a_nucleus():
    """White blood cells and folds are as dark: the best grey level finds nuclei with many mistakes."""
    dirty = [replace(stain_of(n), dirt=1.8) for n in range(4)]
    scores = []
    for n, stain in enumerate(dirty):
        image, instances = smear_field(SIZE, rng=np.random.default_rng([2, n]), stain=stain)
        scores.append(best_iou(image.mean(axis=-1).round(), masks_of(instances, NUCLEUS).any(axis=0)))
    assert 0.2 < np.mean(scores) < 0.75


def test_stains_differ_and_colour_the_cells():
    stains = [stain_of(n) for n in range(20)]
    for stain in stains:
        for vector in (stain.cyanophilic, stain.orangeophilic, stain.haematoxylin):
            assert np.linalg.norm(vector) == pytest.approx(1)
        assert stain.cyanophilic[0] > stain.cyanophilic[2]  # blue-green takes red light away, orange blue
        assert stain.orangeophilic[2] > stain.orangeophilic[0]
    assert np.std([stain.strength for stain in stains]) > 0.05
    redness = []
    for orange in (0.0, 1.0):
        stain = replace(stains[0], orange=orange, dirt=0.0)
        image, instances = smear_field(SIZE, rng=np.random.default_rng(4), stain=stain)
        body = binary_erosion(masks_of(instances, CYTOPLASM).any(axis=0), iterations=3)
        red, _, blue = image[body & ~masks_of(instances, NUCLEUS).any(axis=0)].mean(axis=0)
        redness.append(red - blue)
    assert redness[0] < 0 < redness[1]


def test_fields_differ_as_much_as_is_asked_for():
    one, wide, same = ([draw_smear_stain(np.random.default_rng(n), spread=s) for n in range(60)] for s in (1, 2, 0))
    for key, ratio in (("strength", 2), ("dirt", 1.6), ("blur_px", 1.8)):
        first, second = (np.std([getattr(stain, key) for stain in stains]) for stains in (one, wide))
        assert ratio * 0.9 < second / first < 2.01
        assert np.std([getattr(stain, key) for stain in same]) < 1e-9
    assert min(stain.blur_px for stain in wide) >= 0.3
    hues = [np.std([stain.cyanophilic for stain in stains], axis=0).mean() for stains in (one, wide, same)]
    assert hues[0] * 1.5 < hues[1]
    assert hues[2] < 1e-9
    assert draw_smear_stain(np.random.default_rng(0), spread=9.0).light.max() <= 0.98


def test_the_random_state_decides_all_and_the_stain_no_mask():
    first, again = (smear_field(64, rng=np.random.default_rng(3), stain=stain_of(0)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(first[1], again[1], strict=True))
    darker = smear_field(64, rng=np.random.default_rng(3), stain=replace(stain_of(0), strength=1.6))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first[1], darker[1], strict=True))
    assert darker[0].mean() < first[0].mean()
    other = smear_field(64, rng=np.random.default_rng(4), stain=stain_of(0))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("size", "diameter_px"), [(48, 20.0), (96, 24.0), (130, 60.0)])
def test_other_sizes(size, diameter_px):
    for seed in range(6):
        image, instances = smear_field(size, rng=np.random.default_rng(seed), diameter_px=diameter_px)
        assert image.shape == (size, size, 3)
        assert {kind for kind, _ in instances} == {CYTOPLASM, NUCLEUS}
    whole = [m for m in masks_of(instances, CYTOPLASM) if not (m[[0, -1]].any() or m[:, [0, -1]].any())]
    widths = 2 * np.sqrt([mask.sum() / np.pi for mask in whole])
    assert 0.5 * diameter_px < np.mean(widths) < 1.4 * diameter_px
