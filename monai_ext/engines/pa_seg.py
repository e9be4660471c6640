# SPDX-License-Identifier: Apache-2.0
"""PA-Seg, stage one: learning from seven points an object (Zhai et al., IEEE TMI 2023, section III-A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from monai_ext.engines.step import Ramp, TrainStep


class PASegStep(TrainStep):
    r"""One iteration of stage one, Eq. 11.

    .. math:: L_{seg} = L_{psup}(P, Q) + \alpha L_{mcrf}(P) + \beta L_{vm}(X, P)

    Args:
        network: ``image`` (B, 1, *S) to logits (B, 2, *S).
        losses: by term: ``partial`` of (logits, labels) on the labelled voxels, Eq. 3-5; ``crf`` of (logits, image),
            Eq. 6-8; ``variance`` of (logits, image, valid), Eq. 9-10; and ``regularizer`` of
            (logits, ``batch[regularizer_key]``), which the paper's rivals of Table II use.
        weights: by term (1, alpha, beta, and the rival's); 0 removes a term.
        ramps: factors of the weights over the epochs; the released code ramps alpha and beta up, the paper is silent.
        labels_key: the batch's partial label map; a dense mask makes this full supervision.
        regularizer_key: what the regulariser looks at: ``image``, ``seeds`` or ``size``.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        losses: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
        labels_key: str = "seeds",
        regularizer_key: str = "image",
    ) -> None:
        super().__init__(students={"network": network}, weights=weights, ramps=ramps)
        self.losses = losses
        self.labels_key = labels_key
        self.regularizer_key = regularizer_key

    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        image = batch["image"]
        logits = self.students["network"](image)
        inputs = {
            "partial": (batch[self.labels_key],),
            "crf": (image,),
            "variance": (image, batch["valid"]),
            "regularizer": (batch.get(self.regularizer_key),),
        }
        return {name: self.losses[name](logits, *inputs[name]) for name in inputs if self.wants(name)}
