# SPDX-License-Identifier: Apache-2.0
"""Two networks that teach each other with hard labels: the rivals in Table III of Zhai et al., IEEE TMI 2023."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.functional.hard_labels import hard_labels


def _voxel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, *S), in float32 or wider."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.long(), reduction="none")


class CrossPseudoLoss(nn.Module):
    r"""Cross-entropy against the other network's hard prediction (Chen et al., CVPR 2021).

    .. math:: L = \frac{1}{|\Omega|} \sum_{i \in \Omega} -\log p^a_{i, y_i}, \qquad y_i = \arg\max_c z^b_{ic}

    Call it once for each network. The other network gets no gradient.
    """

    def forward(self, logits: Tensor, other_logits: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider, of two (B, C, *S).

        Raises:
            ValueError: the shapes differ.
        """
        _check_same(logits, other_logits)
        return _voxel_cross_entropy(logits, hard_labels(other_logits)).mean()


def small_loss_selection(losses: Tensor, *, keep_fraction: float) -> Tensor:
    """The voxels of smallest loss in a batch (Han et al., NeurIPS 2018, Algorithm 1).

    Args:
        losses: any shape; no gradient passes.
        keep_fraction: share to keep, in (0, 1]; rounded to whole voxels, at least one.

    Returns:
        bool, shape of ``losses``, with exactly that many True; ties are settled by ``torch.topk``.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < keep_fraction <= 1:
        raise ValueError(f"keep_fraction must be above 0 and at most 1, found {keep_fraction}.")
    flat = losses.detach().flatten()
    chosen = flat.topk(max(1, round(keep_fraction * flat.numel())), largest=False, sorted=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, chosen, True).view(losses.shape)


class CoTeachingLoss(nn.Module):
    """Cross-entropy with noisy labels on the voxels that the *other* network finds easy (Han et al., NeurIPS 2018).

    Networks fit clean labels before noisy ones, so a small loss hints at a clean label; taking the other network's
    choice keeps a network from confirming its own mistakes. The source lets the kept share fall from 1 to 1 minus
    the noise rate over the first epochs: hand ``keep_fraction`` to the call for that.

    Args:
        keep_fraction: share of the batch's voxels to learn from, in (0, 1].

    Raises:
        ValueError: a share outside (0, 1].
    """

    def __init__(self, *, keep_fraction: float = 0.8) -> None:
        super().__init__()
        if not 0 < keep_fraction <= 1:
            raise ValueError(f"keep_fraction must be above 0 and at most 1, found {keep_fraction}.")
        self.keep_fraction = keep_fraction

    def forward(
        self, logits: Tensor, other_logits: Tensor, pseudo_labels: Tensor, keep_fraction: float | None = None
    ) -> Tensor:
        """Scalar loss, in float32 or wider; the other network gets no gradient.

        Args:
            logits: (B, C, *S), the network that learns.
            other_logits: (B, C, *S), the network that selects.
            pseudo_labels: (B, 1, *S), noisy class indices.
            keep_fraction: overrules the module's share for this call.

        Raises:
            ValueError: shapes differ, or a share outside (0, 1].
        """
        _check_same(logits, other_logits)
        if pseudo_labels.shape != logits[:, :1].shape:
            raise ValueError(
                f"Pseudo labels must have shape {tuple(logits[:, :1].shape)} for these logits, "
                f"found {tuple(pseudo_labels.shape)}."
            )
        labels = pseudo_labels[:, 0]
        share = self.keep_fraction if keep_fraction is None else keep_fraction
        selected = small_loss_selection(_voxel_cross_entropy(other_logits.detach(), labels), keep_fraction=share)
        return _voxel_cross_entropy(logits, labels)[selected].mean()


def _check_same(logits: Tensor, other_logits: Tensor) -> None:
    if logits.shape != other_logits.shape:
        raise ValueError(
            f"Both networks must give equal shapes, found {tuple(logits.shape)} and {tuple(other_logits.shape)}."
        )
