# SPDX-License-Identifier: Apache-2.0
"""Against torchvision's own network, heads and losses, against a double loop, by hand, and mirrored."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.poolers import LevelMapper

from monai_ext.functional.instance_map import number_masks
from monai_ext.networks.aligned_roi_pool import AlignedRoIPool, crop_masks, paste_masks, pyramid_level
from monai_ext.networks.detector_losses import detector_losses, mask_loss
from monai_ext.networks.mask_rcnn import CellMaskRCNN

SIZE = (64, 64)


def small(**kwargs):
    torch.manual_seed(0)
    options = {
        "backbone": "resnet18",
        "norm": "group",
        "channels": 16,
        "hidden": 32,
        "anchor_sizes": (8, 16, 32, 64, 128),
    }
    return CellMaskRCNN(**(options | kwargs))


def random_boxes(number, *, high=64.0, seed=0, shortest=1.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * (high - shortest)
    far = corner + shortest + torch.rand(number, 2, generator=generator) * (high - shortest - corner)
    return torch.cat([corner, far], 1)


def pyramid(*, batch=1, channels=3, sides=(64, 96), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, channels, -(-sides[0] // s), -(-sides[1] // s), generator=generator, dtype=dtype)
        for s in (4, 8, 16, 32, 64)
    ]


def mirrored(boxes, width):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


def disc(centre, radius, size=SIZE):
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def target(masks, labels):
    stack = torch.stack(masks)
    boxes = []
    for mask in stack:
        rows, columns = torch.where(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels), "masks": stack}


def two_discs():
    """A cell with a nucleus inside, and its image: the cell grey, the nucleus bright."""
    cell, nucleus = disc((30, 28), 20), disc((34, 24), 7)
    image = cell.float() + 2 * nucleus.float()
    return image.expand(1, 3, *SIZE) - 0.5, [target([cell, nucleus], [1, 2])]


def nothing():
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, *SIZE)}


# Pooling, cutting out and pasting


def align_by_hand(level, box, stride, size, sampling):
    """One box from (C, h, w): the mean of bilinear samples, pixel j having its centre at (j + 0.5) * stride."""
    height, width = level.shape[1:]

    def sample(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return torch.zeros(len(level), dtype=level.dtype)
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        i, j = min(int(y), height - 2), min(int(x), width - 2)
        v, u = y - i, x - j
        top = (1 - u) * level[:, i, j] + u * level[:, i, j + 1]
        return (1 - v) * top + v * ((1 - u) * level[:, i + 1, j] + u * level[:, i + 1, j + 1])

    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    found = torch.zeros(len(level), size, size, dtype=level.dtype)
    for i in range(size):
        for j in range(size):
            for a in range(sampling):
                for b in range(sampling):
                    y = y1 + (i + (a + 0.5) / sampling) * (y2 - y1) / size
                    x = x1 + (j + (b + 0.5) / sampling) * (x2 - x1) / size
                    found[:, i, j] += sample(y, x) / sampling**2
    return found


@pytest.mark.parametrize("sampling", [1, 2])
def test_pooling_equals_a_double_loop(sampling):
    features = pyramid(batch=2, sides=(256, 320), dtype=torch.float64)
    near = [(-6, -3, 20, 30), (300, 200, 330, 262), (0, 0, 320, 256), (3, 5, 4, 5.5), (-60, 0, 90, 140), (9, 9, 9, 20)]
    boxes = [random_boxes(6, high=256).double(), torch.tensor(near, dtype=torch.float64)]
    found = AlignedRoIPool(3, sampling=sampling)(features, boxes)
    levels = pyramid_level(torch.cat(boxes))
    assert {0, 1, 2} <= set(levels.tolist())
    for n, box in enumerate(torch.cat(boxes)):
        level = int(levels[n])
        expected = align_by_hand(features[level][n // 6], box, 4 * 2**level, 3, sampling)
        torch.testing.assert_close(found[n], expected)


def test_bins_of_a_ramp_are_their_centres():
    features = pyramid(sides=(512, 512))
    for level, stride in enumerate((4, 8, 16, 32)):
        side = torch.arange(512 // stride) * stride + stride / 2
        features[level] = torch.stack([side[:, None].expand(len(side), len(side)), side.expand(len(side), len(side))])[
            None
        ]
    boxes = torch.tensor([(20.0, 30.0, 61.0, 44.0), (40.5, 32.0, 220.0, 182.5), (16.0, 32.0, 476.0, 490.0)])
    found = AlignedRoIPool(7)(features, [boxes])
    assert pyramid_level(boxes).tolist() == [0, 1, 3]
    for box, bins in zip(boxes, found, strict=True):
        steps = (torch.arange(7) + 0.5) / 7
        torch.testing.assert_close(bins[0], (box[1] + steps * (box[3] - box[1]))[:, None].expand(7, 7))
        torch.testing.assert_close(bins[1], (box[0] + steps * (box[2] - box[0])).expand(7, 7))


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("dtype", "high", "tolerance"), [(torch.float64, 256, 1e-10), (torch.float32, 64, 1e-5)])
def test_mirrored_features_and_boxes_give_the_mirrored_result(size, dtype, high, tolerance):
    width = high + 64
    features = pyramid(batch=2, sides=(high, width), dtype=dtype)
    boxes = [random_boxes(40, high=high, seed=s).to(dtype) for s in (0, 1)]
    boxes[1][0] = torch.tensor([0.0, 0.0, width, high])
    pool = AlignedRoIPool(size)
    expected = pool(features, boxes)
    found = pool([level.flip(3) for level in features], [mirrored(some, width) for some in boxes]).flip(3)
    assert len(pyramid_level(torch.cat(boxes)).unique()) == (3 if high > 64 else 1)
    assert (found - expected).abs().max() < tolerance
    off = pool([level.flip(3) for level in features], [mirrored(some, width - 1) for some in boxes]).flip(3)
    assert (off - expected).abs().max() > 1e-2


def test_levels_equal_torchvisions():
    exact = [(0, 0, s, s) for s in (1, 111.9, 112, 223.9, 224, 447.9, 448, 5000)]
    boxes = torch.cat([random_boxes(500, high=1000), torch.tensor(exact, dtype=torch.float32)])
    assert torch.equal(pyramid_level(boxes), LevelMapper(2, 5)([boxes]))
    assert pyramid_level(boxes)[-8:].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_gradient_of_pooling():
    features = [level.requires_grad_() for level in pyramid(channels=1, sides=(64, 64), dtype=torch.float64)[:4]]
    boxes = [torch.tensor([(3.0, 5.0, 30.0, 41.0), (-3.0, 2.0, 200.0, 180.0)], dtype=torch.float64)]
    pool = AlignedRoIPool(2)
    assert torch.autograd.gradcheck(lambda *levels: pool(list(levels), boxes), features)


def test_no_boxes_are_pooled_to_nothing_with_a_graph():
    features = [level.requires_grad_() for level in pyramid()]
    found = AlignedRoIPool(7)(features, [torch.zeros(0, 4)])
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert all(level.grad.abs().sum() == 0 for level in features[:4])


def test_half_precision_features_keep_exact_boxes():
    features = pyramid(sides=(64, 96))
    boxes = random_boxes(20)
    found = AlignedRoIPool(7)([level.bfloat16() for level in features], [boxes])
    assert found.dtype == torch.bfloat16
    expected = AlignedRoIPool(7)([level.bfloat16().float() for level in features], [boxes])
    assert torch.equal(found, expected.bfloat16())


def test_a_pasted_mask_by_hand():
    mask = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    found = paste_masks(mask, torch.tensor([[2.0, 1.0, 6.0, 5.0]]), 6, 7)
    # Between two bins the value falls over 2 px; at the pixels of the box: 1, 0.75, 0.25, 0 along its first row.
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:3, 2:4] = True
    expected[3:5, 2:6] = True
    expected[2, 4] = False  # 1 - 0.75 * 0.75
    expected[3, 4] = True
    torch.testing.assert_close(found[0], expected)


def test_pasting_equals_grid_sample():
    torch.manual_seed(0)
    masks, boxes = torch.rand(40, 9, 9), random_boxes(40, shortest=3.0)
    boxes[:4] += torch.tensor([-9.0, 30.0, -2.0, 30.0])
    found = paste_masks(masks, boxes, 60, 50)
    for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(50) + 0.5, indexing="ij")
        grid = torch.stack([2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1], 2)
        value = F.grid_sample(masks[n, None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        sure = (value - 0.5).abs() > 1e-5
        assert torch.equal(found[n] & sure, (value > 0.5) & (grid.abs() < 1).all(2) & sure)
    assert found.any((1, 2)).sum() > 30


def test_a_mask_cut_out_and_pasted_is_the_mask():
    masks = torch.stack([disc((30, 28), 20), disc((40.5, 20), 9), disc((10, 50), 12)])
    boxes = target(list(masks), [1, 1, 1])["boxes"]
    cut = crop_masks(masks, boxes[[2, 0, 1]], torch.tensor([2, 0, 1]), size=28)
    back = paste_masks(cut, boxes[[2, 0, 1]], *SIZE)
    overlap = (back & masks[[2, 0, 1]]).sum((1, 2)) / (back | masks[[2, 0, 1]]).sum((1, 2))
    assert overlap.min() > 0.97


@pytest.mark.parametrize("box", [(3, 5, 50, 20), (0, 0, 64, 64), (10, 12, 11, 13), (60, 1, 64, 9)])
def test_a_rectangle_survives_exactly(box):
    mask = torch.zeros(1, *SIZE)
    mask[0, box[1] : box[3], box[0] : box[2]] = 1
    cut = crop_masks(mask, torch.tensor([box]).float(), torch.tensor([0]), size=28)
    assert torch.equal(paste_masks(cut, torch.tensor([box]).float(), *SIZE), mask.bool())


def test_cutting_out_and_pasting_are_mirrored_with_the_image():
    masks, boxes, index = torch.rand(3, *SIZE), random_boxes(20), torch.arange(20) % 3
    cut = crop_masks(masks, boxes, index, size=14)
    torch.testing.assert_close(crop_masks(masks.flip(2), mirrored(boxes, 64), index, size=14).flip(2), cut)
    found = paste_masks(cut.flip(2), mirrored(boxes, 64), *SIZE).flip(2)
    assert torch.equal(found, paste_masks(cut, boxes, *SIZE))


def test_no_masks_are_pasted_and_cut_out():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 5, 6).shape == (0, 5, 6)
    assert crop_masks(torch.rand(2, 5, 6), torch.zeros(0, 4), torch.zeros(0).long(), size=28).shape == (0, 28, 28)


# The network against torchvision's


def test_parameters_are_torchvisions():
    with torch.device("meta"):
        network = CellMaskRCNN(norm="batch", classes=3)
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert network.state_dict().keys() == theirs.state_dict().keys()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs.parameters()) == 43_980_897


def old_names(state):
    """As in the files that torchvision published: one block less in each name, no record of versions."""
    renamed = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for i in range(4):
            name = name.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.").replace(
                f"_blocks.{i}.0.", f"_blocks.{i}."
            )
        renamed[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    return renamed


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory):
    torch.manual_seed(1)
    network = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, trainable_backbone_layers=5
    ).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "coco.pth"
    torch.save(old_names(network.state_dict()), path)
    return network, path


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_weights_of_torchvisions_network_from_a_file(torchvisions, norm):
    theirs, path = torchvisions
    network = CellMaskRCNN(norm=norm, weights=path).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(network.features(image), theirs.backbone(image).values(), strict=True):
            # A frozen normalisation rounds otherwise, in values that are large because they come of random numbers.
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    own, state = network.state_dict(), theirs.state_dict()
    other = {name for name in own if own[name].shape != state[name].shape}
    assert len(other) == 6
    assert all("num_batches" in name or torch.equal(own[name], state[name]) for name in own.keys() - other)


def test_features_are_those_of_the_image_filled_up_with_zeros():
    network = small().eval()
    image = torch.randn(2, 3, 50, 75)
    with torch.no_grad():
        found = network.features(image)
        expected = network.backbone(F.pad(image, (0, 21, 0, 14))).values()
    assert [tuple(level.shape[2:]) for level in found] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_proposals_are_torchvisions_in_both_modes():
    network = small(proposals=50)
    features = [level.requires_grad_() for level in pyramid(batch=2, channels=16, sides=(128, 192))]
    images = ImageList(torch.zeros(2, 3, 128, 192), [(120, 170)] * 2)
    expected, _ = network.rpn.eval()(images, dict(enumerate(features)))
    for mode in (True, False):
        found = network.train(mode).proposals(features, (120, 170))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert [len(some) for some in found] == [50, 50]
        assert not any(some.requires_grad for some in found)
    boxes = torch.cat(expected)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 170
    assert boxes[:, 3].max() <= 120


def test_anchors_of_the_coarsest_level_are_64_px_apart():
    network = small()
    _, _, anchors, counts = network.rpn.answer(network.features(torch.randn(1, 3, 96, 160)))
    last = anchors[0][-counts[-1] :]
    centres = (last[:, :2] + last[:, 2:]) / 2
    assert counts == [3 * n for n in (24 * 40, 12 * 20, 6 * 10, 3 * 5, 2 * 3)]
    assert {tuple(c) for c in centres.tolist()} == {(64.0 * j, 64.0 * i) for i in range(2) for j in range(3)}


class _Adapter(nn.Module):
    """The pooling as torchvision calls it."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.output_size = pool, (pool.size, pool.size)

    def forward(self, features, boxes, image_sizes):
        return self.pool(list(features.values()), boxes)


