# SPDX-License-Identifier: Apache-2.0
"""What the CRF and VM terms add to a training iteration of PA-Seg's 3-D U-Net."""

from __future__ import annotations

import time
from typing import Any

import torch
from monai.networks.nets import BasicUNet

from monai_ext.engines import PASegStep
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.losses import MultiViewCRFLoss, PartialLoss, VarianceLoss

SIZE = (64, 64, 48)
ROUNDS = 4


def run() -> list[dict[str, Any]]:
    """One row: an iteration with all terms as a multiple of one with the partial loss alone, in turn."""
    torch.manual_seed(0)
    network = BasicUNet(3, 1, 2, features=(16, 32, 64, 128, 256, 16))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = {"partial": PartialLoss(), "crf": MultiViewCRFLoss(), "variance": VarianceLoss()}
    image = torch.randn(1, 1, *SIZE)
    seeds = torch.full_like(image, UNLABELLED)
    seeds[..., :16], seeds[..., 24:32, 24:32, 24:32] = 0, 1
    batch = {"image": image, "seeds": seeds, "valid": torch.ones_like(image)}
    full = PASegStep(network=network, losses=losses, weights={"partial": 1.0, "crf": 1.0, "variance": 0.1})
    partial = PASegStep(network=network, losses=losses, weights={"partial": 1.0})
    seconds: dict[str, list[float]] = {"full": [], "partial": []}
    for _ in range(ROUNDS):
        for name, step in (("full", full), ("partial", partial)):
            start = time.perf_counter()
            optimizer.zero_grad()
            step.total(step.terms(batch), step.weights_at(0)).backward()
            optimizer.step()
            seconds[name].append(time.perf_counter() - start)
    ours, reference = min(seconds["full"]), min(seconds["partial"])
    return [
        {
            "what": "PA-Seg iteration with CRF and VM, as a multiple of one without",
            "size": "x".join(map(str, SIZE)),
            "ours_s": ours,
            "reference_s": reference,
            "ratio": ours / reference,
            "target_ratio": 1.5,
        }
    ]
