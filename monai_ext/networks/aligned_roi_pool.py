# SPDX-License-Identifier: Apache-2.0
"""Boxes pooled from a feature pyramid without a shift of half a pixel; masks cut out at boxes and laid back there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

LEVEL_STRIDES = (4, 8, 16, 32)
"""Of P2 to P5, the levels that boxes are pooled from."""


class AlignedRoIPool(nn.Module):
    """Pools each box from the pyramid level that fits its size.

    torchvision's ``MultiScaleRoIAlign`` samples half a feature pixel off, so mirrored features with mirrored boxes miss
    by a whole one, and views that should agree do not. Here mirroring both mirrors the result: boxes go
    ``x -> W - x``, where W is the features' width times their stride.

    The level is that of Lin et al., "Feature pyramid networks for object detection", Eq. 1:
    ``floor(4 + log2(sqrt(area) / 224))``, kept within 2 and 5.

    Args:
        size: bins along each side.
        sampling: points along each side of a bin, whose mean it is.
    """

    def __init__(self, size: int, *, sampling: int = 2) -> None:
        super().__init__()
        self.size, self.sampling = size, sampling
        self.strides = list(LEVEL_STRIDES)

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pooled features of all boxes, image after image.

        Args:
            features: P2 to P5 (B, C, H / stride, W / stride); further levels are not looked at. Gradient passes.
            boxes: for each image (R_b, 4), x1, y1, x2, y2 in px with the corner origin. No gradient passes.

        Returns:
            (R, C, size, size) of the R boxes of all images, in the features' dtype.
        """
        corners = torch.cat(boxes)
        image = torch.cat([torch.full_like(some[:, :1], number) for number, some in enumerate(boxes)])
        rois = torch.cat([image, corners], 1)
        levels = pyramid_level(corners)
        pooled = torch.zeros(
            (len(rois), features[0].shape[1], self.size, self.size), dtype=features[0].dtype, device=rois.device
        )
        for level, stride in enumerate(self.strides):
            chosen = torch.where(levels == level)[0]
            # In the boxes' dtype: half precision would round coordinates to whole pixels.
            found = roi_align(
                features[level].to(rois.dtype),
                rois[chosen],
                [self.size, self.size],
                spatial_scale=1.0 / stride,
                sampling_ratio=self.sampling,
                aligned=True,
            )
            pooled[chosen] = found.to(pooled.dtype)
        return pooled


def pyramid_level(boxes: Tensor) -> Tensor:
    """Which of P2 to P5 a box is pooled from, counted from 0: boxes (R, 4) to int64 (R,)."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(
        4 + torch.log2(side / 224) + 1e-6
    )  # sides of just 112, 224 and 448 px go up, in spite of rounding
    return level.clamp(2, 5).long() - 2


def crop_masks(masks: Tensor, boxes: Tensor, index: Tensor, *, size: int) -> Tensor:
    """What boxes see of masks: the target of a mask head.

    Args:
        masks: (N, H, W), bool or numbers.
        boxes: (R, 4), x1, y1, x2, y2 in px with the corner origin.
        index: int64 (R,), which mask each box sees.
        size: bins along each side.

    Returns:
        (R, size, size) in the boxes' dtype: share of each bin that the mask covers, between samples 1 px or less apart.
    """
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], 1)
    return roi_align(masks[:, None].to(boxes.dtype), rois, [size, size], 1.0, aligned=True)[:, 0]


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Masks of boxes laid into the image. Scriptable.

    Bilinear between the bins' centres; between an outermost centre and the box's border the bin's own value, so that a
    mask that fills its box fills it after pasting.

    Args:
        masks: (N, size, size), probabilities.
        boxes: (N, 4), x1, y1, x2, y2 in px with the corner origin; parts off the image are left out.
        height, width: of the image.
        threshold: probability above which a pixel is drawn.

    Returns:
        bool (N, height, width). A pixel whose centre is off the box is never drawn.
    """
    count, size = masks.shape[0], masks.shape[2]
    drawn = torch.zeros((count, height, width), dtype=torch.bool, device=masks.device)
    for begin in range(0, count, 16):  # as many at once as fit a small memory
        x1, y1, x2, y2 = boxes[begin : begin + 16].unbind(1)
        rows = _bin_weights(y1, y2, height, size)
        columns = _bin_weights(x1, x2, width, size)
        some = masks[begin : begin + 16].to(boxes.dtype)
        drawn[begin : begin + 16] = rows @ some @ columns.transpose(1, 2) > threshold
    return drawn


def _bin_weights(low: Tensor, high: Tensor, pixels: int, bins: int) -> Tensor:
    """How much each bin of a box counts at each pixel along one axis: (n, pixels, bins), 0 for pixels off the box."""
    centre = torch.arange(pixels, device=low.device).to(low.dtype) + 0.5
    inside = (centre >= low[:, None]) & (centre < high[:, None])
    # Bins have their centres at whole numbers.
    place = (centre - low[:, None]) / (high - low).clamp_min(1e-6)[:, None] * bins - 0.5
    place = place.clamp(0, bins - 1)
    weight = 1 - (place[:, :, None] - torch.arange(bins, device=low.device)).abs()
    return weight.clamp_min(0) * inside[:, :, None]
