# SPDX-License-Identifier: Apache-2.0
"""All instances of an image, overlaps included, as a label map cannot hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.inferers import Inferer
from pycocotools import mask as coco_mask
from torch import Tensor


class DetectionInferer(Inferer):
    """The instances that a detector such as :class:`~monai_ext.networks.CellMaskRCNN` finds.

    Pictures are as MONAI reads them, columns first; masks are given as others draw them, rows first.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """For each image (C, X, Y) of a batch ``masks``, N compressed run lengths of COCO on the grid (Y, X),
        ``labels`` int64 (N,) and ``scores`` (N,), by falling score.

        Args:
            inputs: (B, C, X, Y).
            network: has ``instances``, as :class:`~monai_ext.networks.CellMaskRCNN` does, scripted or not.
        """
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        return [self._of_image(image, network) for image in images.split(1)]

    def _of_image(self, image: Tensor, network: Any) -> dict[str, Any]:
        found = network.instances(image)
        masks = found["pasted"].cpu().numpy()
        # A mask (X, Y) in the order of C is the same mask (Y, X) in Fortran's, which COCO's run lengths follow.
        runs = [coco_mask.encode(mask.astype(np.uint8).T) for mask in masks]
        return {"masks": runs, "labels": found["labels"].cpu(), "scores": found["scores"].float().cpu()}
