# SPDX-License-Identifier: Apache-2.0
"""Windows against the whole image, MONAI's watershed, and nuclei that touch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.apps.pathology.transforms import HoVerNetInstanceMapPostProcessing
from monai.data import MetaTensor
from scipy import ndimage

from monai_ext.inferers import HoVerLabelMapInferer
from monai_ext.inferers.hover import watershed_of_hover
from monai_ext.transforms import HoVerTargetd

NUCLEI, MAPS = "nucleus_prediction", "horizontal_vertical"
MODES = [(270, 80), (256, 164)]


def middle(window, answer):
    first = (window.shape[-1] - answer) // 2
    return window[..., first : first + answer, first : first + answer]


class Echo:
    """Answers what the picture shows: its first two channels are the logits, the others the maps."""

    def __init__(self, window_px=270, answer_px=80):
        self.window_px, self.answer_px, self.seen = window_px, answer_px, 0

    def __call__(self, image):
        assert image.shape[2:] == (self.window_px, self.window_px)
        self.seen += len(image)
        image = middle(image, self.answer_px)
        return {NUCLEI: image[:, :2], MAPS: image[:, 2:4]}


def pictures_of(labels, logit=8.0):
    """A picture (1, 4, X, Y) that shows perfect answers for a label map."""
    side = max(labels.shape)
    square = np.zeros((side, side), np.int32)
    square[: labels.shape[0], : labels.shape[1]] = labels
    target = HoVerTargetd(answer_px=side)({"label": torch.from_numpy(square)[None]})["target"]
    both = torch.cat([logit * (2 * target[NUCLEI] - 1), target[MAPS]])
    return both[None, :, : labels.shape[0], : labels.shape[1]]


def discs(sides, *places):
    first, second = np.indices(sides)
    labels = np.zeros(sides, np.int32)
    for number, (i, j, radius) in enumerate(places, start=1):
        labels[((first - i) ** 2 + (second - j) ** 2 <= radius**2) & (labels == 0)] = number
    return labels


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sides", [(130, 205), (80, 164), (60, 300), (240, 81)])
def test_stitched_answers_are_the_pictures_own(sides, mode):
    image, network = torch.randn(2, 4, *sides), Echo(*mode)
    answers = HoVerLabelMapInferer(*mode, windows=3).answers(image, network)
    for name, channels in ((NUCLEI, slice(0, 2)), (MAPS, slice(2, 4))):
        assert torch.equal(answers[name][:, :, : sides[0], : sides[1]], image[:, channels])
    assert network.seen == 2 * np.prod([max(1, -(-side // mode[1])) for side in sides]), "windows tile the image"


@pytest.mark.parametrize("sides", [(100, 170), (30, 9)])
def test_windows_show_mirrors_beyond_the_border(sides):
    """A network that takes the mean of all that its window shows around a pixel."""
    window, answer = 32, 10
    reach = (window - answer) // 2

    def mean(image):
        means = F.avg_pool2d(image, 2 * reach + 1, stride=1)
        return {NUCLEI: means[:, :2], MAPS: means[:, 2:]}

    image = torch.randn(1, 4, *sides)
    found = HoVerLabelMapInferer(window, answer).answers(image, mean)
    wide = np.pad(image.numpy(), [(0, 0), (0, 0), (reach, reach), (reach, reach)], mode="symmetric")
    expected = mean(torch.from_numpy(wide))
    for name, value in expected.items():
        torch.testing.assert_close(found[name][:, :, : sides[0], : sides[1]], value, atol=1e-5, rtol=0)


def test_nuclei_that_touch_are_parted():
    labels = discs((150, 170), (40, 40, 14), (40, 66, 13), (62, 52, 14), (120, 160, 12), (149, 20, 10))
    assert ndimage.label(labels)[1] == 3
    found = HoVerLabelMapInferer()(pictures_of(labels), Echo())[0, 0].numpy()
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(found > 0, labels > 0)
    for number in range(1, 6):
        assert max(overlap(labels == number, found == other) for other in range(1, 6)) > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.6])
def test_the_watershed_is_monais(noise):
    """With the kernel of HoVer-Net's released code."""
    labels = discs((120, 110), (30, 30, 12), (30, 52, 11), (52, 40, 12), (90, 80, 15), (118, 20, 9))
    torch.manual_seed(0)
    logits, maps = (part + noise * torch.randn(part.shape) for part in pictures_of(labels, 1.0)[0].split(2))
    expected = HoVerNetInstanceMapPostProcessing(sobel_kernel_size=21)(logits, maps)[1]
    found = watershed_of_hover(logits, maps)
    np.testing.assert_array_equal(found, np.asarray(expected)[0])
    assert found.max() > 3


def test_numbers_fall_with_the_score_which_is_the_mean_probability():
    labels = discs((120, 140), (30, 30, 10), (30, 100, 12), (90, 60, 11))
    image = pictures_of(labels)
    for number, logit in ((1, 1.0), (2, 4.0), (3, 0.5)):
        image[0, 1][torch.from_numpy(labels == number)] = logit
    image[0, 0][torch.from_numpy(labels > 0)] = 0
    image[0, 1, 30, 30] = 6  # one pixel does not make a nucleus the best
    numbers, scores = HoVerLabelMapInferer()(image, Echo())[0].numpy()
    assert [numbers[30, 31], numbers[30, 100], numbers[90, 60], numbers[0, 0]] == [2, 1, 3, 0]
    probability = image[0, :2].softmax(0)[1].numpy()
    for number in (1, 2, 3):
        assert np.unique(scores[numbers == number]) == pytest.approx(probability[numbers == number].mean(), abs=1e-6)
    assert not scores[numbers == 0].any()


@pytest.mark.parametrize("sides", [(7, 5), (1, 1), (40, 300)])
@pytest.mark.parametrize("what", ["background", "constant maps", "noise"])
def test_any_picture_has_an_answer(sides, what):
    torch.manual_seed(0)
    image = torch.randn(1, 4, *sides)
    if what == "background":
        image[:, 0], image[:, 1] = 5, -5
    if what == "constant maps":
        image[:, 0], image[:, 1], image[:, 2:] = -5, 5, 0.5
    found = HoVerLabelMapInferer()(image, Echo())
    assert found.shape == (1, 2, *sides)
    assert found.dtype == torch.float32
    assert what == "noise" or not found.any()


def test_a_batch_and_where_it_came_from():
    first, second = discs((90, 90), (30, 30, 10)), discs((90, 90), (60, 30, 10), (60, 70, 10))
    images = MetaTensor(torch.cat([pictures_of(first), pictures_of(second)]), meta={"filename_or_obj": "a.png"})
    found = HoVerLabelMapInferer()(images, Echo())
    assert isinstance(found, MetaTensor)
    assert found.meta["filename_or_obj"] == "a.png"
    assert found[:, 0].amax((1, 2)).tolist() == [1, 2]


@pytest.mark.parametrize("sides", [(80, 81), (81, 80), (80, 0)])
def test_an_answer_that_is_not_the_windows_middle(sides):
    with pytest.raises(ValueError, match="window_px, answer_px: found"):
        HoVerLabelMapInferer(*sides)
