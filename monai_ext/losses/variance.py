# SPDX-License-Identifier: Apache-2.0
"""Variance minimisation (Zhai et al., IEEE TMI 2023, Eq. 9-10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VarianceLoss(nn.Module):
    r"""Intensity variance within each predicted class, summed over the classes.

    .. math::
        L_{vm} = \sum_c \frac{\sum_{i \in \Omega_M} (x_i - u_c)^2 p_{ic}}{\sum_{i \in \Omega_M} p_{ic}}, \qquad
        u_c = \frac{\sum_{i \in \Omega_M} x_i p_{ic}}{\sum_{i \in \Omega_M} p_{ic}}

    for each image, averaged over the batch; for two classes this is Eq. 10. Both terms run over the valid region
    :math:`\Omega_M`, as printed; the released code leaves the foreground term unmasked, and takes as valid what
    exceeds the smallest value of the crop.

    Args:
        eps: least class size in voxels to divide by; an empty class costs 0.
    """

    def __init__(self, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Scalar loss, in float32 or wider.

        Args:
            logits: (B, C, *S).
            image: (B, M, *S), z-scored in the paper; variances are summed over the M channels.
            valid: (B, 1, *S), nonzero inside :math:`\\Omega_M`; None counts every voxel.

        Raises:
            ValueError: the arrays lie on different grids.
        """
        grids = {(t.shape[0], *t.shape[2:]) for t in (logits, image, valid) if t is not None}
        if len(grids) != 1:
            raise ValueError(f"Logits, image and valid region must share batch and grid, found {sorted(grids)}.")
        probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1).flatten(2)[:, :, None]
        if valid is not None:
            probs = probs * (valid != 0).flatten(2)[:, :, None]
        intensity = image.detach().to(probs.dtype).flatten(2)[:, None]
        size = probs.sum(-1, keepdim=True).clamp_min(self.eps)
        mean = (intensity * probs).sum(-1, keepdim=True) / size
        variance = ((intensity - mean).square() * probs).sum(-1, keepdim=True) / size
        return variance.flatten(1).sum(1).mean()
