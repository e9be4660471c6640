# SPDX-License-Identifier: Apache-2.0
"""Detection against a greedy loop, segmentation against one window after the other cut from padded arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_ext.networks import ConvNeXtFPN, PointInstanceNet
from monai_ext.networks.point_instance_net import FixedEncoding, LearnedEncoding, _gather

WINDOW = 32


def small(*, in_channels=3, **kwargs):
    torch.manual_seed(0)
    backbone = ConvNeXtFPN(in_channels, size="micro", channels=8, stochastic_depth=0.0)
    options = {"channels": 8, "mask_channels": 6, "window_px": WINDOW, "score_threshold": 0.5} | kwargs
    return PointInstanceNet(backbone, **options)


def random_locations(number, *, low=-4.0, high=68.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(number, 2, generator=generator)


def features(*, batch=2, sides=(16, 16), seed=1):
    return torch.randn(batch, 8, *sides, generator=torch.Generator().manual_seed(seed))


def logit(probability):
    return math.log(probability / (1 - probability))


def silent(*, batch=1, sides=(64, 64)):
    """Detections of three scales that see nothing."""
    shapes = [(batch, sides[0] // stride, sides[1] // stride) for stride in (4, 8, 16)]
    return [(torch.full((b, 1, h, w), -20.0), torch.zeros(b, 2, h, w)) for b, h, w in shapes]


def tell(detections, location, score, *, level=0, image=0):
    """A scale says that there is a cell at a location, from the grid cell whose centre is nearest."""
    stride = 4 * 2**level
    scores, offset = detections[level]
    row, column = (min(max(int(x // stride), 0), n - 1) for x, n in zip(location, scores.shape[2:], strict=True))
    scores[image, 0, row, column] = logit(score)
    for axis, (place, index) in enumerate(zip(location, (row, column), strict=True)):
        offset[image, axis, row, column] = place / stride - index - 0.5


def greedy(locations, scores, radius):
    """Slow suppression of one image's locations: indices by falling score."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(math.dist(locations[i], locations[j]) >= radius for j in kept):
            kept.append(i)
    return kept


def test_the_whole_network_has_the_papers_size():
    with torch.device("meta"):
        network = PointInstanceNet(ConvNeXtFPN())
    assert sum(p.numel() for p in network.parameters()) == 56_071_588
    assert network.window_px == 96


def test_locations_and_scores_by_hand():
    said = silent(sides=(64, 96))
    tell(said, (10.0, 20.0), 0.9)
    tell(said, (17.9, 20.0), 0.8, level=1)  # closer than 8 px to the first
    tell(said, (40.0, 70.5), 0.5, level=2)  # at the threshold
    tell(said, (40.0, 62.4), 0.6)  # 8.1 px away from that
    tell(said, (60.0, 5.0), 0.49)
    tell(said, (-0.1, 40.0), 0.99)  # off the image, as are the next
    tell(said, (30.0, 96.1), 0.99)
    locations, scores, image = small(score_threshold=0.4999).locate(said, 64, 96)
    torch.testing.assert_close(locations, torch.tensor([(10.0, 20.0), (40.0, 62.4), (40.0, 70.5)]))
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.6, 0.5]))
    assert image.tolist() == [0, 0, 0]
    assert image.dtype == torch.int64


def test_the_threshold_itself_is_a_detection():
    said = silent()
    said[0][0][0, 0, 3, 3] = 0.0
    assert len(small(score_threshold=0.5).locate(said, 64, 64)[0]) == 1
    assert len(small(score_threshold=0.5001).locate(said, 64, 64)[0]) == 0


def test_images_of_a_batch_do_not_suppress_each_other():
    said = silent(batch=3)
    tell(said, (20.0, 20.0), 0.8, image=0)
    tell(said, (20.0, 20.0), 0.9, image=2)
    tell(said, (40.0, 20.0), 0.95, image=2)
    locations, scores, image = small().locate(said, 64, 64)
    assert image.tolist() == [0, 2, 2]
    torch.testing.assert_close(locations, torch.tensor([(20.0, 20.0), (40.0, 20.0), (20.0, 20.0)]))
    torch.testing.assert_close(scores, torch.tensor([0.8, 0.95, 0.9]))


def test_what_lies_in_the_padding_takes_out_no_cell():
    said = silent()
    tell(said, (47.0, 30.0), 0.6)
    tell(said, (50.5, 30.0), 0.9)
    assert small().locate(said, 50, 64)[0].tolist() == [[47.0, 30.0]]
    assert small().locate(said, 64, 64)[0].tolist() == [[50.5, 30.0]]


