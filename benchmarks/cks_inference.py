# SPDX-License-Identifier: Apache-2.0
"""Finding and segmenting 300 cells in a picture of LIVECell's size, stage by stage, beside Mask R-CNN's stages.

Both networks have random weights, so that the cells are put in by hand: for the principal network of CKS a score map
with a peak at each of 300 places; of Mask R-CNN the best 300 boxes are kept whatever their scores. Mask R-CNN is
torchvision's at its own size, which enlarges the picture until its shorter side has 800 pixels.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from monai_ext.functional.instance_map import paint_instances
from monai_ext.networks import ConvNeXtFPN, PointInstanceNet

HEIGHT, WIDTH, ROUNDS = 520, 704, 2
ROWS, COLUMNS = 15, 20
CELLS = ROWS * COLUMNS
STAGES = {"features": "backbone and pyramid", "detection": "detection", "masks": "masks", "total": "whole picture"}


def run() -> list[dict[str, Any]]:
    """A row a stage, both sides in turn, the least of the rounds; on CUDA where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image = torch.rand(1, 3, HEIGHT, WIDTH, device=device)
    sides = {"ours": _ours(device), "reference": _mask_rcnn(device)}
    found: dict[str, dict[str, float]] = {name: defaultdict(lambda: float("inf")) for name in sides}
    with torch.inference_mode():
        for side in sides.values():
            side(image)  # warms up
        for _ in range(ROUNDS):
            for name, side in sides.items():
                for stage, seconds in side(image).items():
                    found[name][stage] = min(found[name][stage], seconds)
    size = f"{HEIGHT}x{WIDTH}, {CELLS} cells, {device.type}"
    return [
        {
            "what": f"CKS beside Mask R-CNN, {title}",
            "size": size,
            "ours_s": found["ours"][stage],
            "reference_s": found["reference"][stage],
            "ratio": found["reference"][stage] / found["ours"][stage],
        }
        for stage, title in STAGES.items()
    ]


class _Clock:
    """Seconds of each stage, the device waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self.last = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def stage(self, name: str) -> None:
        """Ends a stage."""
        now = self.now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now

    def result(self) -> dict[str, float]:
        """All stages and their sum."""
        return self.seconds | {"total": sum(self.seconds.values())}


def _ours(device: torch.device) -> Callable[[Tensor], dict[str, float]]:
    network = PointInstanceNet(ConvNeXtFPN()).to(device).eval()
    steps = [(torch.arange(n, device=device) + 0.5) * side / n for n, side in ((ROWS, HEIGHT), (COLUMNS, WIDTH))]
    places = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flatten(0, 1)

    def peaked(logits: Tensor, stride: int) -> Tensor:
        """Scores above the threshold within 5 pixels of a place, so that one detection of each is left."""
        rows, columns = (torch.arange(n, device=device) for n in logits.shape[2:])
        centres = (torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1) + 0.5) * stride
        near = torch.cdist(centres, places).min(1).values.view(logits.shape)
        return torch.where(near < 5, 2 - near / 4, -6.0)

    levels = network.detect(network.features(torch.zeros(1, 3, HEIGHT, WIDTH, device=device)))
    known = [(peaked(logits, 4 * 2**n), offset * 0) for n, (logits, offset) in enumerate(levels)]

    def once(image: Tensor) -> dict[str, float]:
        clock = _Clock(device)
        features = network.features(image)
        clock.stage("features")
        network.detect(features)
        locations, scores, _ = network.locate(known, HEIGHT, WIDTH)
        assert len(locations) == CELLS
        clock.stage("detection")
        logits, origin = network.segment(features[0], locations, torch.zeros_like(locations[:, 0]).long())
        paint_instances(logits, origin, scores, HEIGHT, WIDTH)
        clock.stage("masks")
        return clock.result()

    return once


def _mask_rcnn(device: torch.device) -> Callable[[Tensor], dict[str, float]]:
    network = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_score_thresh=0.0, box_detections_per_img=CELLS,
        box_nms_thresh=1.0,
    ).to(device).eval()  # fmt: skip

    def once(image: Tensor) -> dict[str, float]:
        clock = _Clock(device)
        ends: dict[nn.Module, str] = {
            network.backbone: "features",
            network.roi_heads.box_predictor: "detection",
            network.roi_heads.mask_predictor: "masks",
        }
        hooks = [module.register_forward_hook(lambda m, *_: clock.stage(ends[m])) for module in ends]
        network(list(image))
        for hook in hooks:
            hook.remove()
        clock.stage("masks")  # what is left: masks back on the picture
        return clock.result()

    return once
