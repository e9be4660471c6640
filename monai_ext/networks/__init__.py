# SPDX-License-Identifier: Apache-2.0
"""Networks that neither MONAI nor torchvision has in this form."""

from monai_ext.networks.aligned_roi_pool import AlignedRoIPool, crop_masks, paste_masks
from monai_ext.networks.attention_unet import InstanceNormAttentionUnet
from monai_ext.networks.collaborator import Collaborator
from monai_ext.networks.convnext_fpn import ConvNeXtFPN
from monai_ext.networks.deeplabv3plus import DeepLabV3Plus
from monai_ext.networks.detector_training import Answers, DetectorTraining, LabeledTraining, mirror_boxes
from monai_ext.networks.hover_net import HoVerNetTraining, make_hover_net
from monai_ext.networks.instance_relation import DuplicateRemoval, InstanceRelation
from monai_ext.networks.mask_rcnn import CellMaskRCNN
from monai_ext.networks.patch_features import NoFeatures, PatchFeatures, StainTexture, features_or_exit
from monai_ext.networks.patch_generators import PatchGenerators, make_critics, make_generators
from monai_ext.networks.point_instance_net import PointInstanceNet
from monai_ext.networks.point_training import CellPredictions, PointTraining
from monai_ext.networks.sin_gan import ComponentCritics, ConditionalSinGAN
from monai_ext.networks.unet2p5d import UNet2p5d

__all__ = [
    "AlignedRoIPool",
    "Answers",
    "CellMaskRCNN",
    "CellPredictions",
    "Collaborator",
    "ComponentCritics",
    "ConditionalSinGAN",
    "ConvNeXtFPN",
    "DeepLabV3Plus",
    "DetectorTraining",
    "DuplicateRemoval",
    "HoVerNetTraining",
    "InstanceNormAttentionUnet",
    "InstanceRelation",
    "LabeledTraining",
    "NoFeatures",
    "PatchFeatures",
    "PatchGenerators",
    "PointInstanceNet",
    "PointTraining",
    "StainTexture",
    "UNet2p5d",
    "crop_masks",
    "features_or_exit",
    "make_critics",
    "make_generators",
    "make_hover_net",
    "mirror_boxes",
    "paste_masks",
]
