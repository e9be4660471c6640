# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.color import rgb2hsv

from monai_ext.transforms import StrongPhotometricd

NONE = {
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "posterize_prob": 0.0, "autocontrast_prob": 0.0, "equalize_prob": 0.0, "blur_kernel": 0,
}  # fmt: skip
DAB = (0.55, 0.35, 0.2)


@pytest.fixture
def image():
    return MetaTensor(torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0)), meta={"a": 1})


def view(image, *, seed=0, **options):
    transform = StrongPhotometricd("image", **options)
    transform.set_random_state(seed)
    return transform({"image": image})["image"]


def test_nothing_asked_for_changes_nothing(image):
    torch.testing.assert_close(view(image, **NONE).as_tensor(), image.as_tensor(), atol=1e-6, rtol=0)


def test_a_view_keeps_its_place_its_range_and_its_meta(image):
    for seed in range(20):
        found = view(image, seed=seed)
        assert isinstance(found, MetaTensor)
        assert found.meta["a"] == 1
        assert (found.shape, found.dtype) == (image.shape, torch.float32)
        assert 0 <= found.min() <= found.max() <= 1
        assert not torch.equal(found, image)


def test_regions_stay_regions():
    """Where colours are constant but for one edge, so is every view, beyond the reach of the blur."""
    image = torch.tensor(DAB)[:, None, None].expand(3, 16, 16).clone()
    image[:, :, 8:] = torch.tensor([0.3, 0.4, 0.7])[:, None, None]
    for seed in range(10):
        found = view(image, seed=seed)
        for side in (found[:, :, :7], found[:, :, 9:]):
            torch.testing.assert_close(side, side[:, :1, :1].expand_as(side), atol=1e-5, rtol=0)


def test_own_random_numbers_decide(image):
    torch.manual_seed(0)
    first = view(image, seed=3)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    np.random.seed(5)
    assert torch.equal(first, view(image, seed=3))
    assert not torch.equal(first, view(image, seed=4))
    torch.manual_seed(0)
    view(image, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # torch's numbers are not touched


@pytest.mark.parametrize("hue", [0.0, 0.02, 0.25])
def test_brown_turns_by_hue_at_most(hue):
    image = torch.tensor(DAB)[:, None, None].expand(3, 4, 4)
    turns = []
    for seed in range(40):
        found = view(image, seed=seed, **(NONE | {"hue": hue}))
        turn = rgb2hsv(found.permute(1, 2, 0).numpy())[0, 0, 0] - rgb2hsv(np.array(DAB)[None, None])[0, 0, 0]
        turns.append((turn + 0.5) % 1 - 0.5)
    assert np.abs(turns).max() <= hue + 1e-3
    assert np.abs(turns).max() >= 0.8 * hue


def test_brightness_by_hand():
    image = torch.full((3, 4, 4), 0.4)
    values = [view(image, seed=seed, **(NONE | {"brightness": 0.5}))[0, 0, 0].item() for seed in range(60)]
    assert 0.2 <= min(values) < 0.23
    assert 0.57 < max(values) <= 0.6


def test_occasional_operations_come_as_often_as_asked(image):
    changed = [
        not torch.equal(view(image, seed=seed, **(NONE | {"equalize_prob": 0.2})), view(image, seed=seed, **NONE))
        for seed in range(300)
    ]
    assert 0.12 < np.mean(changed) < 0.28
    few = view(image, **(NONE | {"posterize_prob": 1.0, "posterize_bits": 2}))
    assert len(few.unique()) <= 4
    wide = view(0.3 + 0.2 * image, **(NONE | {"autocontrast_prob": 1.0}))
    assert (wide.min().item(), wide.max().item()) == pytest.approx((0, 1), abs=1e-5)


def test_a_view_of_a_view(image):
    options = NONE | {"brightness": 0.5}
    transform = StrongPhotometricd(["image", "a"], ["a", "b"], **options).set_random_state(2)
    out = transform({"image": image * 0.3, "name": "x"})
    assert out["name"] == "x"
    torch.testing.assert_close(out["image"].as_tensor(), image.as_tensor() * 0.3)
    first, second = (out[to].mean() / out[of].mean() for of, to in (("image", "a"), ("a", "b")))
    torch.testing.assert_close(out["a"], first * out["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out["b"], second * out["a"], atol=1e-5, rtol=0)
    assert first != pytest.approx(second.item())


def test_what_is_refused(image):
    with pytest.raises(ValueError, match="values from 0 to 255"):
        view(torch.tensor([0.0, 255.0]).expand(3, 4, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 20, 24\)"):
        view(image[:1])
    with pytest.raises(ValueError, match="hue"):
        StrongPhotometricd("image", hue=0.6)
    with pytest.raises(ValueError, match="output_keys"):
        StrongPhotometricd("image", ["a", "b"])
