# SPDX-License-Identifier: Apache-2.0
"""Metrics of instances that need no ranking: Dice weighted by area, and the error of their number."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_ext.functional.instances import Overlaps
from monai_ext.metrics.instance_ap import InstanceMetric, MeasuredImage


class DiceSums(NamedTuple):
    """Sums over an image's instances; pixels."""

    reference: float
    """of each reference's area times its Dice"""
    reference_area: float
    prediction: float
    """of each prediction's area times its Dice"""
    prediction_area: float


def dice_sums(overlaps: Overlaps) -> DiceSums:
    """Sums both halves of the instance Dice over one image.

    An instance's partner is the instance of the other kind that shares the most pixels with it, and one may be
    partner to many. Of several that share equally many the smaller counts, which does not depend on their order. Its
    Dice is twice the shared pixels over both areas, 0 without a partner.
    """
    pairs = overlaps.pairs()
    areas = overlaps.prediction_areas[pairs.prediction] + overlaps.reference_areas[pairs.reference]
    dice = 2 * pairs.intersection / areas
    halves = []
    for owner, own_areas in (
        (pairs.reference, overlaps.reference_areas),
        (pairs.prediction, overlaps.prediction_areas),
    ):
        order = np.lexsort((-dice, -pairs.intersection, owner))
        owners, first = np.unique(owner[order], return_index=True)
        halves += [float((own_areas[owners] * dice[order[first]]).sum()), float(own_areas.sum())]
    return DiceSums(*halves)


def dice_of_sums(sums: Sequence[DiceSums]) -> float:
    """The instance Dice of images together; 1 where neither kind has a pixel, 0 where one has none."""
    reference, reference_area, prediction, prediction_area = np.sum(sums, axis=0)
    if not reference_area and not prediction_area:
        return 1.0
    return float((reference / max(reference_area, 1) + prediction / max(prediction_area, 1)) / 2)


class InstanceDice(InstanceMetric):
    r"""Instance Dice of Yu, CKS, IEEE TMI 2023, Eq. 15, over all images together.

    .. math:: Dice = \frac{1}{2} \Big( \sum_i w_i D(g_i, m_{g_i}) + \sum_j w_j D(m_j, g_{m_j}) \Big)

    :math:`g_i` are the references, :math:`m_j` the predictions, each with its partner of the other kind as in
    :func:`dice_sums`. The paper does not define partners and weights; both are as in the released code: :math:`w_i`
    is the area of :math:`g_i` over that of all references of the data set, and likewise for predictions.

    Two empty images give 1 and one empty 0, of a single image as of a data set; within a data set an image adds
    nothing for a kind that it lacks.

    Args:
        score_floor: predictions of lower scores are left out; 0.5 in the released code.
    """

    def __init__(self, *, score_floor: float = 0.5) -> None:
        super().__init__(score_floor=score_floor)

    def value(self, *, group: Hashable = None) -> float:
        """Dice from 0 to 1 of all images together, or of a group's.

        Raises:
            ValueError: no image was measured.
        """
        return dice_of_sums([image.measured for image in self.of_group(group)])

    def of_images(self) -> NDArray[np.float64]:
        """Dice of each image alone (images,), in the order in which they came."""
        return np.array([dice_of_sums([image.measured]) for image in self.images])

    def _measure(self, overlaps: Overlaps, scores: NDArray[np.float64]) -> DiceSums:
        return dice_sums(overlaps)


class InstanceCountError(InstanceMetric):
    """How far the number of instances in an image is off: the mean over images of the absolute difference.

    Args:
        score_floor: predictions of lower scores are left out.
    """

    def __init__(self, *, score_floor: float = 0.5) -> None:
        super().__init__(score_floor=score_floor)

    def value(self, *, group: Hashable = None) -> float:
        """Mean error in instances per image.

        Raises:
            ValueError: no image was measured.
        """
        return float(np.mean([_count_error(image) for image in self.of_group(group)]))

    def of_images(self) -> NDArray[np.float64]:
        """The error of each image (images,), in the order in which they came."""
        return np.array([_count_error(image) for image in self.images])


def _count_error(image: MeasuredImage) -> float:
    return float(abs(image.predictions - image.references))
