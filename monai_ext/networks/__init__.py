# SPDX-License-Identifier: Apache-2.0
"""Networks that neither MONAI nor torchvision has in this form."""

from monai_ext.networks.attention_unet import InstanceNormAttentionUnet
from monai_ext.networks.deeplabv3plus import DeepLabV3Plus
from monai_ext.networks.unet2p5d import UNet2p5d

__all__ = ["DeepLabV3Plus", "InstanceNormAttentionUnet", "UNet2p5d"]
