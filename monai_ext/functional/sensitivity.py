# SPDX-License-Identifier: Apache-2.0
"""What a teacher's answers to perturbed views of one image tell: soft labels, and which samples are worth learning."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Ensemble = Literal["probs", "logits"]
Measure = Literal["variance", "deviation"]

BACKGROUND = 0


def ensemble(logits: Tensor, *, mean_of: Ensemble = "probs") -> Tensor:
    r"""Mean prediction over the views of an image.

    .. math:: \bar P = \frac{1}{K} \sum_k P_k

    Source: Zhou et al., MMT-PSM, MICCAI 2020, Eq. 1. The released code means the logits.

    Args:
        logits: (K, R, C), K views of R samples.
        mean_of: what the mean is taken of.

    Returns:
        (R, C) probabilities, in float32 or wider.

    Raises:
        ValueError: an unknown ``mean_of``, or no view.
    """
    if mean_of not in ("probs", "logits"):
        raise ValueError(f"mean_of: found {mean_of!r}, expected 'probs' or 'logits'.")
    if len(logits) == 0:
        raise ValueError("logits: found no view, expected at least one.")
    logits = _wide(logits)
    return logits.softmax(-1).mean(0) if mean_of == "probs" else logits.mean(0).softmax(-1)


def sharpen(probs: Tensor, *, temperature: float = 0.5) -> Tensor:
    r"""Probabilities of lower entropy.

    .. math:: S(P)_c = P_c^{1/T} / \sum_j P_j^{1/T}

    Source: Zhou et al., section 2.2, after MixMatch. They print the exponent t = 0.5, which would raise the entropy;
    their code has 1 / 0.5, as here.

    Args:
        probs: (..., C), rows that add up to 1.
        temperature: T; below 1 sharpens, 1 changes nothing.

    Returns:
        (..., C).

    Raises:
        ValueError: a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: found {temperature}, expected a number above 0.")
    logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    return (logs / temperature).softmax(-1)


def sensitivity(logits: Tensor, *, measure: Measure = "variance") -> Tensor:
    r"""How much the prediction of each sample changes from view to view.

    .. math:: V = \sum_c \frac{1}{K} \sum_k (P_{kc} - \bar P_c)^2

    Source: Zhou et al., Eq. 2, a vector over classes as printed, here summed.

    Args:
        logits: (K, R, C), K views of R samples.
        measure: ``"variance"`` as printed, or ``"deviation"``, the released code's sum of unbiased standard deviations,
            which needs two views.

    Returns:
        (R,), 0 where the views agree, in float32 or wider.

    Raises:
        ValueError: an unknown measure, or too few views.
    """
    if measure not in ("variance", "deviation"):
        raise ValueError(f"measure: found {measure!r}, expected 'variance' or 'deviation'.")
    fewest = 1 if measure == "variance" else 2
    if len(logits) < fewest:
        raise ValueError(f"logits: found {len(logits)} views, expected at least {fewest}.")
    probs = _wide(logits).softmax(-1)
    if measure == "deviation":
        return probs.std(0).sum(-1)
    return probs.var(0, correction=0).sum(-1)


def mine(labels: Tensor, scores: Tensor, *, share: float = 1.0) -> Tensor:
    """Which samples to learn from: all of foreground, and the most sensitive of the background.

    Source: Zhou et al., section 2.2: as many of the background as there are of the foreground; their code keeps half
    as many.

    Args:
        labels: int (R,), 0 is background.
        scores: (R,), what :func:`sensitivity` gives; of equal ones the earlier goes first.
        share: samples of the background for each one of the foreground; the number is rounded down.

    Returns:
        bool (R,).

    Raises:
        ValueError: a negative share.
    """
    if share < 0:
        raise ValueError(f"share: found {share}, expected 0 or more.")
    kept = labels != BACKGROUND
    # The background first, by falling score: places in that order, compared with a number that stays on the device.
    ranked = torch.where(kept, scores.new_tensor(float("-inf")), scores).argsort(descending=True, stable=True)
    place = torch.empty_like(ranked)
    place[ranked] = torch.arange(len(ranked), device=ranked.device)
    return kept | (place < (share * kept.sum().double()).floor())


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
