# SPDX-License-Identifier: Apache-2.0
"""Pixels whose labels are probably wrong, by the joint distribution of given and true labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TOLERANCE = 1e-6
_SMALLEST_THRESHOLD = 2e-6


def confidence_thresholds(labels: Tensor, probs: Tensor) -> Tensor:
    r"""Mean confidence of each class over the pixels that are labelled with it.

    .. math:: \gamma_j = \mathrm{mean}\left(p_j[\hat y = j]\right)

    Source: Yao et al., Computer Science and Application 16(2), 2026, Eq. 4.

    Args:
        labels: integer (B, N).
        probs: (B, C, N).

    Returns:
        (B, C), in the precision of ``probs``; 2, which no probability reaches, for a class that labels no pixel.
    """
    own = _onehot(labels, probs)
    count = own.sum(-1)
    mean = (own * probs).sum(-1) / count.clamp_min(1)
    return torch.where(count > 0, mean.clamp_min(_SMALLEST_THRESHOLD), torch.full_like(mean, 2.0))


def confident_joint(labels: Tensor, probs: Tensor) -> Tensor:
    r"""Numbers of pixels by given label i and confidently predicted label j.

    .. math::
        C[i][j] = \left|\left\{ x : \hat y(x) = i, \; j = \arg\max_{l : p_l(x) \ge \gamma_l} p_l(x) \right\}\right|

    Source: Eq. 5. It prints :math:`p_i \ge \gamma_j`; the text and confident learning, where it comes from, say
    :math:`p_j \ge \gamma_j`, which is done. A pixel that passes no threshold is not counted. Where several classes
    pass, cleanlab takes the largest of all probabilities, even one that did not pass; Eq. 5 does not, nor does this.

    Args:
        labels: integer (B, N).
        probs: (B, C, N).

    Returns:
        float64 (B, C, C), whole numbers.
    """
    passes = probs >= confidence_thresholds(labels, probs)[..., None] - _TOLERANCE
    best = probs.masked_fill(~passes, -1.0).argmax(1)
    confident = _onehot(best, probs) * passes.any(1, keepdim=True)
    return torch.einsum("bin,bjn->bij", _onehot(labels, probs).double(), confident.double())


def noisy_shares(joint: Tensor) -> Tensor:
    r"""Share of each label's pixels that belong to another class.

    .. math:: \frac{\sum_{j \ne i} \hat Q[i][j]}{\sum_j \hat Q[i][j]}, \qquad
        \hat Q[i][j] \propto \frac{C[i][j]}{\sum_j C[i][j]} \, |X_{\hat y = i}|

    Eq. 6 scales the rows of C to the numbers of labels, so within a row the shares are those of C. As in cleanlab, the
    diagonal counts one pixel at least: a label is never wrong everywhere, and a row of zeros is not divided.

    Args:
        joint: (B, C, C), see :func:`confident_joint`.

    Returns:
        (B, C), from 0 to below 1.
    """
    diagonal = joint.diagonal(dim1=1, dim2=2)
    other = joint.sum(2) - diagonal
    return other / (other + diagonal.clamp_min(1))


@torch.no_grad()
def noisy_pixels(labels: Tensor, probs: Tensor, *, trim: bool = False, per_image: bool = True) -> Tensor:
    r"""Class-conditional self-identification of label noise, Eq. 4 to 7.

    Of the pixels labelled i, those with the lowest :math:`p_i` are taken for wrong, as many as Eq. 7 says:

    .. math:: n_i = \mathrm{round}\left(|X| \sum_{j \ne i} \hat Q[i][j]\right)

    For two classes this is cleanlab's ``prune_by_class`` but for pixels of equal confidence, of which this takes the
    first in row-major order up to :math:`n_i` and cleanlab none. There is no loop over images, nothing waits for the
    device, and the result does not depend on the order of additions.

    Args:
        labels: noisy labels (B, \*S), integers below C: a student's hard prediction.
        probs: trusted probabilities (B, C, \*S): the teacher's softmax. No gradient passes.
        trim: leave out the pixels whose label is also the most probable class. The paper does not; cleanlab does.
        per_image: count in each image (the paper's text) or in the batch as if it were one image (AC-MT's code).

    Returns:
        bool (B, \*S), True for a pixel that is probably mislabelled.

    Raises:
        ValueError: the shapes do not fit.
    """
    if labels.shape != (probs.shape[0], *probs.shape[2:]):
        raise ValueError(
            f"labels: found shape {tuple(labels.shape)}, expected that of probs {tuple(probs.shape)} less C."
        )
    given, trusted = labels.flatten(1).long(), probs.detach().flatten(2)
    if not per_image:
        given, trusted = given.flatten()[None], trusted.transpose(0, 1).flatten(1)[None]
    own = _onehot(given, trusted)
    counts = (noisy_shares(confident_joint(given, trusted)) * own.double().sum(-1)).round()
    confidence = trusted.gather(1, given[:, None])[:, 0]
    # Sorted by label, then confidence, then place: the rank within a label is the place less that of its first pixel.
    by_confidence = confidence.argsort(dim=1, stable=True)
    order = by_confidence.gather(1, given.gather(1, by_confidence).argsort(dim=1, stable=True))
    sizes = own.sum(-1).long()
    first = (sizes.cumsum(1) - sizes).gather(1, given)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    noisy = rank - first < counts.gather(1, given)
    if trim:
        noisy &= trusted.argmax(1) != given
    return noisy.view(labels.shape)


def _onehot(labels: Tensor, probs: Tensor) -> Tensor:
    """(B, N) to (B, C, N), in the precision of ``probs``."""
    return F.one_hot(labels, probs.shape[1]).movedim(-1, 1).to(probs.dtype)
