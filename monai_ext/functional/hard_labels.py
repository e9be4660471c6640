# SPDX-License-Identifier: Apache-2.0
"""Hard labels of a prediction."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def hard_labels(scores: Tensor) -> Tensor:
    r"""The class of the largest score, the first of equals: ``scores.argmax(1)``, several times faster on a CPU.

    PyTorch's argmax over an axis that is not the last one reads memory in large strides; a comparison class by class
    does not.

    Args:
        scores: logits or probabilities (B, C, \*S), without NaN.

    Returns:
        int64 (B, \*S).
    """
    top, best = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.long)
    for number in range(1, scores.shape[1]):
        best = torch.where(scores[:, number] > top, number, best)
        top = torch.maximum(top, scores[:, number])
    return best