def their_heads(network):
    heads = network.roi_heads
    box = (_Adapter(heads.box_roi_pool), heads.box_head, heads.box_predictor)
    mask = (_Adapter(heads.mask_roi_pool), heads.mask_head, heads.mask_predictor)
    return RoIHeads(*box, 0.5, 0.5, 40, 0.25, None, 0.05, 0.5, 30, *mask)


def test_detections_are_those_of_torchvisions_heads():
    network = small(detections=30).train()
    with torch.no_grad():
        features = network.features(torch.randn(2, 3, 60, 90))
        boxes = network.proposals(features, (60, 90))
        expected, _ = their_heads(network).eval()(dict(enumerate(features)), boxes, [(60, 90)] * 2)
        found = network.detect(features, (60, 90))
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine["boxes"]) == 30
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(mine[name], theirs[name])
        assert torch.equal(mine["masks"], theirs["masks"][:, 0])
        assert mine["masks"].shape == (30, 28, 28)


def test_losses_are_torchvisions():
    network = small(box_dropout=0.0, box_samples=40).train()
    image, targets = two_discs()
    features = network.features(torch.cat([image, image.flip(2)]))
    targets = [*targets, nothing()]
    torch.manual_seed(5)
    found = detector_losses(network, features, targets, image_size=SIZE)
    torch.manual_seed(5)
    boxes, rpn = network.rpn.train()(
        ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2), dict(enumerate(features)), targets
    )
    _, heads = their_heads(network).train()(dict(enumerate(features)), boxes, [SIZE] * 2, targets)
    assert list(found) == ["rpn_objectness", "rpn_box", "class", "box", "mask"]
    torch.testing.assert_close(found["rpn_objectness"], rpn["loss_objectness"])
    torch.testing.assert_close(found["rpn_box"], rpn["loss_rpn_box_reg"])
    torch.testing.assert_close(found["class"], heads["loss_classifier"])
    torch.testing.assert_close(found["box"], heads["loss_box_reg"])
    assert found["mask"] > 0
    # Theirs cuts the target out half a pixel off.
    torch.testing.assert_close(found["mask"], heads["loss_mask"], rtol=0.1, atol=0)


