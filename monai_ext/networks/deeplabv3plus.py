# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ on torchvision's ResNet and ASPP, which MONAI does not have."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from monai_ext.networks.encoders import resnet_encoder

ASPP_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Atrous rates by output stride, as published."""


class DeepLabV3Plus(nn.Module):
    """Encoder with atrous convolutions and a decoder with one skip connection (Chen et al., ECCV 2018).

    With ``resnet50`` and output stride 8 it is the network of UCMT's released code, of which EUGMT says "ResNet50
    Deeplabv3+": plain, not separable, convolutions, an ASPP with image pooling, 48 channels from stride 4, and 39.76
    million parameters for two classes (``resnet34``: 26.12, ``resnet18``: 16.01). The 3x3 convolutions that follow a
    stride taken out are dilated instead, so pretrained filters still fit.

    Args:
        in_channels: channels of the image.
        out_channels: classes C, background included.
        backbone: ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
        output_stride: 8 or 16, how much coarser than the image the ASPP sees.
        aspp_channels: features of the ASPP and the decoder.
        skip_channels: features of the skip connection.
        dropout: after the ASPP.
        backbone_weights: a file with torchvision's state dict for this backbone, for example of ImageNet; nothing is
            ever downloaded. None starts from random numbers.

    Shapes: (B, in_channels, H, W) to logits (B, C, H, W), for any H and W; while training B is at least 2, as the image
    pooling normalises one value an image.

    Raises:
        ValueError: an option out of range, or weights that do not fit, with the keys that differ.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        *,
        backbone: str = "resnet50",
        output_stride: int = 8,
        aspp_channels: int = 256,
        skip_channels: int = 48,
        dropout: float = 0.5,
        backbone_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in ASPP_RATES:
            raise ValueError(f"output_stride: found {output_stride}, expected 8 or 16.")
        encoder = resnet_encoder(backbone, in_channels, weights=backbone_weights)
        if output_stride == 8:
            _replace_stride(encoder.layer3, before=1)
        _replace_stride(encoder.layer4, before=16 // output_stride)
        self.stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            encoder.layer1,
            encoder.layer2,
            encoder.layer3,
            encoder.layer4,
        )
        widest = encoder.fc.in_features
        self.aspp = ASPP(widest, ASPP_RATES[output_stride], aspp_channels)
        self.aspp.project[3].p = dropout
        self.skip = _convolution(widest // 8, skip_channels, 1)
        self.decoder = nn.Sequential(
            _convolution(aspp_channels + skip_channels, aspp_channels, 3),
            nn.Conv2d(aspp_channels, out_channels, 1),
        )
        for head in (self.aspp, self.skip, self.decoder):
            for module in head.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        if self.training and image.shape[0] == 1:
            raise ValueError("DeepLabV3Plus: found a batch of one image, expected at least two while training.")
        fine = self.layer1(self.stem(image))
        coarse = self.aspp(self.layer4(self.layer3(self.layer2(fine))))
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        logits = self.decoder(torch.cat([coarse, self.skip(fine)], 1))
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def _replace_stride(layer: nn.Sequential, *, before: int) -> None:
    """Take out a stage's stride of 2 and dilate its 3x3 convolutions, of which ``before`` is the dilation so far.

    At every second pixel the result is what the stage gave. torchvision's own option is for bottlenecks only.
    """
    dilation = before
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            strided, module.stride = module.stride != (1, 1), (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
                dilation = 2 * before if strided else dilation
