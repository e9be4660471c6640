# SPDX-License-Identifier: Apache-2.0
"""PA-Seg, stage one: learning from seven points an object (Zhai et al., IEEE TMI 2023, section III-A)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from monai_ext.engines.step import Ramp, TrainStep


class PASegStep(TrainStep):
    r"""One iteration of stage one, Eq. 11.

    .. math:: L_{seg} = L_{psup}(P, Q) + \alpha L_{mcrf}(P) + \beta L_{vm}(X, P)

    Args:
        network: ``image`` (B, 1, *S) to logits (B, 2, *S).
        partial: loss of (logits, seeds) on the labelled voxels, Eq. 3-5; term ``partial``.
        crf: loss of (logits, image), Eq. 6-8; term ``crf``.
        variance: loss of (logits, image, valid), Eq. 9-10; term ``variance``.
        weights: by term; 0 removes a term.
        ramps: factors of the weights over the epochs; the released code ramps alpha and beta up, the paper is silent.
        regularizer: another loss of (logits, ``batch[regularizer_key]``), term ``regularizer``: the rivals of Table II.
        regularizer_key: what the regulariser looks at: ``image``, ``seeds`` or ``size``.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        partial: nn.Module,
        crf: nn.Module,
        variance: nn.Module,
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
        regularizer: Callable[..., Tensor] | None = None,
        regularizer_key: str = "image",
    ) -> None:
        super().__init__(students={"network": network}, weights=weights, ramps=ramps)
        self.partial = partial
        self.crf = crf
        self.variance = variance
        self.regularizer = regularizer
        self.regularizer_key = regularizer_key

    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        logits = self.students["network"](image)
        terms = {}
        if self.wants("partial"):
            terms["partial"] = self.partial(logits, batch["seeds"])
        if self.wants("crf"):
            terms["crf"] = self.crf(logits, image)
        if self.wants("variance"):
            terms["variance"] = self.variance(logits, image, batch["valid"])
        if self.regularizer is not None and self.wants("regularizer"):
            terms["regularizer"] = self.regularizer(logits, batch[self.regularizer_key])
        return terms
