# SPDX-License-Identifier: Apache-2.0
"""MONAI's attention U-Net for batches of one image."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import AttentionUnet
from torch import nn

_INSTANCE_NORM: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: nn.InstanceNorm2d,
    nn.BatchNorm3d: nn.InstanceNorm3d,
}


class InstanceNormAttentionUnet(AttentionUnet):
    """:py:class:`monai.networks.nets.AttentionUnet` with affine instance in place of batch normalisation.

    PA-Seg trains on batches of one image (Zhai et al., IEEE TMI 2023). There batch normalisation uses each crop's own
    statistics, and at inference a running average of them that fits no image. The released code of the paper's
    auxiliary network has instance normalisation, without the affine part.

    Args:
        *args: arguments of MONAI's network.
        **kwargs: likewise.

    Shapes: (B, in_channels, *S) to (B, C, *S), 2-D or 3-D; the deepest level needs more than one voxel.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parent in list(self.modules()):
            for name, module in parent.named_children():
                if type(module) in _INSTANCE_NORM:
                    assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
                    setattr(parent, name, _INSTANCE_NORM[type(module)](module.num_features, affine=True))
