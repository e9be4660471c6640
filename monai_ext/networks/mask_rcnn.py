# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN of torchvision's parts, which can be called apart, for cells that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FrozenBatchNorm2d, clip_boxes_to_image

from monai_ext.functional.instance_map import number_masks
from monai_ext.networks.aligned_roi_pool import AlignedRoIPool, paste_masks
from monai_ext.networks.anchors import RegionProposals
from monai_ext.networks.encoders import load_file, resnet_encoder, with_pyramid
from monai_ext.networks.instance_relation import DuplicateRemoval, InstanceRelation

NORMS: dict[str, Callable[..., nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}
BOX_BINS, MASK_BINS = 7, 14
CLASS_LAYERS = (
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
)
"""Layers whose shape depends on the number of classes."""
IR_NET = ("relation.", "removal.")


class CellMaskRCNN(nn.Module):
    """Detects instances of several classes, which may overlap, and segments each (He et al., ICCV 2017).

    ``forward`` takes an image to its instance label maps and is scriptable. Training uses the parts:
    :py:meth:`features`, :py:meth:`proposals`, :py:meth:`rois`, :py:meth:`detect`; its losses are in
    :py:mod:`~monai_ext.networks.detector_losses`. Layers and
    their names are those of torchvision's ``maskrcnn_resnet50_fpn``. What differs: images come normalised and keep
    their size; boxes are pooled, cut out and pasted without a shift of half a pixel
    (:py:class:`~monai_ext.networks.aligned_roi_pool.AlignedRoIPool`); anchors of P6 are 64 px apart at any image size.
    Boxes are x1, y1, x2, y2 in px with the corner origin.

    Source of the defaults: the base model of Zhou et al., "Deep semi-supervised knowledge distillation for overlapping
    cervical cell instance segmentation" (MICCAI 2020), in its released code. That code also freezes the stem and the
    first stage: ``trainable_layers=3``.

    Args:
        in_channels: channels of the image.
        classes: C, background included.
        backbone: ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
        trainable_layers: stages that learn, from the last on; 5 is all of them, the stem included.
        norm: of the backbone: ``"frozen"`` keeps the batch statistics of a weights file; to train from random numbers,
            ``"group"`` works at any batch size, ``"batch"`` learns statistics and needs several images.
        channels: of the pyramid's levels and of the mask head.
        anchor_sizes: in px, one for each level P2 to P6.
        aspect_ratios: height by width of the anchors.
        detections: at most so many in an image.
        score_threshold: detections have a higher score.
        nms_iou: of two detections of a class that overlap more, the better one stays.
        box_dropout: after the box head, while training.
        proposals: at most so many, of a level before and of an image after suppression.
        box_samples: proposals of an image that the heads learn from, at most a quarter of them on objects.
        hidden: width of the box head.
        instance_relation: IR-Net's masks, see :py:class:`~monai_ext.networks.InstanceRelation`.
        duplicate_removal: IR-Net's scores, see :py:class:`~monai_ext.networks.DuplicateRemoval`.
        backbone_weights: a file with torchvision's state dict for the backbone.
        weights: a file with torchvision's state dict for the whole network; layers of another number of classes are
            left out, IR-Net's may be missing. Nothing is ever downloaded.

    Raises:
        ValueError: an option out of range, or weights that do not fit, with the keys that differ.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        classes: int = 3,
        backbone: str = "resnet50",
        trainable_layers: int = 5,
        norm: str = "frozen",
        channels: int = 256,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        detections: int = 200,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        box_dropout: float = 0.5,
        proposals: int = 2000,
        box_samples: int = 512,
        hidden: int = 1024,
        instance_relation: bool = False,
        duplicate_removal: bool = False,
        backbone_weights: str | Path | None = None,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes: found {len(anchor_sizes)}, expected one for each level P2 to P6.")
        self.classes, self.box_dropout = classes, box_dropout
        self.score_threshold, self.nms_iou, self.most = score_threshold, nms_iou, detections
        self.divisor = 32
        if norm not in NORMS:
            raise ValueError(f"norm: found {norm!r}, expected one of {', '.join(NORMS)}.")
        encoder = resnet_encoder(backbone, in_channels, norm=NORMS[norm], weights=backbone_weights)
        self.backbone = with_pyramid(encoder, channels, trainable_layers=trainable_layers)
        self.rpn = RegionProposals(channels, anchor_sizes, aspect_ratios=aspect_ratios, proposals=proposals)
        self.roi_heads = _Heads(
            box_roi_pool=AlignedRoIPool(BOX_BINS),
            box_head=TwoMLPHead(channels * BOX_BINS**2, hidden),
            box_predictor=FastRCNNPredictor(hidden, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=box_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms_iou,
            detections_per_img=detections,
            mask_roi_pool=AlignedRoIPool(MASK_BINS),
            mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes),
        )
        self.relation = InstanceRelation(channels, classes) if instance_relation else None
        self.removal = DuplicateRemoval(hidden) if duplicate_removal else None
        if weights is not None:
            load_file(self, weights, of="the network's", optional=CLASS_LAYERS + IR_NET)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) of any size to label maps (B, C - 1, H, W), float32, one for each class.

        1 to N are the class's instances by falling score, 0 is background. Where two overlap, the better one has the
        pixel; an instance that shows nowhere has no number.
        """
        height, width = image.shape[2], image.shape[3]
        maps: list[Tensor] = []
        for found in self.detect(self.features(image), (height, width)):
            masks = paste_masks(found["masks"], found["boxes"], height, width)
            for label in range(1, self.classes):
                maps.append(number_masks(masks[found["labels"] == label]))
        return torch.stack(maps).view(image.shape[0], self.classes - 1, height, width)

    @torch.jit.export
    def instances(self, image: Tensor) -> dict[str, Tensor]:
        """What :py:meth:`detect` finds in one image (1, in_channels, H, W), and ``"pasted"``: bool (N, H, W)."""
        height, width = image.shape[2], image.shape[3]
        found = self.detect(self.features(image), (height, width))[0]
        found["pasted"] = paste_masks(found["masks"], found["boxes"], height, width)
        return found

    @torch.jit.export
    def features(self, image: Tensor) -> list[Tensor]:
        """P2 to P6 of the image filled up with zeros to sides that 32 divides."""
        height, width = image.shape[2], image.shape[3]
        padded = F.pad(image, [0, -width % self.divisor, 0, -height % self.divisor])
        return list(self.backbone(padded).values())

    @torch.jit.export
    def proposals(self, features: list[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Where objects may be: for each image (P, 4), by falling objectness, without gradient; alike in both modes.

        Args:
            features: what :py:meth:`features` gives.
            image_size: H, W of the images before they were filled up.

        Raises:
            ValueError: the features are not those of images of this size.
        """
        _check_size(features, image_size)
        with torch.no_grad():
            objectness, deltas, anchors, counts = self.rpn.answer(features)
            boxes = self.rpn.propose(objectness, deltas, anchors, counts, image_size)
        return boxes

    @torch.jit.export
    def rois(
        self, features: list[Tensor], boxes: list[Tensor], image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the box head says of given boxes; with dropout while training.

        Args:
            features: what :py:meth:`features` gives. Gradient passes.
            boxes: for each image (R_b, 4). No gradient passes.
            image_size: H, W of the images before they were filled up.

        Returns:
            class logits (R, C), box regression (R, 4 C) and the box head's features (R, hidden), of the R boxes of all
            images.

        Raises:
            ValueError: the features are not those of images of this size.
        """
        _check_size(features, image_size)
        return self._score(features, boxes, self.training)

    @torch.jit.export
    def detect(self, features: list[Tensor], image_size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Instances of each image by falling score, in whatever mode as in evaluation.

        Args:
            features: what :py:meth:`features` gives.
            image_size: H, W of the images before they were filled up.

        Returns:
            for each image boxes (N, 4), labels int64 (N,) from 1 on, scores (N,) and masks (N, 28, 28), probabilities
            of the own class in the box.
        """
        proposals = self.proposals(features, image_size)
        logits, deltas, hidden = self._score(features, proposals, False)
        return self.decode(features, proposals, logits, deltas, hidden, image_size)

    @torch.jit.export
    def decode(
        self,
        features: list[Tensor],
        proposals: list[Tensor],
        logits: Tensor,
        deltas: Tensor,
        hidden: Tensor,
        image_size: tuple[int, int],
    ) -> list[dict[str, Tensor]]:
        """The instances that :py:meth:`rois` of :py:meth:`proposals` amount to, as :py:meth:`detect` gives them."""
        boxes, scores, labels = self.select(proposals, logits, deltas, hidden, image_size)
        masks = self.own_masks(features, boxes, labels)[-1].sigmoid().split([len(some) for some in boxes])
        found: list[dict[str, Tensor]] = []
        for number, some in enumerate(boxes):
            found.append({"boxes": some, "labels": labels[number], "scores": scores[number], "masks": masks[number]})
        return found

    def select(
        self, proposals: list[Tensor], logits: Tensor, deltas: Tensor, hidden: Tensor, image_size: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and labels of each image's instances, as :py:meth:`decode` gives them, without masks."""
        if self.removal is None:
            sizes = [image_size for _ in proposals]
            return self.roi_heads.postprocess_detections(logits, deltas, proposals, sizes)
        boxes: list[Tensor] = []
        scores: list[Tensor] = []
        labels: list[Tensor] = []
        for ranked in self.ranked(proposals, logits, deltas, hidden, image_size):
            some, score, label = self.removal.detections(
                ranked, least_score=self.score_threshold, nms_iou=self.nms_iou, most=self.most
            )
            boxes.append(some)
            scores.append(score)
            labels.append(label)
        return boxes, scores, labels

    def _score(self, features: list[Tensor], boxes: list[Tensor], dropout: bool) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.roi_heads.box_head(self.roi_heads.box_roi_pool(features, boxes))
        logits, deltas = self.roi_heads.box_predictor(F.dropout(hidden, self.box_dropout, dropout))
        return logits.float(), deltas.float(), hidden

    def own_masks(self, features: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Mask logits (1, R, 28, 28) of each box's class; with ``instance_relation`` (2, ...), refined last."""
        pooled, own = self.roi_heads.mask_roi_pool(features, boxes), torch.cat(labels)
        logits = self.roi_heads.mask_predictor(self.roi_heads.mask_head(pooled)).float()
        stages = [logits[torch.arange(len(own), device=own.device), own]]
        if self.relation is not None:
            image = torch.cat([torch.full_like(some, number) for number, some in enumerate(labels)])
            stages.append(self.relation(pooled, stages[0], own, image))
        return torch.stack(stages)

    def ranked(
        self, boxes: list[Tensor], logits: Tensor, deltas: Tensor, hidden: Tensor, image_size: tuple[int, int]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each image what :py:meth:`DuplicateRemoval.ranked` says of the regressed boxes."""
        counts = [len(some) for some in boxes]
        decoded = clip_boxes_to_image(self.roi_heads.box_coder.decode(deltas, boxes), image_size).split(counts)
        probs, features = logits.softmax(-1).split(counts), hidden.split(counts)
        ranked: list[tuple[Tensor, Tensor, Tensor]] = []
        if self.removal is not None:
            for number in range(len(boxes)):
                ranked.append(self.removal.ranked(features[number], decoded[number], probs[number]))
        return ranked


class _Heads(RoIHeads):
    """torchvision's heads, whose parts are called one by one: the pooling takes a list of levels."""

    @torch.jit.unused
    def forward(self, *_: Any) -> Any:
        raise NotImplementedError


def _check_size(features: list[Tensor], image_size: tuple[int, int]) -> None:
    if features[0].shape[2] != -(-image_size[0] // 32) * 8 or features[0].shape[3] != -(-image_size[1] // 32) * 8:
        raise ValueError("image_size: found another than the features were made of, expected (H, W) of the images.")