def test_the_mask_loss_by_hand(monkeypatch):
    network = small()
    mask = torch.zeros(1, *SIZE)
    mask[0, 8:36, 8:22] = 1  # the left half of the box, 14 of 28 bins
    boxes = [torch.tensor([[8.0, 8.0, 36.0, 36.0], [0.0, 0.0, 9.0, 9.0]])]
    logits = torch.full((1, 28, 28), math.log(3))
    monkeypatch.setattr(network, "own_masks", lambda features, boxes, labels: logits[None, : len(labels[0])])
    loss = mask_loss(
        network, [], [{"masks": mask}], boxes=boxes, owners=[torch.tensor([0, 0])], labels=[torch.tensor([2, 0])]
    )
    assert float(loss) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-5)


# Detections and label maps


def told(monkeypatch, network, boxes, logits, deltas=None):
    """The network's proposals and what its box head says of them; the masks of detections stay its own."""
    deltas = torch.zeros(len(boxes), 4 * network.classes) if deltas is None else deltas
    monkeypatch.setattr(network, "proposals", lambda features, size: [boxes])
    monkeypatch.setattr(
        network, "_score", lambda features, boxes, dropout: (logits, deltas, torch.zeros(len(boxes[0]), 32))
    )


def test_detections_by_hand(monkeypatch):
    network = small(score_threshold=0.3, detections=3).eval()
    boxes = torch.tensor(
        [(0, 0, 20, 20), (0, 0, 20, 18), (30, 30, 50, 50), (30, 30, 50, 46), (10, 40, 20, 60), (50, 2, 60, 12.0)]
    )
    probability = torch.tensor(
        [(0.2, 0.6, 0.2), (0.1, 0.7, 0.2), (0.2, 0.0, 0.8), (0.5, 0.5, 0.0), (0.98, 0.01, 0.01), (0.5, 0.1, 0.4)]
    )
    deltas = torch.zeros(6, 12)
    deltas[2, 8:] = torch.tensor([5.0, -5.0, 0.0, 5 * math.log(2)])  # class 2: 10 px right and up, twice as high
    told(monkeypatch, network, boxes, (probability + 1e-9).log(), deltas)
    found = network.detect(network.features(torch.randn(1, 3, *SIZE)), SIZE)[0]
    # The first box is covered by the second of its class; the last of four is one too many.
    torch.testing.assert_close(found["scores"], torch.tensor([0.8, 0.7, 0.5]))
    assert found["labels"].tolist() == [2, 1, 1]
    expected = torch.tensor([(40.0, 10.0, 60.0, 50.0), (0.0, 0.0, 20.0, 18.0), (30.0, 30.0, 50.0, 46.0)])
    torch.testing.assert_close(found["boxes"], expected)


