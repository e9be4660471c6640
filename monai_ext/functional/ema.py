# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def warmed_up_decay(step: int, *, decay: float) -> float:
    r"""Share of the old average that is kept at a step, smaller at first.

    .. math:: d(k) = \min\left(1 - \frac{1}{k + 1}, d\right)

    At step 0 nothing is kept, so the average starts at the first students and not at its own random numbers; as long
    as the first argument is the smaller, the average is the plain mean over the steps (Tarvainen and Valpola, NeurIPS
    2017, use this warm-up in their code).

    Args:
        step: number of earlier steps, from 0.
        decay: the final share, in [0, 1].
    """
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def average_(
    averages: Sequence[Tensor], sources: Sequence[Sequence[Tensor]], *, weights: Sequence[float], decay: float
) -> None:
    r"""Move averages towards a weighted mean of several sources, in place.

    .. math:: \tilde\theta \leftarrow d \, \tilde\theta + (1 - d) \sum_s w_s \theta_s

    Source: Yao et al., Computer Science and Application 16(2), 2026, Eq. 3, for one source. The mean is taken first
    and in the sources' own precision, so one source of weight 1 gives the textbook average bit for bit.

    Args:
        averages: tensors to change.
        sources: for each source as many tensors, of the same shapes.
        weights: one number for each source, adding up to 1.
        decay: share of the averages that is kept, in [0, 1].
    """
    for average, *tensors in zip(averages, *sources, strict=True):
        mean = sum((w * t for w, t in zip(weights[1:], tensors[1:], strict=True)), weights[0] * tensors[0])
        average.lerp_(mean.to(average), 1 - decay)
