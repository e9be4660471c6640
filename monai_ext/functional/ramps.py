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