def test_masks_are_those_of_the_own_class(monkeypatch):
    network = small(score_threshold=0.3).eval()
    boxes = torch.tensor([(0.0, 0.0, 20.0, 20.0), (30.0, 30.0, 50.0, 50.0)])
    told(monkeypatch, network, boxes, torch.tensor([(0.0, 0.0, 9.0), (0.0, 8.0, 0.0)]))
    last = network.roi_heads.mask_predictor.mask_fcn_logits
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([-5.0, -1.0, 1.0])
    found = network.detect(network.features(torch.randn(1, 3, *SIZE)), SIZE)[0]
    assert found["labels"].tolist() == [2, 1]
    torch.testing.assert_close(found["masks"][0], torch.tensor(1.0).sigmoid().expand(28, 28))
    torch.testing.assert_close(found["masks"][1], torch.tensor(-1.0).sigmoid().expand(28, 28))
    seen = network.instances(torch.randn(1, 3, *SIZE))["pasted"]
    assert seen[0, :20, :20].all()
    assert seen.sum() == 400
    shown = network(torch.randn(1, 3, *SIZE))
    assert shown.shape == (1, 2, *SIZE)
    assert shown.dtype == torch.float32
    assert torch.equal(shown[0, 1], seen[0].float())
    assert shown[0, 0].max() == 0


