# SPDX-License-Identifier: Apache-2.0
"""MONAI's HoVer-Net with first weights from a file, and as a student uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from monai.networks.nets import HoVerNet
from torch import Tensor, nn

from monai_ext.networks.encoders import resnet_encoder

MODES = ("original", "fast")

_RENAMED = (
    (r"conv1\.", r"conv0.conv."),
    (r"bn1\.", r"conv0.bn."),
    # Normalisation stands before the convolutions here, so that a unit's last one is the next unit's first.
    (r"layer(\d)\.(\d)\.bn3\.", lambda found: _unit(found[1], int(found[2]) + 1) + "preact/bn."),
    (r"layer(\d)\.(\d)\.bn(\d)\.", lambda found: _unit(found[1], int(found[2])) + f"conv{found[3]}/bn."),
    (r"layer(\d)\.(\d)\.conv(\d)\.", lambda found: _unit(found[1], int(found[2])) + f"conv{found[3]}."),
    (r"layer(\d)\.0\.downsample\.0\.", lambda found: f"res_blocks.d{int(found[1]) - 1}.shortcut."),
    (r"layer(\d)\.0\.downsample\.1\.", lambda found: f"res_blocks.d{int(found[1]) - 1}.bna_block.bn."),
)
"""Names of torchvision's ResNet-50 and what MONAI calls them in HoVer-Net."""


def make_hover_net(*, mode: str = "original", backbone_weights: str | Path | None = None) -> HoVerNet:
    """MONAI's HoVer-Net for nuclei of one class.

    It takes images (B, 3, s, s) to ``nucleus_prediction``, class logits (B, 2, t, t), and ``horizontal_vertical``,
    where each pixel lies in its nucleus along the last and the first axis (B, 2, t, t), of the t x t pixels in the
    middle: s and t are 270 and 80 in the mode ``"original"``, 256 and 164 in ``"fast"``.

    Source: Graham et al., "Hover-Net", Medical Image Analysis 2019; of Lou et al., "Which pixel to annotate", IEEE TMI
    2022, the second segmentation network.

    Args:
        mode: ``"original"`` or ``"fast"``.
        backbone_weights: a file with torchvision's state dict of the ResNet-50, from which the encoder is filled as
            MONAI does it; None for random weights. MONAI's own way there keeps the first file it is given, for good.

    Raises:
        ValueError: an unknown mode, or weights of another network.
    """
    if mode not in MODES:
        raise ValueError(f"mode: found {mode!r}, expected one of {', '.join(MODES)}.")
    network = HoVerNet(mode=mode, in_channels=3, out_classes=0)
    if backbone_weights is not None:
        given = resnet_encoder("resnet50", 3, weights=backbone_weights).state_dict()
        renamed = {_renamed(name): value for name, value in given.items() if not name.startswith("fc.")}
        own = network.state_dict()
        network.load_state_dict(own | {name: value for name, value in renamed.items() if name in own})
    return network


class HoVerNetTraining(nn.Module):
    """Forward of a batch of labelled images, as DistributedDataParallel can wrap it.

    Args:
        network: HoVer-Net, which ships.
        losses: by name of the term, each as MONAI's ``HoVerNetLoss``: takes answers and targets of both branches.
    """

    def __init__(self, network: nn.Module, *, losses: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.losses = nn.ModuleDict(losses)

    def forward(self, image: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses, scalars.

        Args:
            image: (B, 3, s, s).
            targets: for each image what the network should answer, (2, t, t) of each branch, see
                :class:`~monai_ext.transforms.HoVerTargetd`.
        """
        answers = {name: answer.float() for name, answer in self.network(image).items()}
        wanted = {name: torch.stack([target[name] for target in targets]) for name in answers}
        # Slopes are differences of numbers close to each other: in single precision. MONAI makes them of its own type.
        with torch.autocast(image.device.type, enabled=False):
            return {name: loss(answers, wanted).as_subclass(Tensor) for name, loss in self.losses.items()}


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, new, name, count=1)
    return name


def _unit(stage: str, number: int) -> str:
    return f"res_blocks.d{int(stage) - 1}.layers.denselayer_{number}.layers."
