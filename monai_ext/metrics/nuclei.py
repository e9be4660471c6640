# SPDX-License-Identifier: Apache-2.0
"""Metrics of nuclei as label maps, each a mean over images: AJI, AJI+, panoptic quality and Dice of the foreground.

For instances of one kind that do not overlap each other, as in a label map.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from monai_ext.functional.instances import Ints, Overlaps
from monai_ext.metrics.instance_ap import InstanceMetric, nan_mean

NucleiName = Literal["aji", "aji_plus", "pq", "foreground_dice"]


def shared_jaccard(overlaps: Overlaps) -> float:
    r"""Aggregated Jaccard index of one image (AJI), as programs for nuclei compute it.

    Each reference takes the prediction of highest IoU, if any shares a pixel with it, and a prediction may serve
    several references:

    .. math::
        AJI = \frac{\sum_{i \in M} |T_i \cap S_{j(i)}|}
        {\sum_{i \in M} |T_i \cup S_{j(i)}| + \sum_{i \notin M} |T_i| + \sum_{j \in U} |S_j|}

    :math:`T_i` are the references, :math:`M` those that share a pixel with a prediction, :math:`S_{j(i)}` the one that
    :math:`i` takes, :math:`U` the predictions that no reference takes. HoVer-Net's program does so. The text of
    "Which pixel to annotate" (Lou et al., IEEE TMI 2022, section IV) says otherwise: the prediction of greatest
    intersection, and in :math:`U` only predictions that touch no reference.

    Of predictions of equal IoU the largest is taken, then the earliest; HoVer-Net's program takes the earliest, so it
    gives the same where predictions are numbered by falling area.

    See :func:`monai_ext.metrics.aji.aggregated_jaccard` for the variant that uses a prediction once.

    Args:
        overlaps: of the image's predictions and references.

    Returns:
        From 0 to 1; 0 where only one kind has a pixel, NaN where neither has.
    """
    pairs = overlaps.pairs()
    order = np.lexsort((pairs.prediction, -pairs.intersection, -pairs.iou, pairs.reference))
    references, first = np.unique(pairs.reference[order], return_index=True)
    return _jaccard_of_pairs(overlaps, pairs.prediction[order[first]], references)


def matched_jaccard(overlaps: Overlaps) -> float:
    """The ratio of :func:`shared_jaccard` where a prediction serves one reference at most (AJI+).

    The pairs are those of the one-to-one matching of the greatest sum of IoU, as in the AJI+ of HoVer-Net's authors.
    Where several matchings reach that sum, the value can depend on the order of the instances.

    Args:
        overlaps: of the image's predictions and references.

    Returns:
        From 0 to 1; 0 where only one kind has a pixel, NaN where neither has.
    """
    # The matching also pairs leftovers that share no pixel, which changes nothing: their union is both areas.
    return _jaccard_of_pairs(overlaps, *linear_sum_assignment(overlaps.iou(), maximize=True))


class PanopticQuality(NamedTuple):
    """Panoptic quality of one image and its two factors, each from 0 to 1."""

    quality: float
    """detection times segmentation"""
    detection: float
    """F1 of the pairs; "rq" in MONAI"""
    segmentation: float
    """mean IoU of the pairs; 0 without one"""


def panoptic_quality(overlaps: Overlaps) -> PanopticQuality:
    r"""Panoptic quality of one image, Kirillov et al., CVPR 2019, Eq. 1.

    .. math:: PQ = \frac{|TP|}{|TP| + |FP| / 2 + |FN| / 2} \cdot \frac{1}{|TP|} \sum_{(i, j) \in TP} IoU(T_i, S_j)

    :math:`TP` are the pairs whose IoU exceeds 0.5, of which an instance of a label map is in one at most, :math:`FP`
    the predictions and :math:`FN` the references in none. MONAI's ``compute_panoptic_quality`` adds a small constant
    to the denominator and gives 0 for two empty maps.

    Args:
        overlaps: of the image's predictions and references.

    Returns:
        Zeros where only one kind has an instance, NaN where neither has.
    """
    iou = overlaps.pairs().iou
    found = iou[iou > 0.5]
    instances = len(overlaps.prediction_areas) + len(overlaps.reference_areas)
    if not instances:
        return PanopticQuality(float("nan"), float("nan"), float("nan"))
    detection = 2 * len(found) / instances
    segmentation = float(found.mean()) if len(found) else 0.0
    return PanopticQuality(detection * segmentation, detection, segmentation)


def foreground_dice(overlaps: Overlaps) -> float:
    """Dice of all pixels of the predictions against all of the references of one image.

    The areas and intersections of a label map's instances add up to those of its foreground.

    Args:
        overlaps: of the image's predictions and references.

    Returns:
        From 0 to 1; 0 where only one kind has a pixel, NaN where neither has.
    """
    total = int(overlaps.prediction_areas.sum() + overlaps.reference_areas.sum())
    return 2 * int(overlaps.intersections.sum()) / total if total else float("nan")


_MEASURES: dict[str, Callable[[Overlaps], float]] = {
    "aji": shared_jaccard,
    "aji_plus": matched_jaccard,
    "pq": lambda overlaps: panoptic_quality(overlaps).quality,
    "foreground_dice": foreground_dice,
}


class NucleiMetric(InstanceMetric):
    """Mean over images of a metric of nuclei, as the tables of Lou et al., IEEE TMI 2022, give them.

    Each image counts the same, whatever its group, such as the organ: the value of all is not the mean over groups.
    An image with neither a reference nor a prediction is left out (NaN); with only one of them it counts as 0.

    Args:
        name: ``aji``, see :func:`shared_jaccard`; ``aji_plus``, see :func:`matched_jaccard`; ``pq``, see
            :func:`panoptic_quality`; ``foreground_dice``, see :func:`foreground_dice`.
        score_floor: predictions of lower scores are left out; 0.5 is the released code's for its pseudo-labels, none is
            given for the tables.

    Raises:
        ValueError: unknown name.
    """

    def __init__(self, name: NucleiName = "aji", *, score_floor: float = 0.5) -> None:
        if name not in _MEASURES:
            raise ValueError(f"metric is {name!r}, expected one of {', '.join(map(repr, _MEASURES))}.")
        super().__init__(score_floor=score_floor)
        self.name = name

    def value(self, *, group: Hashable = None) -> float:
        """Mean over all images, or over a group's.

        Returns:
            From 0 to 1; NaN where no image holds an instance.

        Raises:
            ValueError: no image was measured.
        """
        return nan_mean([image.measured for image in self.of_group(group)])

    def of_images(self) -> NDArray[np.float64]:
        """The metric of each image alone (images,), in the order in which they came; NaN where it held no instance."""
        return np.array([image.measured for image in self.images], dtype=np.float64)

    def _measure(self, overlaps: Overlaps, scores: NDArray[np.float64]) -> float:
        return _MEASURES[self.name](overlaps)


def _jaccard_of_pairs(overlaps: Overlaps, prediction: Ints, reference: Ints) -> float:
    """Intersections over unions of pairs (K,), (K,), with all that is in no pair in the denominator.

    A reference is in one pair at most; a prediction may be in several, and its area then counts in each union.
    """
    shared = int(overlaps.intersections[prediction, reference].sum())
    uses = np.bincount(prediction, minlength=len(overlaps.prediction_areas))
    total = int((overlaps.prediction_areas * np.maximum(uses, 1)).sum() + overlaps.reference_areas.sum()) - shared
    return shared / total if total else float("nan")