def test_the_better_instance_has_the_pixel_within_its_class_only(monkeypatch):
    network = small()
    boxes = torch.tensor([(0, 0, 10, 10), (5, 5, 15, 15), (2, 2, 8, 8), (6, 6, 9, 9), (5, 0, 15, 10.0)])
    found = {"boxes": boxes, "labels": torch.tensor([1, 2, 1, 2, 1]), "masks": torch.ones(5, 28, 28)}
    monkeypatch.setattr(network, "detect", lambda features, size: [found | {"scores": torch.arange(5, 0, -1) / 5}])
    shown = network(torch.zeros(1, 3, 20, 20))[0]
    expected = torch.zeros(2, 20, 20)
    expected[0, :10, 5:15] = 2  # the third lies under the first, has no pixel and no number
    expected[0, :10, :10] = 1
    expected[1, 5:15, 5:15] = 1
    assert torch.equal(shown, expected)


def test_numbers_equal_a_loop_over_pixels():
    masks = torch.rand(7, 9, 8) > 0.6
    masks[3] = masks[1] & masks[0]
    first = [[next((n for n in range(7) if masks[n, i, j]), 7) for j in range(8)] for i in range(9)]
    shown = sorted({n for row in first for n in row} - {7})
    assert 3 not in shown
    expected = torch.tensor([[shown.index(n) + 1 if n < 7 else 0 for n in row] for row in first])
    assert torch.equal(number_masks(masks), expected.float())
    assert torch.equal(number_masks(masks[:0]), torch.zeros(9, 8))


@pytest.mark.parametrize("threshold", [0.05, 1.0])
def test_scripted_equals_eager(threshold, tmp_path):
    network = small(score_threshold=threshold, detections=40).eval()
    torch.jit.script(network).save(tmp_path / "network.ts")
    scripted = torch.jit.load(tmp_path / "network.ts")
    with torch.no_grad():
        for batch, *size in ((2, 64, 64), (1, 50, 75), (1, 33, 97), (1, 20, 31), (1, 50, 75)):
            image = torch.randn(batch, 3, *size)
            found, expected = scripted(image), network(image)
            assert found.shape == (batch, 2, *size)
            assert torch.equal(found, expected)
            assert expected.max() > 1 if threshold < 1 else not expected.any()
        mine, theirs = network.instances(image), scripted.instances(image)
        assert mine.keys() == theirs.keys() == {"boxes", "labels", "scores", "masks", "pasted"}
        for name in mine:
            torch.testing.assert_close(theirs[name], mine[name])
        assert len(mine["scores"]) == (40 if threshold < 1 else 0)
        assert mine["pasted"].shape == (len(mine["scores"]), 50, 75)
        levels = scripted.features(image)
        scores, _, _ = scripted.rois(levels, scripted.proposals(levels, (50, 75)), (50, 75))
        assert scores.shape[1] == 3


