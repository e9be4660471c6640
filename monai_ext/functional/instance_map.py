# SPDX-License-Identifier: Apache-2.0
"""Masks in windows, drawn into one label map."""

from __future__ import annotations

import torch
from torch import Tensor


def paint_instances(
    logits: Tensor, origin: Tensor, scores: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Label map and scores of instances; where masks overlap, the instance of higher score has the pixel.

    Scriptable. Nothing wraps round at the image's borders.

    Args:
        logits: (N, size, size), one mask an instance, by falling score.
        origin: int64 (N, 2), first pixel of each window along both axes; may be negative or beyond the image.
        scores: (N,), falling.
        height, width: of the image.
        threshold: probability from which on a pixel belongs to the mask.

    Returns:
        float32 (1, 2, height, width): the instance's number 1 to N, 0 for the background, and its score. Instances that
        have no pixel have no number, so numbers stay consecutive.
    """
    count, size = logits.shape[0], logits.shape[1]
    canvas = torch.full((height * width + 1,), count, dtype=torch.long, device=logits.device)
    steps = torch.arange(size, device=logits.device)
    for begin in range(0, count, 256):
        some = logits[begin : begin + 256]
        rows = origin[begin : begin + 256, 0, None] + steps
        columns = origin[begin : begin + 256, 1, None] + steps
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        index = rows[:, :, None] * width + columns[:, None, :]
        drawn = inside & (some.sigmoid() > threshold)
        number = torch.arange(begin, begin + some.shape[0], device=logits.device)[:, None, None].expand_as(index)
        canvas.scatter_reduce_(0, index[drawn], number[drawn], "amin")
    owner = canvas[:-1].view(height, width)
    shown = torch.bincount(canvas[:-1], minlength=count + 1)[:count] > 0
    number = torch.where(shown, shown.long().cumsum(0), torch.zeros_like(shown, dtype=torch.long))
    number = torch.cat([number, torch.zeros(1, dtype=torch.long, device=logits.device)])
    score = torch.cat([scores.float(), torch.zeros(1, device=logits.device)])
    return torch.stack([number[owner].float(), score[owner]])[None]


def number_masks(masks: Tensor) -> Tensor:
    """Masks bool (N, H, W) by falling score as one label map (H, W), float32, with consecutive numbers. Scriptable.

    Of masks that overlap the first has the pixel; one that shows nowhere has no number.
    """
    count = masks.shape[0]
    owner = torch.full(masks.shape[1:], count, dtype=torch.long, device=masks.device)
    for number in range(count - 1, -1, -1):
        owner.masked_fill_(masks[number], number)
    shown = torch.bincount(owner.flatten(), minlength=count + 1)[:count] > 0
    number_of = torch.cat([shown.long().cumsum(0), torch.zeros(1, dtype=torch.long, device=masks.device)])
    return number_of[owner].float()
