# SPDX-License-Identifier: Apache-2.0
"""HoVer-Net's targets against loops over nuclei, and what of a patch can be learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, SpatialCropd

from monai_ext.transforms import HoVerTargetd

OVERLAY = Path(__file__).parents[2] / "bundles/cps_csingan/configs/hover_net.json"

NUCLEI, MAPS = "nucleus_prediction", "horizontal_vertical"


def target_of(labels, answer_px):
    out = HoVerTargetd(answer_px=answer_px)({"label": torch.as_tensor(labels)[None], "image": 0})
    assert out.keys() == {"target", "image"}
    return out["target"]


def discs(side, *places):
    """A label map with discs (first, second, radius), numbered with gaps."""
    first, second = np.indices((side, side))
    labels = np.zeros((side, side), np.int32)
    for number, (i, j, radius) in enumerate(places):
        labels[(first - i) ** 2 + (second - j) ** 2 <= radius**2] = 3 * number + 2
    return labels


def slow_maps(labels):
    """For each nucleus and axis its distances from the centre, each side divided by its largest."""
    maps = np.zeros((2, *labels.shape))
    for number in np.unique(labels[labels > 0]):
        pixels = np.argwhere(labels == number)
        for channel, axis in ((0, 1), (1, 0)):
            centre = pixels[:, axis].mean()
            lowest, highest = pixels[:, axis].min() - centre, pixels[:, axis].max() - centre
            for pixel in pixels:
                distance = pixel[axis] - centre
                largest = highest if distance > 0 else -lowest
                maps[(channel, *pixel)] = distance / largest if largest else 0
    return maps


def test_maps_equal_a_loop_over_pixels():
    labels = discs(60, (10, 12, 6), (30, 30, 9), (30, 40, 7), (50, 8, 1))
    target = target_of(labels, 60)
    np.testing.assert_allclose(target[MAPS].numpy(), slow_maps(labels), atol=1e-6)
    assert torch.equal(target[NUCLEI], torch.from_numpy(np.stack([labels == 0, labels > 0])).float())
    assert {value.dtype for value in target.values()} == {torch.float32}


def test_first_map_runs_along_the_last_axis():
    labels = np.zeros((5, 5), np.int32)
    labels[1, 1:4] = 7
    target = target_of(labels, 5)
    assert target[MAPS][0, 1].tolist() == [0, -1, 0, 1, 0]
    assert not target[MAPS][1].any()
    assert torch.equal(target_of(labels.T.copy(), 5)[MAPS], target[MAPS].flip(0).transpose(1, 2))


def test_the_middle_is_cut_from_maps_of_the_whole():
    """A nucleus that reaches beyond the middle keeps its centre; one outside is not there."""
    labels = discs(40, (20, 10, 6), (3, 3, 3))
    target = target_of(labels, 20)
    np.testing.assert_allclose(target[MAPS].numpy(), slow_maps(labels)[:, 10:30, 10:30], atol=1e-6)
    assert target[NUCLEI][1].sum() == (labels[10:30, 10:30] > 0).sum()
    assert target[MAPS][0, :, 0].min() >= 0, "pixels of the left half lie outside"


def test_each_piece_of_a_number_is_a_nucleus():
    """Mirrors show a nucleus twice; corners that touch hold it together."""
    labels = np.zeros((9, 9), np.int32)
    labels[0:2, 0:3], labels[6:8, 5:8], labels[8, 8] = 4, 4, 4
    apart = labels.copy()
    apart[6:, 5:][apart[6:, 5:] > 0] = 5
    np.testing.assert_allclose(target_of(labels, 9)[MAPS].numpy(), slow_maps(apart), atol=1e-6)


def test_no_nucleus():
    target = target_of(np.zeros((12, 12), np.int32), 8)
    assert not target[MAPS].any()
    assert torch.equal(target[NUCLEI], torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]))


@pytest.mark.parametrize("shape", [(2, 9, 9), (9, 9), (1, 9, 7)])
def test_shapes(shape):
    with pytest.raises(ValueError, match="label: found shape"):
        HoVerTargetd(answer_px=8)({"label": torch.zeros(shape, dtype=torch.int32)})


def padding(window, answer):
    """The overlay's, before its random crop."""
    parser = ConfigParser(json.loads(OVERLAY.read_text()))
    parser.update({"window_px": window, "answer_px": answer})
    return Compose(parser.get_parsed_content("crop")[:-1])


@pytest.mark.parametrize("sides", [(30, 50), (9, 4), (64, 64)])
def test_pictures_and_labels_are_mirrored_alike(sides):
    """However small they are, where torch's own mirrors stop."""
    picture = torch.randint(0, 255, (3, *sides), dtype=torch.uint8)
    labels = torch.randint(0, 5, (1, *sides), dtype=torch.int32)
    out = padding(60, 34)({"image": picture, "label": labels})
    more = [max(60 - side - 26, 0) for side in sides]
    for key, array in (("image", picture), ("label", labels)):
        expected = np.pad(array.numpy(), [(0, 0), (13, 13), (13, 13)], mode="symmetric")
        width = [(0, 0), *((some // 2, some - some // 2) for some in more)]
        np.testing.assert_array_equal(out[key].numpy(), np.pad(expected, width, mode="symmetric"))


def test_each_pixel_of_a_patch_can_be_learnt_and_none_beyond():
    """The first crop's answer begins at the patch's first pixel, the last one's ends at its last."""
    window, answer, side = 28, 8, 20
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (1, side, side)).astype(np.int32))
    padded = padding(window, answer)({"image": labels, "label": labels})["label"]
    assert padded.shape[1] - window == side - answer
    for start in range(side - answer + 1):
        crop = SpatialCropd("label", roi_start=(start, start), roi_end=(start + window, start + window))
        target = HoVerTargetd(answer_px=answer)(crop({"label": padded}))["target"]
        assert torch.equal(target[NUCLEI][1], labels[0, start : start + answer, start : start + answer].float())