def test_dropout_is_for_the_students_scores_only():
    network = small().train()
    features = [level.detach() for level in network.features(torch.randn(1, 3, *SIZE))]
    boxes = [random_boxes(20)]
    one, other = network.rois(features, boxes, SIZE)[0], network.rois(features, boxes, SIZE)[0]
    assert not torch.equal(one, other)
    found = network.detect(features, SIZE)[0]
    network.eval()
    assert torch.equal(network.rois(features, boxes, SIZE)[0], network.rois(features, boxes, SIZE)[0])
    assert all(torch.equal(found[name], value) for name, value in network.detect(features, SIZE)[0].items())


# Learning


def trainable(network):
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_gradient_reaches_every_parameter_that_learns(norm):
    network = small(norm=norm, box_dropout=0.0).train()
    image, targets = two_discs()
    images = torch.cat([image, image.flip(3)])
    sum(detector_losses(network, network.features(images), targets * 2, image_size=SIZE).values()).backward()
    assert len(trainable(network)) > 30
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable(network).values())


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ("rpn_objectness", {"rpn.head.conv", "rpn.head.cls_logits"}),
        ("rpn_box", {"rpn.head.conv", "rpn.head.bbox_pred"}),
        ("class", {"roi_heads.box_head", "roi_heads.box_predictor.cls_score"}),
        ("box", {"roi_heads.box_head", "roi_heads.box_predictor.bbox_pred"}),
        ("mask", {"roi_heads.mask_head", "roi_heads.mask_predictor"}),
    ],
)
def test_each_loss_reaches_its_own_parts_and_the_backbone(loss, parts):
    network = small(box_dropout=0.0).train()
    image, targets = two_discs()
    detector_losses(network, network.features(image), targets, image_size=SIZE)[loss].backward()
    reached = {name for name, p in trainable(network).items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("backbone.body") for name in reached)
    heads = {name for name in reached if not name.startswith("backbone")}
    assert heads == {name for name in trainable(network) if name.startswith(tuple(parts))}


def test_without_objects_losses_are_finite_and_have_a_graph():
    network = small().train()
    losses = detector_losses(
        network, network.features(torch.randn(2, 3, *SIZE)), [nothing(), nothing()], image_size=SIZE
    )
    assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert losses["rpn_objectness"] > 0
    assert losses["class"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable(network).values())


@pytest.mark.parametrize("layers", range(6))
def test_frozen_stages_are_torchvisions(layers):
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=layers
    )
    with torch.device("meta"):
        network = small(norm="batch", trainable_layers=layers)
    assert trainable(network.backbone).keys() == trainable(theirs).keys()


def test_frozen_parts_do_not_move():
    network = small(norm="frozen", trainable_layers=3).train()
    before = deepcopy(network.state_dict())
    image, targets = two_discs()
    sum(detector_losses(network, network.features(image), targets, image_size=SIZE).values()).backward()
    torch.optim.SGD(trainable(network).values(), lr=0.01).step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    norms = {n for n, m in network.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert len(norms) == 20
    assert "backbone.body.layer2.0.conv1.weight" in moved
    assert not any(name.rpartition(".")[0] in norms for name in moved)
    assert not any(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in moved)


def learn(network, optimizer, steps):
    """Sum of the losses in each step on the two discs."""
    image, targets = two_discs()
    totals = []
    for _ in range(steps):
        loss = sum(detector_losses(network, network.features(image), targets, image_size=SIZE).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    return totals


def test_it_learns_one_image():
    network = small(channels=32, hidden=64, box_dropout=0.0, box_samples=32, proposals=100, trainable_layers=0).train()
    totals = learn(network, torch.optim.Adam(trainable(network).values(), lr=3e-3), 50)
    assert sum(totals[-5:]) < 0.2 * sum(totals[:5])
    image, targets = two_discs()
    with torch.no_grad():
        shown = network.eval()(image)[0] == 1
    for mask, truth in zip(shown, targets[0]["masks"], strict=True):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_the_backbone_learns_too():
    network = small(channels=32, hidden=64, box_samples=32, proposals=100).train()
    totals = learn(network, torch.optim.SGD(network.parameters(), lr=0.003, momentum=0.9), 12)
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3])


