# SPDX-License-Identifier: Apache-2.0
"""Ways over an image that MONAI's inferers do not know."""

from monai_ext.inferers.cells import CellInferer
from monai_ext.inferers.detections import DetectionInferer, LabelMapInferer
from monai_ext.inferers.hover import HoVerLabelMapInferer
from monai_ext.inferers.window_features import WindowFeatureInferer

__all__ = ["CellInferer", "DetectionInferer", "HoVerLabelMapInferer", "LabelMapInferer", "WindowFeatureInferer"]
