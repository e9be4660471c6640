# SPDX-License-Identifier: Apache-2.0
"""Tiles against the whole image, with a network that sees no farther than a window."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from torch import nn

from monai_ext.functional.instance_map import paint_instances
from monai_ext.functional.point_nms import distance_nms
from monai_ext.inferers import CellInferer
from monai_ext.inferers.tiles import tiles
from monai_ext.networks import ConvNeXtFPN, PointInstanceNet

RADIUS = 5


class Discs:
    """Each pixel above 1 is the middle of a cell, whose mask is what is above 0 around it as far as it is shown.

    ``slip`` moves the locations away from the middle of what the network is shown (towards it where negative), as a
    real one's differ from tile to tile.
    """

    window_px = 16
    nms_px = 4.0

    def __init__(self, *, slip=0.0):
        self.slip = slip
        self.seen = []

    def instances(self, image):
        self.seen.append(tuple(image.shape[2:]))
        picture = image[0, 0]
        middle = (picture > 1).nonzero()
        scores = picture[middle[:, 0], middle[:, 1]] - 1
        away = (middle - torch.tensor(picture.shape) / 2).sign()
        locations = middle + 0.5 + self.slip * away
        kept = distance_nms(locations, scores, self.nms_px)
        middle, locations, scores = middle[kept], locations[kept], scores[kept]
        padded = nn.functional.pad(picture, [20] * 4)
        logits, steps = [], torch.arange(16)
        for i, j in middle.tolist():
            window = padded[i + 12 : i + 28, j + 12 : j + 28]
            near = (steps[:, None] - 8).square() + (steps - 8).square() <= RADIUS**2
            logits.append(torch.where(near & (window > 0), 9.0, -9.0))
        logits = torch.stack(logits) if logits else torch.zeros(0, 16, 16)
        return locations, scores, logits, middle - 8


def picture_of_discs(sides, centres):
    """1 in discs, and from 1.1 to 1.9 at their middles, each another."""
    picture, grid = torch.zeros(1, 1, *sides), torch.stack(torch.meshgrid(*map(torch.arange, sides), indexing="ij"))
    for i, j in centres:
        picture[0, 0][(grid - torch.tensor([i, j])[:, None, None]).square().sum(0) <= RADIUS**2] = 1
    for n, (i, j) in enumerate(centres):
        picture[0, 0, i, j] = 1.1 + 0.8 * n / len(centres)
    return picture


def scattered(sides, *, apart, seed=0):
    """Middles anywhere, no two closer than this."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(2000):
        place = [int(torch.randint(side, (1,), generator=generator)) for side in sides]
        if all((place[0] - i) ** 2 + (place[1] - j) ** 2 >= apart**2 for i, j in found):
            found.append(place)
    return found


@pytest.mark.parametrize("tile", [24, 32, 40])
@pytest.mark.parametrize("overlap", [0, 7, 16, 23])
def test_tiles_answer_for_each_pixel_once(tile, overlap):
    for side in [1, 5, *range(tile - 3, 4 * tile)]:
        parts = tiles(side, tile, overlap)
        owner = [n for n, (_, low, high) in enumerate(parts) for _ in range(low, high)]
        assert len(owner) == side
        assert [low for _, low, _ in parts] == [0, *[high for *_, high in parts][:-1]]
        assert parts[-1][2] == side
        for n, (first, low, high) in enumerate(parts):
            end = min(first + tile, side)
            assert first >= 0
            assert first <= low < high <= end
            assert side <= tile or first + tile <= side
            # Half the overlap lies between a tile's part and its end, except at the image's border.
            assert n == 0 or low - first >= overlap // 2
            assert n == len(parts) - 1 or end - high >= overlap // 2
        assert side > tile or len(parts) == 1


@pytest.mark.parametrize("tile", [33, 40, 64])
@pytest.mark.parametrize("sides", [(75, 66), (100, 30), (41, 100), (65, 64)])
def test_tiles_give_what_the_whole_image_gives(sides, tile):
    picture = picture_of_discs(sides, scattered(sides, apart=6))
    whole = CellInferer()(picture, Discs())
    network = Discs()
    found = CellInferer(tile)(picture, network)
    assert torch.equal(found, whole)
    assert whole[0, 0].max() > 15
    assert len(network.seen) > 1
    assert max(max(sides) for sides in network.seen) <= tile