def test_lower_precision_keeps_boxes_exact():
    network = small().train()
    image, targets = two_discs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.features(image)
        losses = detector_losses(network, features, targets, image_size=SIZE)
        found = network.detect(features, SIZE)[0]
    assert features[0].dtype == torch.bfloat16
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(found[name].dtype == torch.float32 for name in ("boxes", "scores", "masks"))
    assert (found["boxes"] != found["boxes"].bfloat16()).any()


# IR-Net's two parts


def related(**kwargs):
    network = small(instance_relation=True, duplicate_removal=True, **kwargs)
    nn.init.ones_(network.relation.gamma)
    return network


def test_refined_masks_and_their_loss(monkeypatch):
    network = related().train()
    image, targets = two_discs()
    features = network.features(image)
    monkeypatch.setattr(
        network.relation, "forward", lambda pooled, masks, labels, image: masks * 0 + labels.view(-1, 1, 1)
    )
    boxes, owners, labels = targets[0]["boxes"], [torch.arange(2)], [targets[0]["labels"]]
    stages = network.own_masks(features, [boxes], labels)
    assert torch.equal(stages[1], torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 28, 28))
    truth = crop_masks(targets[0]["masks"], boxes, owners[0], size=28)
    expected = [F.binary_cross_entropy_with_logits(stage, truth) for stage in stages]
    found = mask_loss(network, features, targets, boxes=[boxes], owners=owners, labels=labels)
    torch.testing.assert_close(found, sum(expected) / 2)
    network.relation.forward = lambda *args: torch.full((len(args[2]), 28, 28), 3.0)
    told(monkeypatch, network, boxes, torch.tensor([(0.0, 9.0, 0.0), (0.0, 0.0, 9.0)]))
    network.removal = None
    detected = network.detect(features, SIZE)[0]["masks"]
    torch.testing.assert_close(detected, torch.full((2, 28, 28), 3.0).sigmoid())


def test_scores_are_the_predicted_overlaps(monkeypatch):
    network = related(score_threshold=0.3, nms_iou=0.5, detections=3).eval()
    boxes = torch.tensor([(0, 0, 20, 20), (0, 0, 20, 18), (30, 30, 50, 50), (10, 40, 20, 60), (50, 2, 60, 12.0)])
    probability = torch.tensor([(0.1, 0.9, 0), (0.2, 0.8, 0), (0.3, 0.0, 0.7), (0.4, 0.6, 0.0), (0.95, 0.05, 0.0)])
    told(monkeypatch, network, boxes, (probability + 1e-9).log())
    overlap = torch.tensor([[0.4, 0.9, 0.2, 0.99, 0.99], [0.8, 0.99, 0.99, 0.99, 0.99]])
    monkeypatch.setattr(network.removal, "forward", lambda hidden, boxes: overlap)
    found = network.detect(network.features(torch.randn(1, 3, *SIZE)), SIZE)[0]
    # Of the first two the second is thought to lie better; the fourth's overlap is low, all others' probability.
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8]))
    assert found["labels"].tolist() == [1, 2]
    torch.testing.assert_close(found["boxes"], boxes[[1, 2]])


def test_the_removals_loss(monkeypatch):
    """Against the overlaps of the regressed boxes, ranked within their class."""
    network = related(box_dropout=0.0).train()
    image, targets = two_discs()
    seen = []
    monkeypatch.setattr(
        network.removal, "forward", lambda hidden, boxes: seen.append(boxes) or hidden.mean(-1).sigmoid()
    )
    losses = detector_losses(network, network.features(image), targets, image_size=SIZE)
    assert losses["duplicate"] > 0
    losses["duplicate"].backward()
    assert network.roi_heads.box_head.fc6.weight.grad.abs().max() > 0
    assert network.roi_heads.box_predictor.bbox_pred.weight.grad is None
    assert seen[0].shape[::2] == (2, 4)
    assert seen[0].min() >= 0
    assert seen[0].max() <= 64


