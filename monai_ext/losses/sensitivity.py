# SPDX-License-Identifier: Apache-2.0
"""Soft labels on the samples that a teacher is unsure of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ext.functional.sensitivity import BACKGROUND, Ensemble, Measure, ensemble, mine, sensitivity, sharpen


class SensitiveSampleLoss(nn.Module):
    r"""Cross-entropy against a teacher's sharpened mean answer, on mined samples (L_psm).

    .. math:: L_{psm} = \frac{1}{|\Omega|} \sum_{i \in \Omega} w_i \sum_c -S(\bar P_i)_c \log p_{ic}

    Source: Zhou et al., MMT-PSM, MICCAI 2020, Eq. 1 to 3. The paper shows no sum over samples; here it is the mean
    over the mined ones, as in the released code, which divides by 3 besides (a weight of 1 / 3 does the same).

    Args:
        temperature: of the sharpening.
        background_weight: w of samples whose pseudo-label is background, where others have 1.
        background_share: mined samples of the background for each one of the foreground; None keeps all samples.
        mean_of: what the mean answer is the mean of.
        measure: of sensitivity.

    Raises:
        ValueError: a negative weight; in ``forward``, an option out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        background_weight: float = 1.5,
        background_share: float | None = 1.0,
        mean_of: Ensemble = "probs",
        measure: Measure = "variance",
    ) -> None:
        super().__init__()
        if background_weight < 0:
            raise ValueError(f"background_weight: found {background_weight}, expected 0 or more.")
        self.temperature = temperature
        self.background_weight = background_weight
        self.background_share = background_share
        self.mean_of: Ensemble = mean_of
        self.measure: Measure = measure

    def forward(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider; 0 without samples.

        Args:
            logits: (L, R, C), the student's of L views of the same R samples.
            teacher_logits: (K, R, C); no gradient passes.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.shape[1] == 0:
            return logits.sum()
        target, weights, mined = self.targets(teacher_logits)
        costs = -(target * logits.log_softmax(-1)).sum(-1)
        return (costs * weights * mined).sum() / (len(logits) * mined.sum().clamp_min(1))

    @torch.no_grad()
    def targets(self, teacher_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft labels (R, C), the weight of each sample (R,), and bool (R,), which were mined."""
        mean = ensemble(teacher_logits, mean_of=self.mean_of)
        labels = mean.argmax(-1)
        weights = torch.where(labels == BACKGROUND, self.background_weight, 1.0).to(mean.dtype)
        return sharpen(mean, temperature=self.temperature), weights, self.mined(teacher_logits)

    @torch.no_grad()
    def mined(self, teacher_logits: Tensor) -> Tensor:
        """Samples that count, bool (R,): the loss is the same of these alone, so that no student need see the others.

        Args:
            teacher_logits: (K, R, C).
        """
        labels = ensemble(teacher_logits, mean_of=self.mean_of).argmax(-1)
        if self.background_share is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return mine(labels, sensitivity(teacher_logits, measure=self.measure), share=self.background_share)
