# SPDX-License-Identifier: Apache-2.0
"""Networks that neither MONAI nor torchvision has."""

from monai_ext.networks.unet2p5d import UNet2p5d

__all__ = ["UNet2p5d"]
