# SPDX-License-Identifier: Apache-2.0
"""torchvision's ResNets as encoders, their pyramid, and weights that a user gives as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

BACKBONES: dict[str, Callable[..., resnet.ResNet]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
}


def resnet_encoder(
    backbone: str,
    in_channels: int,
    *,
    norm: Callable[..., nn.Module] = nn.BatchNorm2d,
    weights: str | Path | None = None,
) -> resnet.ResNet:
    """A ResNet of torchvision; its last layer, ``fc``, is there and of no use.

    Args:
        backbone: one of :data:`BACKBONES`.
        in_channels: channels of the image.
        norm: makes its normalisation layers.
        weights: a file with torchvision's state dict for this backbone; None for random weights.

    Raises:
        ValueError: an unknown backbone, weights that do not fit, or weights and other than 3 channels.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone: found {backbone!r}, expected one of {', '.join(BACKBONES)}.")
    encoder = BACKBONES[backbone](weights=None, norm_layer=norm)
    if weights is not None:
        if in_channels != 3:
            raise ValueError(
                f"backbone_weights: found {in_channels} image channels, expected 3 as they were trained on."
            )
        load_file(encoder, weights, of=f"torchvision's {backbone}", optional=("fc.",))
    elif in_channels != 3:
        encoder.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    return encoder


def with_pyramid(encoder: resnet.ResNet, channels: int, *, trainable_layers: int) -> BackboneWithFPN:
    """An encoder's last four stages and a pyramid of five levels, P2 to P6.

    Args:
        encoder: what :py:func:`resnet_encoder` gives.
        channels: of each level.
        trainable_layers: stages that learn, from the last on; 5 is all of them, the stem included.

    Raises:
        ValueError: another number of stages than 0 to 5.
    """
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_layers: found {trainable_layers}, expected 0 to 5.")
    stem = nn.ModuleList([encoder.conv1, encoder.bn1])
    stages = [stem, encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    for stage in stages[: 5 - trainable_layers]:
        stage.requires_grad_(False)
    widest = encoder.fc.in_features
    names = {f"layer{number + 1}": str(number) for number in range(4)}
    return BackboneWithFPN(encoder, names, [widest // 8, widest // 4, widest // 2, widest], channels)


def load_file(module: nn.Module, path: str | Path, *, of: str, optional: tuple[str, ...] = ()) -> None:
    """Load a state dict from a file; nothing is ever downloaded.

    Args:
        module: what to load into.
        path: the file, read with ``weights_only``.
        of: whose keys are expected, for the sentence.
        optional: beginnings of names that may be missing or have another shape.

    Raises:
        ValueError: keys or shapes differ; the first of them are named.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = module.state_dict()
    for name in [name for name in state if optional and name.startswith(optional) and name in own]:
        if state[name].shape != own[name].shape:
            del state[name]
    differ = [name for name in own if name in state and own[name].shape != state[name].shape]
    if not differ:
        # Modules rename keys of torchvision's older files while they load, so only now is it known which are too many.
        missing, extra = module.load_state_dict(state, strict=False)
        differ = sorted(name for name in [*missing, *extra] if not (optional and name.startswith(optional)))
    if differ:
        shown = ", ".join(differ[:3]) + (", ..." if len(differ) > 3 else "")
        raise ValueError(f"{path}: {len(differ)} keys differ from {of} ({shown}).")
