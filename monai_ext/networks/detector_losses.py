# SPDX-License-Identifier: Apache-2.0
"""What a detector learns from labelled images: the losses of Mask R-CNN and of IR-Net's two parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import fastrcnn_loss

from monai_ext.networks.aligned_roi_pool import crop_masks
from monai_ext.networks.instance_relation import duplicate_loss
from monai_ext.networks.mask_rcnn import CellMaskRCNN

Target = dict[str, Tensor]


def detector_losses(
    network: CellMaskRCNN, features: list[Tensor], targets: list[Target], *, image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Losses of Mask R-CNN, as torchvision defines them; anchors and proposals are sampled at random.

    Args:
        network: the detector.
        features: what its :py:meth:`~CellMaskRCNN.features` gives. Gradient passes.
        targets: for each image boxes (N, 4), labels int64 (N,) from 1 on and masks (N, H, W); N may be 0.
        image_size: H, W of the images before they were filled up.

    Returns:
        ``rpn_objectness``, ``rpn_box``, ``class``, ``box`` and ``mask``, scalars; without objects ``rpn_box``,
        ``box`` and ``mask`` are 0 and still have a graph. With ``instance_relation``, ``mask`` is the mean of both
        masks' losses; with ``duplicate_removal`` there is ``duplicate`` too, the mean squared error of its answer.

    Raises:
        ValueError: a target's box has no area, whose regression would be infinite.
    """
    if any((target["boxes"][:, 2:] <= target["boxes"][:, :2]).any() for target in targets):
        raise ValueError("targets: found a box without area, expected x1 < x2 and y1 < y2.")
    objectness, deltas, anchors, counts = network.rpn.answer(features)
    labels, matched = network.rpn.assign_targets_to_anchors(anchors, targets)
    regression = network.rpn.box_coder.encode(matched, anchors)
    rpn_objectness, rpn_box = network.rpn.compute_loss(objectness, deltas, labels, regression)
    proposals = network.rpn.propose(objectness.detach(), deltas.detach(), anchors, counts, image_size)
    boxes, owners, labels, regression = network.roi_heads.select_training_samples(proposals, targets)
    logits, box_deltas, hidden = network.rois(features, boxes, image_size)
    class_loss, box_loss = fastrcnn_loss(logits, box_deltas, labels, regression)
    losses = {
        "rpn_objectness": rpn_objectness,
        "rpn_box": rpn_box,
        "class": class_loss,
        "box": box_loss,
        "mask": mask_loss(network, features, targets, boxes=boxes, owners=owners, labels=labels),
    }
    if network.removal is not None:
        ranked = network.ranked(boxes, logits.detach(), box_deltas.detach(), hidden, image_size)
        losses["duplicate"] = duplicate_loss(ranked, targets)
    return losses


def mask_loss(
    network: CellMaskRCNN,
    features: list[Tensor],
    targets: list[Target],
    *,
    boxes: list[Tensor],
    owners: list[Tensor],
    labels: list[Tensor],
) -> Tensor:
    """Cross-entropy of the own class's masks, over the sampled boxes that lie on an object.

    Args:
        network, features, targets: as in :py:func:`detector_losses`.
        boxes: the sampled ones of each image (R_b, 4).
        owners: of each box the target that it belongs to, int64 (R_b,).
        labels: and its class, 0 for none, int64 (R_b,).
    """
    kept = [label > 0 for label in labels]
    boxes = [some[keep] for some, keep in zip(boxes, kept, strict=True)]
    logits = network.own_masks(features, boxes, [some[keep] for some, keep in zip(labels, kept, strict=True)])
    seen = [
        crop_masks(target["masks"], some, owner[keep], size=logits.shape[-1])
        for target, some, owner, keep in zip(targets, boxes, owners, kept, strict=True)
        if len(some)
    ]
    if not seen:
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits, torch.cat(seen).expand_as(logits))