@pytest.mark.parametrize("radius", [3.0, 8.0])
def test_locate_equals_a_greedy_loop(radius):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 12, 20), (2, 6, 10), (2, 3, 5)]
    said = [
        (torch.randn(b, 1, h, w, generator=generator), torch.randn(b, 2, h, w, generator=generator))
        for b, h, w in shapes
    ]
    expected = []
    for b in range(2):
        places, values = [], []
        for (scores, offset), stride in zip(said, (4, 8, 16), strict=True):
            for i in range(scores.shape[2]):
                for j in range(scores.shape[3]):
                    place = [(k + 0.5 + float(o)) * stride for k, o in zip((i, j), offset[b, :, i, j], strict=True)]
                    value = float(scores[b, 0, i, j].sigmoid())
                    if value >= 0.6 and 0 <= place[0] < 47 and 0 <= place[1] < 75:
                        places.append(place)
                        values.append(value)
        expected += [(b, *places[i], values[i]) for i in greedy(places, values, radius)]
    locations, scores, image = small(score_threshold=0.6, nms_px=radius).locate(said, 47, 75)
    assert len(expected) > 20
    found = torch.cat([image[:, None], locations, scores[:, None]], 1)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_windows_equal_slices_of_a_padded_array():
    maps, size = torch.randn(2, 3, 9, 12), 5
    places = [(2, 3), (-2, 4), (7, 9), (8, 11), (-4, -4), (9, 0), (-5, 3), (-40, 2), (3, 40), (4, 7)]
    first, image = torch.tensor(places), torch.arange(len(places)) % 2
    padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (50, 50), (50, 50)))
    found = _gather(maps, first, image, size)
    for n, (i, j) in enumerate(places):
        expected = padded[n % 2, :, 50 + i : 50 + i + size, 50 + j : 50 + j + size]
        np.testing.assert_array_equal(found[n].numpy(), expected)


