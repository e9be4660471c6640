# SPDX-License-Identifier: Apache-2.0
"""Loss modules that a config constructs; all take logits first."""

from monai_ext.losses.adversarial import WassersteinCriticLoss
from monai_ext.losses.consistency import CoTeachingLoss, CrossPseudoLoss
from monai_ext.losses.crf import MultiViewCRFLoss
from monai_ext.losses.distillation import SoftLabelDistillationLoss
from monai_ext.losses.feature_distillation import MaskGuidedDistillationLoss
from monai_ext.losses.masked_consistency import MaskedConsistencyLoss
from monai_ext.losses.partial import PartialLoss
from monai_ext.losses.point_detection import PointDetectionLoss
from monai_ext.losses.regularizers import EntropyLoss, MumfordShahLoss, SizeLoss, TotalVariationLoss
from monai_ext.losses.sensitivity import SensitiveSampleLoss
from monai_ext.losses.sharing import BorderSharingLoss, CollapseLoss, ForegroundSharingLoss, InstanceSharingLoss
from monai_ext.losses.variance import VarianceLoss

__all__ = [
    "BorderSharingLoss",
    "CoTeachingLoss",
    "CollapseLoss",
    "CrossPseudoLoss",
    "EntropyLoss",
    "ForegroundSharingLoss",
    "InstanceSharingLoss",
    "MaskGuidedDistillationLoss",
    "MaskedConsistencyLoss",
    "MultiViewCRFLoss",
    "MumfordShahLoss",
    "PartialLoss",
    "PointDetectionLoss",
    "SensitiveSampleLoss",
    "SizeLoss",
    "SoftLabelDistillationLoss",
    "TotalVariationLoss",
    "VarianceLoss",
    "WassersteinCriticLoss",
]
