# SPDX-License-Identifier: Apache-2.0
"""Aggregated Jaccard index of instances, as MMT-PSM's released code computes it and without its threshold."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from monai_ext.functional.instances import Overlaps
from monai_ext.metrics.instance_ap import InstanceMetric, nan_mean


def aggregated_jaccard(overlaps: Overlaps, *, iou_gate: float = 0.5) -> float:
    r"""Aggregated Jaccard index of one image.

    Kumar et al., IEEE TMI 36(7), 2017, Algorithm 1; in MMT-PSM (Zhou et al., MICCAI 2020) "average Jaccard
    index":

    .. math::
        AJI = \frac{\sum_{(i, j) \in M} |G_i \cap S_j|}
        {\sum_{(i, j) \in M} |G_i \cup S_j| + \sum_{i \notin M} |G_i| + \sum_{j \notin M} |S_j|}

    :math:`G_i` are the references, :math:`S_j` the predictions, :math:`M` the matched pairs, each of which shares a
    pixel and has an IoU of at least ``iou_gate``. Instances of one kind may overlap.

    An instance is in one pair at most. Pairs are made by falling IoU: of two references with the same best prediction
    the one with the higher IoU has it, and the other takes the best of those left, or stays unmatched. So the value
    does not depend on the order of the instances, but for pairs of equal IoU: of these the one that shares more pixels
    goes first, then the earlier reference, then the earlier prediction.

    MMT-PSM's code lets the references choose in the order of the file. At its gate of 0.5 this can differ only where
    a prediction reaches the gate with two references: those overlap, or the prediction is the union of two of equal
    size. Kumar's algorithm, and programs such as HoVer-Net's, let references share a prediction, whose area then
    counts in the union of each; the AJI+ of HoVer-Net's authors uses a prediction once, as here, but maximises the sum
    of the IoU.

    Args:
        overlaps: of the image's predictions and references of one class.
        iou_gate: 0.5 as in MMT-PSM's code; 0 for no threshold, as in Kumar et al.

    Returns:
        From 0 to 1; 0 where only one kind has a pixel, NaN where neither has.
    """
    pairs = overlaps.pairs()
    order = np.lexsort((pairs.prediction, pairs.reference, -pairs.intersection, -pairs.iou))
    order = order[pairs.iou[order] >= iou_gate]
    predictions: set[int] = set()
    references: set[int] = set()
    shared = 0
    for k in order.tolist():
        p, r = int(pairs.prediction[k]), int(pairs.reference[k])
        if p not in predictions and r not in references:
            predictions.add(p)
            references.add(r)
            shared += int(pairs.intersection[k])
    # A matched union is both areas less the shared pixels, so all areas count once and the shared pixels are taken off.
    total = int(overlaps.prediction_areas.sum() + overlaps.reference_areas.sum()) - shared
    return shared / total if total else float("nan")


class AggregatedJaccard(InstanceMetric):
    """Mean AJI over images, by class; see :func:`aggregated_jaccard`.

    Each call of ``update`` adds one image's instances of one class, with the class as ``group``. Images that hold
    neither a reference nor a prediction of the class are left out of its mean. An image with references and no
    prediction, or the other way round, counts as 0.

    The value depends on ``score_floor``, so state it beside the value.

    Args:
        iou_gate: 0.5 as in MMT-PSM's code; 0 for no threshold, as in Kumar et al.
        score_floor: predictions of lower scores are left out; 0.1 as in MMT-PSM's code.
    """

    def __init__(self, *, iou_gate: float = 0.5, score_floor: float = 0.1) -> None:
        super().__init__(score_floor=score_floor)
        self.iou_gate = iou_gate

    def value(self, *, group: Hashable = None) -> float:
        """Mean over the images of a class, or the mean of this over the classes.

        Args:
            group: the class; None for the mean over all. A class without any instance is left out of it.

        Returns:
            From 0 to 1; NaN where no image holds an instance.

        Raises:
            ValueError: no image was measured.
        """
        images = self.of_group(group)
        groups = dict.fromkeys(image.group for image in images)
        return nan_mean([nan_mean([image.measured for image in images if image.group == one]) for one in groups])

    def of_images(self) -> NDArray[np.float64]:
        """AJI of each update alone (updates,), in the order in which they came; NaN where it held no instance."""
        return np.array([image.measured for image in self.images])

    def _measure(self, overlaps: Overlaps, scores: NDArray[np.float64]) -> float:
        return aggregated_jaccard(overlaps, iou_gate=self.iou_gate)