@pytest.mark.parametrize("window", [16, 32])
def test_where_windows_lie(window):
    network = small(window_px=window)
    locations = torch.cat([torch.tensor([(0.0, 0.0), (3.9, 4.0), (63.9, 64.0), (-0.1, 200.0)]), random_locations(20)])
    logits, origin = network.segment(features(), locations, torch.zeros(24, dtype=torch.long))
    expected = [[4 * math.floor(x / 4) - window // 2 for x in location] for location in locations.tolist()]
    assert origin.tolist() == expected
    assert logits.shape == (24, window, window)
    place = locations - origin
    assert ((place >= window // 2) & (place < window // 2 + 4)).all()  # the cell is in the middle of its window


def segment_by_hand(network, level, location, number):
    """One cell: its window of the trunk, and the four features around it, cut from padded arrays."""
    margin, size = 60, network.window_px // 4
    trunk, level = (F.pad(x[number : number + 1], [margin] * 4) for x in (network.trunk(level), level))
    i, j = (math.floor(x / 4) - size // 2 + margin for x in location)
    seen = trunk[:, :, i : i + size, j : j + size]
    if isinstance(network.encoding, LearnedEncoding):
        a, b = (round(x / 4) + margin for x in location)
        around = (level[0, :, a - 1, b - 1] + level[0, :, a - 1, b] + level[0, :, a, b - 1] + level[0, :, a, b]) / 4
        coarse = network.encoding.layers(around).reshape(1, 4, 8, 8)
        code = network.encoding.mix(F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False))
    else:
        ramp = 2 * torch.arange(size) / (size - 1) - 1
        weight = network.encoding.mix.weight[:, :, 0, 0]
        code = (weight[:, 0, None, None] * ramp[:, None] + weight[:, 1, None, None] * ramp[None, :])[None]
    mask = network.mask((seen + code).clamp_min(0))
    return F.interpolate(mask, scale_factor=2.0, mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("encoding", ["learned", "fixed"])
def test_segmentation_equals_one_cell_after_the_other(encoding):
    network, level, locations = small(position_encoding=encoding), features(sides=(16, 18)), random_locations(12)
    image = torch.arange(12) % 2
    with torch.no_grad():
        logits, _ = network.segment(level, locations, image)
        for n, location in enumerate(locations.tolist()):
            expected = segment_by_hand(network, level, location, n % 2)
            torch.testing.assert_close(logits[n], expected, rtol=1e-4, atol=1e-5)
    assert logits.std(0).max() > 1e-3


def test_the_convolution_of_a_pixel_and_the_resizing_change_places():
    torch.manual_seed(0)
    encoding, level, locations = LearnedEncoding(8, 6), features(), random_locations(5)
    image, size = torch.tensor([0, 1, 1, 0, 1]), 24
    seen = []
    encoding.layers.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        found = encoding(level, locations, image, size)
        coarse = seen[0].view(5, 4, 8, 8)
        resized = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, encoding.mix(resized))


def test_a_cell_does_not_depend_on_the_others():
    network, level, locations = small(), features(), random_locations(9)
    image = torch.arange(9) % 2
    with torch.no_grad():
        logits, origin = network.segment(level, locations, image)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        mixed, mixed_origin = network.segment(level, locations[order], image[order])
        torch.testing.assert_close(mixed, logits[order])
        assert torch.equal(mixed_origin, origin[order])
        for n in range(9):
            alone, _ = network.segment(level, locations[n : n + 1], image[n : n + 1])
            torch.testing.assert_close(alone[0], logits[n])


def test_learned_positions_differ_and_fixed_ones_do_not():
    level, locations, image = features(), torch.tensor([(20.0, 20.0), (44.0, 36.0)]), torch.zeros(2, dtype=torch.long)
    torch.manual_seed(0)
    with torch.no_grad():
        learned = LearnedEncoding(8, 6)(level, locations, image, 8)
        fixed = FixedEncoding(6)(level, locations, image, 8)
    assert learned.shape == fixed.shape == (2, 6, 8, 8)
    assert (learned[0] - learned[1]).abs().max() > 1e-3
    assert torch.equal(fixed[0], fixed[1])
    assert fixed.std((2, 3)).min() > 0


def test_the_image_is_filled_up_with_zeros():
    network, image = small().eval(), torch.randn(1, 3, 33, 50)
    with torch.no_grad():
        levels = network.features(image)
        filled = network.features(F.pad(image, [0, 14, 0, 31]))
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    for mine, other in zip(levels, filled, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_scales_share_one_detector(levels):
    network = small(detection_levels=levels).eval()
    maps = [features(sides=(16 // 2**n, 16 // 2**n)) for n in range(4)]
    with torch.no_grad():
        said = network.detect(maps)
        assert len(said) == levels
        for (scores, offset), level in zip(said, maps, strict=False):
            x = network.detector(level)
            assert torch.equal(scores, network.score(x))
            assert torch.equal(offset, network.offset(x))


def find_some(network, image):
    """A few of an untrained network's detections, and masks of half their windows."""
    with torch.no_grad():
        scores = torch.cat([s.flatten() for s, _ in network.detect(network.features(image))]).sigmoid()
        network.score_threshold = float(scores.quantile(0.7))
        network.mask.bias -= network.instances(image[:1])[2].median()
    return network


def painted_by_hand(logits, origin, sides):
    """From the last cell to the first onto a canvas with a margin; then the numbers that show are 1, 2, ..."""
    margin, canvas = 60, torch.zeros(sides[0] + 120, sides[1] + 120)
    for n in reversed(range(len(logits))):
        i, j = (origin[n] + margin).tolist()
        canvas[i : i + WINDOW, j : j + WINDOW][logits[n].sigmoid() > 0.5] = n + 1
    seen = canvas[margin:-margin, margin:-margin]
    shown = [n for n in seen.unique().tolist() if n > 0]
    return sum(((seen == n) * (k + 1.0) for k, n in enumerate(shown)), torch.zeros(sides))


@pytest.mark.parametrize("sides", [(64, 32), (45, 70), (33, 96), (20, 31)])
def test_any_size_gives_numbered_cells(sides):
    network = small().eval()
    images = torch.randn(2, 3, *sides)
    find_some(network, images)
    with torch.no_grad():
        label = network(images)
        assert label.shape == (2, 1, *sides)
        for number, image in enumerate(images.split(1)):
            locations, scores, logits, origin = network.instances(image)
            assert len(locations) > 1
            assert (scores[:-1] >= scores[1:]).all()
            assert ((locations >= 0) & (locations < torch.tensor(sides))).all()
            assert torch.equal(label[number, 0], painted_by_hand(logits, origin, sides))
            assert torch.equal(network(image)[0], label[number])


@pytest.mark.parametrize(("encoding", "norm"), [("learned", "instance"), ("fixed", "layer")])
def test_scripted_equals_eager(encoding, norm):
    network = find_some(small(position_encoding=encoding, detector_norm=norm).eval(), torch.randn(1, 3, 64, 64))
    scripted = torch.jit.script(network)
    assert (scripted.window_px, scripted.nms_px) == (WINDOW, 8.0)
    with torch.no_grad():
        for sides in ((33, 50), (70, 45)):
            images = torch.randn(2, 3, *sides)
            label = network(images)
            assert label.max() > 1
            assert torch.equal(scripted(images), label)
            for mine, other in zip(scripted.instances(images[:1]), network.instances(images[:1]), strict=True):
                torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("scripted", [False, True])
def test_an_image_of_nothing(scripted):
    network = small(score_threshold=1.1).eval()
    network = torch.jit.script(network) if scripted else network
    image = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(network(image), torch.zeros(2, 1, 40, 56))
        found = network.instances(image[:1])
    assert [tuple(x.shape) for x in found] == [(0, 2), (0,), (0, WINDOW, WINDOW), (0, 2)]
    assert found[3].dtype == torch.int64


def test_no_cell_has_a_gradient():
    network = small()
    none = torch.zeros(0, dtype=torch.long)
    logits, _ = network.segment(network.features(torch.randn(1, 3, 32, 32))[0], torch.zeros(0, 2), none)
    logits.sum().backward()
    assert all(p.grad.abs().sum() == 0 for p in network.mask.parameters())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shifted_image_has_shifted_cells(axis):
    """Instance normalisation sees all of the image, and padding with zeros its border: without the one, far from the
    other, 32 px on are 32 px on. The image is long, as the network sees over 300 px to each side."""
    network = small(detector_norm="layer").eval()
    layers = network.trunk[0]
    for n, layer in enumerate(layers):
        if isinstance(layer, torch.nn.InstanceNorm2d):
            layers[n] = torch.nn.Identity()
    scene = torch.randn(1, 3, 32, 992)
    views = [scene[..., :960], scene[..., 32:]]
    if axis == 0:
        views = [view.transpose(2, 3) for view in views]
    find_some(network, views[0])
    with torch.no_grad():
        found = [network.instances(view) for view in views]
    shift = torch.tensor([32, 0] if axis == 0 else [0, 32])
    moved = (found[1][0] + shift, found[1][1], found[1][2], found[1][3] + shift)
    some = []
    for locations, *rest in (found[0], moved):
        middle = (locations[:, axis] > 420) & (locations[:, axis] < 572)
        order = middle.nonzero()[:, 0]
        order = order[locations[order, axis].argsort()]
        some.append([x[order] for x in (locations, *rest)])
    assert len(some[0][0]) > 10
    for mine, other in zip(*some, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("encoding", "norm"), [("learned", "layer"), ("fixed", "instance")])
def test_every_parameter_learns(encoding, norm):
    network = small(position_encoding=encoding, detector_norm=norm)
    levels = network.features(torch.randn(2, 3, 64, 64))
    logits, _ = network.segment(levels[0], random_locations(8), torch.arange(8) % 2)
    terms = [logits.square().mean(), *(x.square().mean() for said in network.detect(levels) for x in said)]
    sum(terms).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_heads_are_convolutions_normalised(norm):
    network = small(detector_norm=norm)
    assert sum(p.numel() for p in network.detector.parameters()) == 4 * (9 * 8 * 8 + 2 * 8)
    x, expected = features(), features()
    for weight in [p for p in network.detector.parameters() if p.ndim == 4]:
        expected = F.conv2d(expected, weight, padding=1)
        axes = (2, 3) if norm == "instance" else 1
        variance, mean = torch.var_mean(expected, axes, correction=0, keepdim=True)
        expected = ((expected - mean) / (variance + 1e-6).sqrt()).clamp_min(0)
    torch.testing.assert_close(network.detector(x), expected, rtol=1e-3, atol=1e-3)
    brighter = x.clone()
    brighter[..., 8:, :] += torch.randn(8, 8, 16)
    same = torch.isclose(network.detector(brighter)[..., :4, :], network.detector(x)[..., :4, :], atol=1e-6).all()
    assert same == (norm == "layer")  # four convolutions see four grid cells far


def test_one_channel():
    network = small(in_channels=1).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"detector_norm": "batch"},
        {"window_px": 24},
        {"window_px": 0},
        {"detection_levels": 0},
        {"detection_levels": 5},
        {"position_encoding": "no"},
    ],
)
def test_options_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: found"):
        small(**wrong)
