# SPDX-License-Identifier: Apache-2.0
"""One training iteration a paper."""

from monai_ext.engines.cks import CKSStep
from monai_ext.engines.co_training import CoTrainingStep
from monai_ext.engines.csingan import CSinGANStep
from monai_ext.engines.detection import DetectionStep
from monai_ext.engines.eugmt import EUGMTStep
from monai_ext.engines.mmt_psm import MMTPSMStep
from monai_ext.engines.pa_seg import PASegStep
from monai_ext.engines.scm import SCMStep, scm_targets
from monai_ext.engines.step import TrainStep

__all__ = [
    "CKSStep",
    "CSinGANStep",
    "CoTrainingStep",
    "DetectionStep",
    "EUGMTStep",
    "MMTPSMStep",
    "PASegStep",
    "SCMStep",
    "TrainStep",
    "scm_targets",
]
