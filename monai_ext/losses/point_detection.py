# SPDX-License-Identifier: Apache-2.0
"""Learning where cells are from one point each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from monai_ext.functional.point_targets import point_targets

Level = tuple[Tensor, Tensor, int]
"""Score logits (B, 1, h, w), offsets (B, 2, h, w) in grid cells, and the stride in px, of one scale."""


class PointDetectionLoss(nn.Module):
    r"""Is there a cell near this grid location, and where exactly: focal cross-entropy and the offset.

    Source: Yu, "Point-supervised single-cell segmentation via collaborative knowledge sharing", Eq. 3. Every scale
    detects every cell. The paper prints an unnormalised L2 of the offsets; as in the released code it is Huber's loss,
    averaged over the positive locations of all scales. Both terms have the same weight there.

    Args:
        radius_px: a grid location is positive where its centre is closer than this to a point.
        gamma: of the focal loss.
    """

    def __init__(self, radius_px: float = 8.0, gamma: float = 2.0) -> None:
        super().__init__()
        self.radius_px = radius_px
        self.gamma = gamma

    def forward(self, levels: Sequence[Level], locations: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Two scalars, in float32 or wider.

        Args:
            levels: what the detector says at each scale.
            locations: clicked points (N, 2) in px, corner origin.
            image: int64 (N,), which image of the batch.

        Returns:
            ``detection``, the sum over all grid locations by their number; ``offset``, the mean over positive ones, 0
            where there are none.
        """
        focal, huber, cells, positives = [], [], 0, []
        for logits, offset, stride in levels:
            wide = torch.promote_types(logits.dtype, torch.float32)
            batch, _, height, width = logits.shape
            nearest, target = point_targets(
                locations.to(wide), image, shape=(batch, height, width), stride=stride, radius_px=self.radius_px
            )
            positive = (nearest >= 0)[:, None].to(wide)
            score = sigmoid_focal_loss(logits.to(wide), positive, alpha=-1, gamma=self.gamma, reduction="sum")
            error = F.huber_loss(offset.to(wide), target, reduction="none").mean(1, keepdim=True)
            focal.append(score)
            huber.append((error * positive).sum())
            positives.append(positive.sum())
            cells += positive.numel()
        found = torch.stack(positives).sum().clamp_min(1)
        return {"detection": torch.stack(focal).sum() / cells, "offset": torch.stack(huber).sum() / found}
