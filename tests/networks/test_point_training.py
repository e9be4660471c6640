# SPDX-License-Identifier: Apache-2.0
"""Where cells are segmented in training: at the detection that stands in for the point, or at the point."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.networks import ConvNeXtFPN, PointInstanceNet, PointTraining

WINDOW = 16


def make(*, replace_px=12.0, **kwargs):
    torch.manual_seed(0)
    backbone = ConvNeXtFPN(size="micro", channels=8, stochastic_depth=0.0)
    options = {"channels": 8, "mask_channels": 6, "window_px": WINDOW} | kwargs
    return PointTraining(PointInstanceNet(backbone, **options), replace_px=replace_px)


def seeing(training, *detections):
    """Its detector finds (image, location, score) and nothing else."""
    image, locations, scores = zip(*detections, strict=True)
    found = torch.tensor(locations), torch.tensor(scores), torch.tensor(image)
    training.network.locate = lambda *_: found
    return training


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
POINTS = torch.tensor([(20.0, 20.0), (50.0, 40.0), (20.0, 20.0)])
OF_IMAGE = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(("away", "replaced"), [(11.9, True), (12.1, False)])
def test_a_detection_stands_in_up_to_twelve_pixels(away, replaced):
    place = (20.0 + away * 0.6, 20.0 - away * 0.8)
    training = seeing(make(), (0, place, 0.9))
    found = training(IMAGES, POINTS, OF_IMAGE)
    expected = POINTS.clone()
    if replaced:
        expected[0] = torch.tensor(place)
    torch.testing.assert_close(found.locations, expected)


def test_the_best_detection_of_the_nearest_point_stands_in():
    points = torch.tensor([(20.0, 20.0), (30.0, 20.0)])
    training = seeing(make(), (0, (24.0, 20.0), 0.7), (0, (16.0, 20.0), 0.9), (0, (26.0, 20.0), 0.3))
    found = training(IMAGES[:1], points, torch.tensor([0, 0]))
    assert found.locations.tolist() == [[16.0, 20.0], [26.0, 20.0]]


def test_zero_pixels_keep_the_points():
    training = make(replace_px=0)
    training.network.locate = lambda *_: pytest.fail("the detector was asked")
    assert torch.equal(training(IMAGES, POINTS, OF_IMAGE).locations, POINTS)


def nearest_replaced(points, of_image, proposals, scores, image, radius):
    expected = []
    for n, point in enumerate(points.tolist()):
        mine = []
        for place, score, b in zip(proposals.tolist(), scores.tolist(), image.tolist(), strict=True):
            away = [
                math.dist(place, p) if o == b else math.inf
                for p, o in zip(points.tolist(), of_image.tolist(), strict=True)
            ]
            if away[n] == min(away) < radius:
                mine.append((score, place))
        expected.append(max(mine)[1] if mine else point)
    return torch.tensor(expected)


def test_one_forward_is_the_networks_parts():
    training = make(score_threshold=0.0, nms_px=4.0)
    network = training.network
    with torch.no_grad():
        found = training(IMAGES, POINTS, OF_IMAGE)
        levels = network.features(IMAGES)
        said = network.detect(levels)
        places = nearest_replaced(POINTS, OF_IMAGE, *network.locate(said, 64, 64), 12.0)
        logits, origin = network.segment(levels[0], places, OF_IMAGE)
    torch.testing.assert_close(found.locations, places)
    assert (places != POINTS).any(1).all()
    torch.testing.assert_close(found.logits, logits)
    assert torch.equal(found.origin, origin)
    assert [stride for *_, stride in found.levels] == [4, 8, 16]
    for (scores, offset, _), (its_scores, its_offset) in zip(found.levels, said, strict=True):
        torch.testing.assert_close(scores, its_scores)
        torch.testing.assert_close(offset, its_offset)


def test_no_gradient_flows_through_locations():
    training = make(score_threshold=0.0)
    points = POINTS.clone().requires_grad_()
    found = training(IMAGES, points, OF_IMAGE)
    assert not found.locations.requires_grad
    assert (found.locations != POINTS).any()
    found.logits.square().sum().backward()
    assert points.grad is None
    for part in (training.network.detector, training.network.score, training.network.offset):
        assert all(p.grad is None for p in part.parameters())
    assert all(p.grad.abs().sum() > 0 for p in training.network.encoding.parameters())
    assert training.network.backbone.body[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("replace_px", [0.0, 12.0])
def test_no_cell(replace_px):
    training = make(replace_px=replace_px, score_threshold=0.0)
    found = training(IMAGES, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert found.logits.shape == (0, WINDOW, WINDOW)
    assert found.locations.shape == found.origin.shape == (0, 2)
    found.logits.sum().backward()
    assert training.network.mask.weight.grad.abs().sum() == 0


def test_it_has_the_networks_parameters_only():
    training = make()
    names = [f"network.{name}" for name in training.network.state_dict()]
    assert list(training.state_dict()) == names
