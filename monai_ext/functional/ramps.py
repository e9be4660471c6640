# SPDX-License-Identifier: Apache-2.0
"""Weights as a function of the epoch.

A learning rate needs none of these: PyTorch has ``PolynomialLR`` and its kin.
"""

from __future__ import annotations

import math


def sigmoid_ramp(epoch: float, *, peak: float = 1.0, length: float) -> float:
    r"""Gaussian-shaped rise, called sigmoid ramp-up since Laine and Aila, ICLR 2017.

    .. math:: w(e) = w_{peak} \exp\left(-5 (1 - \min(e, L) / L)^2\right)

    It starts at :math:`e^{-5} = 0.0067` of the peak, not at 0. PA-Seg's released code multiplies the weights of its
    two regularisers with it, over 30 or 50 epochs; the paper does not mention it.

    Args:
        epoch: epochs done; may be a fraction. Below 0 counts as 0.
        peak: value from epoch ``length`` on.
        length: epochs until the peak; 0 gives the peak at once.

    Raises:
        ValueError: negative ``length``.
    """
    if length < 0:
        raise ValueError(f"The length of a ramp must be 0 or more epochs, found {length}.")
    progress = 1.0 if length == 0 else min(max(epoch, 0.0), length) / length
    return peak * math.exp(-5 * (1 - progress) ** 2)


def rise_and_fall(epoch: float, *, start: float, rise: float, total: float, fall: float) -> float:
    r"""Weight of what is learned from unlabelled images: none, rising, full, and falling towards the end.

    .. math::
        \lambda(t) = \exp(-5 (1 - (t - t_0) / r)^2), \quad 1, \quad \exp(-12 (1 - (T - t) / f)^2)

    between the start and the end of the rise, until the fall begins, and during it. Source: Zhou et al., MMT-PSM,
    MICCAI 2020, section 2.4, whose :math:`\exp(-125 (1 - t / 1250)^2)` from 1000 on is this with a start of 1000 and a
    rise of 250. Where rise and fall meet, the smaller of both holds.

    Args:
        epoch: t, epochs done; may be a fraction. The other times are in epochs too.
        start: :math:`t_0`; 0 before.
        rise: r; 0 rises at once.
        total: T.
        fall: f; 0 never falls.

    Raises:
        ValueError: a negative time.
    """
    if min(start, rise, total, fall) < 0:
        raise ValueError(f"Times of a ramp must be 0 or more epochs, found {[start, rise, total, fall]}.")
    if epoch < start:
        return 0.0
    missing = max(1 - (epoch - start) / rise, 0.0) if rise else 0.0
    gone = max(1 - max(total - epoch, 0.0) / fall, 0.0) if fall else 0.0
    return min(math.exp(-5 * missing**2), math.exp(-12 * gone**2))
