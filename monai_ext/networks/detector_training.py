# SPDX-License-Identifier: Apache-2.0
"""A detector as a student or teacher uses it: losses on labelled images, answers about given boxes on the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_ext.networks.detector_losses import detector_losses
from monai_ext.networks.mask_rcnn import CellMaskRCNN


class Answers(NamedTuple):
    """What a detector says of given boxes in V views of B images."""

    logits: Tensor
    """Class logits (V, R, C) of the R boxes of all images."""
    deltas: Tensor
    """Box regression (V, R, 4 C), in each view's own direction."""
    hidden: Tensor
    """The box head's features (V, R, hidden)."""
    adapted: list[Tensor]
    """Of each pyramid level (V, B, A, h, w), on the grid of the images as they are, not mirrored."""


class LabeledTraining(nn.Module):
    """Forward of a batch of labelled images, as DistributedDataParallel can wrap it.

    Args:
        network: the detector, which ships.
    """

    def __init__(self, network: CellMaskRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of images (B, 3, H, W), see :py:func:`~monai_ext.networks.detector_losses.detector_losses`."""
        size = (image.shape[2], image.shape[3])
        return detector_losses(self.network, self.network.features(image), targets, image_size=size)


class DetectorTraining(nn.Module):
    """Forward of a training batch, as DistributedDataParallel can wrap it: one call, one backward.

    The adaptation layers, a convolution of one pixel after each pyramid level, belong to training alone. Source: Zhou
    et al., MMT-PSM, MICCAI 2020, section 2.3.

    Args:
        network: the detector, which ships.
        adapter_channels: A, half of the pyramid's in the paper.
    """

    def __init__(self, network: CellMaskRCNN, *, adapter_channels: int = 128) -> None:
        super().__init__()
        self.network = network
        channels = network.backbone.out_channels
        self.adapters = nn.ModuleList(nn.Conv2d(channels, adapter_channels, 1) for _ in network.rpn.strides)

    def forward(
        self,
        image: Tensor,
        targets: list[dict[str, Tensor]],
        views: Tensor | None = None,
        mirrored: list[bool] | None = None,
        boxes: list[Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Answers | None]:
        """Losses of labelled images, and answers about views of unlabelled ones.

        Args:
            image: (B, 3, H, W), labelled.
            targets: for each image its boxes, labels and masks, see
                :py:func:`~monai_ext.networks.detector_losses.detector_losses`.
            views: (V, U, 3, H, W), V views of U unlabelled images of the same size; None without.
            mirrored: for each view, whether it is mirrored along the last axis.
            boxes: for each of the U images (R_u, 4), as they lie in it when it is not mirrored.
        """
        size = (image.shape[2], image.shape[3])
        if views is None or mirrored is None or boxes is None:
            return detector_losses(self.network, self.network.features(image), targets, image_size=size), None
        levels = self.network.features(torch.cat([image, views.flatten(0, 1)]))
        labelled = [level[: len(image)] for level in levels]
        losses = detector_losses(self.network, labelled, targets, image_size=size)
        seen = [level[len(image) :].unflatten(0, views.shape[:2]) for level in levels]
        return losses, self.answers(seen, mirrored, boxes, size)

    def answers(
        self, levels: list[Tensor], mirrored: list[bool], boxes: list[Tensor], size: tuple[int, int]
    ) -> Answers:
        """About given boxes.

        Args:
            levels: features (V, U, C, h, w) of views.
            mirrored, boxes: as in :py:meth:`forward`.
            size: H, W of the images.
        """
        of_views = [mirror_boxes(some, width=size[1]) if flip else some for flip in mirrored for some in boxes]
        heads = self.network.rois([level.flatten(0, 1) for level in levels], of_views, size)
        adapted = []
        for adapt, level in zip(self.adapters, levels, strict=True):
            maps = adapt(level.flatten(0, 1)).unflatten(0, level.shape[:2])
            adapted.append(
                torch.stack([one.flip(-1) if flip else one for one, flip in zip(maps, mirrored, strict=True)])
            )
        views, number = len(mirrored), sum(len(some) for some in boxes)
        logits, deltas, hidden = (some.view(views, number, some.shape[1]) for some in heads)
        return Answers(logits, deltas, hidden, adapted)


def mirror_boxes(boxes: Tensor, *, width: float) -> Tensor:
    """Boxes (N, 4) ``x1, y1, x2, y2`` of the mirrored image: x becomes W - x, in the corner origin.

    The released code of MMT-PSM takes W - 1 - x to features that are not aligned, so that its mirrored views are up to
    a feature's width off.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)