@pytest.mark.parametrize("slip", [-1.5, 0.0, 1.5])
def test_no_cell_is_cut_or_doubled_or_lost_along_tile_borders(slip):
    """A cell in each column of pixels, so that all places along a border between tiles occur."""
    sides = (80, 150)
    centres = [(8 + 13 * (j % 5), j) for j in range(6, 144, 3)]
    picture = picture_of_discs(sides, centres)
    found = CellInferer(40)(picture, Discs(slip=slip))[0, 0]
    assert found.max() == len(centres)
    assert torch.equal(found > 0, picture[0, 0] > 0)
    assert torch.equal(found, CellInferer()(picture, Discs())[0, 0])


def test_an_image_of_the_tiles_size_is_taken_whole():
    network, picture = Discs(), picture_of_discs((40, 25), [(20, 12)])
    CellInferer(40)(picture, network)
    assert network.seen == [(40, 25)]


def test_images_of_a_batch_are_on_their_own():
    pictures = [picture_of_discs((60, 50), scattered((60, 50), apart=12, seed=seed)) for seed in range(2)]
    pictures.append(torch.zeros(1, 1, 60, 50))
    found = CellInferer(36)(torch.cat(pictures), Discs())
    assert found.shape == (3, 2, 60, 50)
    assert found.dtype == torch.float32
    for mine, picture in zip(found.split(1), pictures, strict=True):
        assert torch.equal(mine, CellInferer()(picture, Discs()))
    assert found[2].abs().max() == 0


def test_scores_are_those_of_the_cells():
    picture = picture_of_discs((60, 60), [(10, 10), (30, 40), (50, 10)])
    numbers, scores = CellInferer(36)(picture, Discs())[0]
    for i, j in ((10, 10), (30, 40), (50, 10)):
        assert scores[numbers == numbers[i, j]].unique().tolist() == pytest.approx([float(picture[0, 0, i, j]) - 1])
    assert numbers[50, 10] == 1  # the best score


def test_the_threshold_is_handed_on():
    class Unsure(Discs):
        def instances(self, image):
            locations, scores, logits, origin = super().instances(image)
            return locations, scores, torch.where(logits > 0, 0.2, logits), origin  # sigmoid is 0.55

    picture = picture_of_discs((20, 20), [(10, 10)])
    assert CellInferer(threshold=0.5)(picture, Unsure())[0, 0].max() == 1
    assert CellInferer(threshold=0.6)(picture, Unsure())[0, 0].max() == 0


def test_metadata_comes_along():
    picture = picture_of_discs((60, 50), [(20, 20)])
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0]))
    image = MetaTensor(picture[0], affine=affine, meta={"filename_or_obj": "a.png"})
    batch = MetaTensor(image[None], meta=image.meta)
    batch.is_batch = True
    for tile in (None, 36):
        found = CellInferer(tile)(batch, Discs())
        assert isinstance(found, MetaTensor)
        assert found.meta["filename_or_obj"] == "a.png"
        torch.testing.assert_close(found.affine, batch.affine)
        assert decollate_batch(found)[0].shape == (2, 60, 50)
        assert torch.equal(found.as_tensor(), CellInferer()(picture, Discs()))
    assert not isinstance(CellInferer()(picture, Discs()), MetaTensor)


def test_overlaps_that_do_not_fit():
    with pytest.raises(ValueError, match="overlap_px: found 64, expected less than the tile's 64"):
        CellInferer(64, overlap_px=64)
    with pytest.raises(ValueError, match="overlap_px: found -1"):
        CellInferer(64, overlap_px=-1)
    picture = picture_of_discs((60, 60), [(10, 10)])
    with pytest.raises(ValueError, match="overlap_px: found 15, expected the window's 16"):
        CellInferer(40, overlap_px=15)(picture, Discs())
    with pytest.raises(ValueError, match="overlap_px: found 24"):  # the window and twice the distance
        CellInferer(24)(picture, Discs())
    assert CellInferer(40, overlap_px=16)(picture, Discs())[0, 0].max() == 1


def test_a_real_network_and_its_script():
    torch.manual_seed(0)
    backbone = ConvNeXtFPN(1, size="micro", channels=8)
    network = PointInstanceNet(backbone, channels=8, mask_channels=8, window_px=16, score_threshold=0.5).eval()
    image = torch.randn(1, 1, 32, 56)
    with torch.no_grad():
        _, scores, logits, origin = network.instances(image)
        assert len(scores) > 0
        assert torch.equal(CellInferer()(image, network), paint_instances(logits, origin, scores, 32, 56))
        tiled = CellInferer(40)(image, network)
        torch.testing.assert_close(CellInferer(40)(image, torch.jit.script(network)), tiled)