@pytest.mark.parametrize(
    "parts", [("instance_relation",), ("duplicate_removal",), ("instance_relation", "duplicate_removal")]
)
def test_scripted_with_irnets_parts(parts):
    network = small(score_threshold=-1.0, detections=10, **dict.fromkeys(parts, True)).eval()
    scripted = torch.jit.script(network)
    with torch.no_grad():
        for size in ((64, 64), (33, 97)):
            image = torch.randn(2, 3, *size)
            assert torch.equal(scripted(image), network(image))
        assert len(network.instances(image[:1])["scores"]) == 10


def test_every_parameter_learns_with_and_without_objects():
    network = related().train()
    image, targets = two_discs()
    sum(detector_losses(network, network.features(image), targets, image_size=SIZE).values()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    losses = detector_losses(network, network.features(image), [nothing()], image_size=SIZE)
    assert all(loss.isfinite() for loss in losses.values())
    network.zero_grad()
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_it_learns_one_image_with_irnets_parts():
    options = {"channels": 32, "hidden": 64, "box_dropout": 0.0, "box_samples": 32, "proposals": 100}
    network = small(**options, trainable_layers=0, instance_relation=True, duplicate_removal=True).train()
    learn(network, torch.optim.Adam(trainable(network).values(), lr=3e-3), 90)
    image, targets = two_discs()
    with torch.no_grad():
        shown = network.eval()(image)[0] == 1
    for mask, truth in zip(shown, targets[0]["masks"], strict=True):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_plain_weights_fit_irnet(tmp_path):
    torch.save(small().state_dict(), tmp_path / "plain.pth")
    network = related(weights=tmp_path / "plain.pth")
    assert torch.equal(network.rpn.head.cls_logits.weight, small().rpn.head.cls_logits.weight)


# Options and faults


def test_backbone_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    pretrained = resnet18(weights=None, num_classes=7)
    nn.init.normal_(pretrained.layer1[0].bn1.running_mean)
    torch.save(pretrained.state_dict(), tmp_path / "r18.pth")
    network = small(norm="frozen", backbone_weights=tmp_path / "r18.pth")
    body = network.backbone.body
    assert torch.equal(body.layer4[1].conv2.weight, pretrained.layer4[1].conv2.weight)
    assert torch.equal(body.layer1[0].bn1.running_mean, pretrained.layer1[0].bn1.running_mean)


def test_weights_that_do_not_fit(tmp_path):
    state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "r18.pth")
    with pytest.raises(
        ValueError, match=r"r18.pth: \d+ keys differ from torchvision's resnet50 \(layer1.0.conv1.weight"
    ):
        small(backbone="resnet50", norm="frozen", backbone_weights=tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18.pth: 60 keys differ from torchvision's resnet18 \(bn1.num_batches"):
        small(norm="group", backbone_weights=tmp_path / "r18.pth")
    with pytest.raises(ValueError, match="1 image channels"):
        small(in_channels=1, norm="frozen", backbone_weights=tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18.pth: \d+ keys differ"):
        small(norm="frozen", weights=tmp_path / "r18.pth")
    state = small(norm="frozen", channels=32).state_dict()
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"wide.pth: \d+ keys differ"):
        small(norm="frozen", weights=tmp_path / "wide.pth")


def test_an_image_of_one_channel():
    network = small(in_channels=1, classes=2, score_threshold=0.4).eval()
    assert network(torch.randn(1, 1, 40, 40)).shape == (1, 1, 40, 40)


def test_options_out_of_range():
    with pytest.raises(ValueError, match="backbone: found 'vgg'"):
        small(backbone="vgg")
    with pytest.raises(ValueError, match="norm: found 'layer'"):
        small(norm="layer")
    with pytest.raises(ValueError, match="trainable_layers: found 6"):
        small(trainable_layers=6)
    with pytest.raises(ValueError, match="anchor_sizes: found 4"):
        small(anchor_sizes=(8, 16, 32, 64))


def test_faults_of_a_call_get_a_sentence():
    network = small()
    features = network.features(torch.randn(1, 3, 64, 96))
    for call in (network.proposals, network.detect):
        with pytest.raises(ValueError, match="image_size"):
            call(features, (96, 64))
    with pytest.raises(ValueError, match="image_size"):
        network.rois(features, [random_boxes(2)], (96, 64))
    flat = nothing() | {"boxes": torch.tensor([[3.0, 4.0, 3.0, 9.0]]), "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match="without area"):
        detector_losses(network, features, [flat | {"masks": torch.zeros(1, 64, 96)}], image_size=(64, 96))
