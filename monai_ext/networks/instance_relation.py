# SPDX-License-Identifier: Apache-2.0
"""What instances of one class in one image say about each other: masks refined, and detections told from duplicates.

Source of both: Zhou, Chen, Xu, Dou and Heng, "IRNet: Instance relation network for overlapping cervical cell
segmentation" (MICCAI 2019), in the form and with the sizes that the released code of MMT-PSM has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import batched_nms, box_iou, remove_small_boxes


class InstanceRelation(nn.Module):
    r"""A second mask of each instance, drawn with what the others of its class look like.

    .. math:: A_{ij} = \operatorname{softmax}_j\Big(-\frac1E \sum_e \langle f_i^e, f_j^e \rangle\Big), \qquad
        y_i = x_i + \gamma \sum_j A_{ij} x_j

    ``x`` are features of the box and of its first mask, ``f`` an embedding of them in E channels whose inner product is
    over pixels, ``j`` the instances of the same class and image, ``i`` included, and ``gamma`` is learned and begins at
    0. The sign is the released code's: unlike instances count most. (Its energies are subtracted from their largest,
    which the softmax undoes.)

    Args:
        channels: of the pooled features.
        classes: C, background included.
        embedding: E.
    """

    def __init__(self, channels: int, classes: int, *, embedding: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(3):
            layers += [nn.Conv2d(channels + (number == 0), channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.mix = nn.Sequential(*layers)
        self.embed = nn.Conv2d(channels, embedding, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.predictor = MaskRCNNPredictor(channels, channels, classes)

    def forward(self, pooled: Tensor, masks: Tensor, labels: Tensor, image: Tensor) -> Tensor:
        """Mask logits (R, 2 S, 2 S) of each box's class; R may be 0.

        Args:
            pooled: features of the boxes (R, channels, S, S). Gradient passes.
            masks: their first mask logits (R, 2 S, 2 S). Gradient passes.
            labels: their classes, int64 (R,).
            image: the images that they lie in, int64 (R,).
        """
        first = F.max_pool2d(masks.sigmoid().unsqueeze(1), 2).to(pooled.dtype)
        x = self.mix(torch.cat([pooled, first], 1))
        embedded = self.embed(x)
        width = embedded.shape[1]
        embedded = embedded.flatten(1).float()
        energy = embedded @ embedded.t() / width
        related = (labels.unsqueeze(1) == labels) & (image.unsqueeze(1) == image)
        attention = (-energy).masked_fill(~related, -math.inf).softmax(1).to(x.dtype)
        gathered = (attention @ x.flatten(1)).view_as(x)
        logits = self.predictor(x + self.gamma * gathered).float()
        return logits[torch.arange(len(labels), device=labels.device), labels]


class DuplicateRemoval(nn.Module):
    r"""How well a detection covers an object that no better one of its class covers: the IoU of their boxes, else 0.

    The boxes of a class, ranked, attend to each other as in Hu et al., "Relation networks for object detection" (CVPR
    2018), Eq. 2 to 5, each to those few that it attends to most.

    Args:
        hidden: width of the box head.
        boxes: at most so many of a class in an image, the most probable.
        neighbours: each attends to at most so many.
        embedding: features of a box within.
        groups: heads of the attention.
        geometry: features of a pair of boxes, a multiple of 8.
        least_probability: boxes that the classifier gives less are no detections.
    """

    def __init__(
        self,
        hidden: int,
        *,
        boxes: int = 90,
        neighbours: int = 40,
        embedding: int = 128,
        groups: int = 16,
        geometry: int = 64,
        least_probability: float = 0.1,
    ) -> None:
        super().__init__()
        self.boxes, self.neighbours, self.groups = boxes, neighbours, groups
        self.embedding, self.geometry = embedding, geometry
        self.least_probability = least_probability
        self.embed = nn.Linear(hidden, embedding)
        self.rank = nn.Linear(embedding, embedding)
        self.attend = nn.Linear(embedding, 3 * embedding)
        self.place = nn.Linear(geometry, groups)
        self.judge = nn.Linear(embedding, 1)

    def forward(self, hidden: Tensor, boxes: Tensor) -> Tensor:
        """Predicted IoU, about 0 to 1: a regression, as a sigmoid would too early be sure of 0, the usual target.

        Args:
            hidden: the box head's features (G, N, hidden) of G classes, by falling probability. Gradient passes.
            boxes: (G, N, 4), x1, y1, x2, y2 in px. No gradient passes.

        Returns:
            (G, N); N may be 0.
        """
        number = hidden.shape[1]
        ranks = sinusoids(torch.arange(number, device=hidden.device, dtype=torch.float32), self.embedding)
        x = self.embed(hidden) + self.rank(ranks)
        heads = self.attend(x).float().view(x.shape[0], number, 3, self.groups, self.embedding // self.groups)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        pairs = sinusoids(relative_geometry(boxes.detach()), self.geometry // 4).flatten(3)
        near = self.place(pairs).float().clamp_min(1e-6).log().permute(0, 3, 1, 2)
        weights = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + near
        most, index = weights.topk(min(self.neighbours, number), -1)
        attention = torch.zeros_like(weights).scatter(-1, index, most.softmax(-1))
        gathered = (attention @ value).transpose(1, 2).flatten(2)
        return self.judge((x + gathered).relu()).squeeze(-1).float()

    @torch.jit.export
    def ranked(self, hidden: Tensor, boxes: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable boxes of each foreground class in one image.

        Args:
            hidden: (P, hidden) of the proposals.
            boxes: (P, C, 4), each class's.
            probs: (P, C).

        Returns:
            for C - 1 classes their boxes (C - 1, N, 4) and probabilities (C - 1, N), by falling probability, and
            predicted IoU (C - 1, N); N is at most ``boxes`` and P.
        """
        chances, order = probs[:, 1:].t().topk(min(self.boxes, len(probs)), 1)
        classes = torch.arange(1, probs.shape[1], device=probs.device).unsqueeze(1)
        chosen = boxes[order, classes]
        return chosen, chances, self.forward(hidden[order], chosen)

    @torch.jit.export
    def detections(
        self, ranked: tuple[Tensor, Tensor, Tensor], *, least_score: float, nms_iou: float, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), scores (N,) and labels, int64 (N,), of what :py:meth:`ranked` gives, by falling score.

        The score is the predicted IoU. Boxes are left out that have a lower score, a lower probability than
        ``least_probability``, no area, or ``nms_iou`` with a better one of their class; ``most`` stay.
        """
        boxes, chances, overlap = ranked[0], ranked[1], ranked[2].clamp(0.0, 1.0)
        found = (chances > self.least_probability) & (overlap > least_score)
        labels = torch.where(found)[0] + 1
        boxes, scores = boxes[found], overlap[found]
        large = remove_small_boxes(boxes, 1e-2)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        keep = batched_nms(boxes, scores, labels, nms_iou)[:most]
        return boxes[keep], scores[keep], labels[keep]


def sinusoids(values: Tensor, features: int) -> Tensor:
    """Sine and cosine of values (...) at wave lengths from 2 pi to nearly 2000 pi: (..., features), an even number."""
    waves = 1000.0 ** (-torch.arange(features // 2, device=values.device, dtype=values.dtype) * 2 / features)
    angles = values.unsqueeze(-1) * waves
    return torch.cat([angles.sin(), angles.cos()], -1)


def relative_geometry(boxes: Tensor) -> Tensor:
    """Of each pair of boxes (G, N, 4) how far apart and how large: (G, N, N, 4), no gradient at equal centres.

    Logarithms of the distance in x by the first's width, in y by its height, and of the second's width and height by
    the first's, times 100, so that the wave lengths of :py:func:`sinusoids` fit them.
    """
    size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-3)
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2
    apart = (centre.unsqueeze(2) - centre.unsqueeze(1)).abs() / size.unsqueeze(2)
    return 100 * torch.cat([apart.clamp_min(1e-3), size.unsqueeze(1) / size.unsqueeze(2)], -1).log()


def overlap_targets(boxes: Tensor, truth: Tensor, *, least_iou: float = 0.1) -> Tensor:
    """What :py:class:`DuplicateRemoval` should answer about the boxes of one class in one image.

    Of the boxes that overlap an object more than any other object, and by more than ``least_iou``, the first has its
    IoU; all others 0.

    Args:
        boxes: (N, 4), by falling probability.
        truth: boxes of the objects (M, 4); M may be 0.

    Returns:
        (N,), without gradient.
    """
    target = torch.zeros(len(boxes), device=boxes.device)
    if len(truth) == 0 or len(boxes) == 0:
        return target
    overlap, owner = box_iou(boxes.detach(), truth).max(1)
    for number in range(len(truth)):
        covering = torch.where((owner == number) & (overlap > least_iou))[0]
        target[covering[:1]] = overlap[covering[:1]]
    return target


def duplicate_loss(ranked: Sequence[tuple[Tensor, Tensor, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Mean squared error of the predicted IoU, over all boxes of all classes and images.

    Args:
        ranked: for each image what :py:meth:`DuplicateRemoval.ranked` gives. Gradient reaches the predictions.
        targets: for each image boxes (N, 4) and labels int64 (N,) from 1 on.
    """
    wanted = [
        overlap_targets(some, target["boxes"][target["labels"] == label])
        for (boxes, _, _), target in zip(ranked, targets, strict=True)
        for label, some in enumerate(boxes, 1)
    ]
    return F.mse_loss(torch.cat([overlap.flatten() for _, _, overlap in ranked]), torch.cat(wanted))
