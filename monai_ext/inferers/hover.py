# SPDX-License-Identifier: Apache-2.0
"""From HoVer-Net's answers, window by window, to the nuclei of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.apps.pathology.inferers import SlidingWindowHoVerNetInferer
from monai.apps.pathology.transforms import (
    GenerateDistanceMap,
    GenerateInstanceBorder,
    GenerateWatershedMarkers,
    GenerateWatershedMask,
    Watershed,
)
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils.enums import HoVerNetBranch
from numpy.typing import NDArray
from torch import Tensor

SOBEL_PX = 21
"""Side of the kernel in HoVer-Net's released code; MONAI's default is 5."""


class HoVerLabelMapInferer(Inferer):
    """The nuclei of an image of any size in one label map, as
    :class:`~monai_ext.inferers.LabelMapInferer` gives them.

    Windows whose middles tile the image are shown to the network, mirrored at the border, and MONAI's watershed parts
    what the answers show. A nucleus's score is the mean probability of its pixels, which is above 0.5.

    Source: Graham et al., "Hover-Net", Medical Image Analysis 2019.

    Args:
        window_px: side of what the network sees.
        answer_px: side of the middle that it answers for.
        windows: seen together.

    Raises:
        ValueError: an answer larger than the window, or one that cannot lie in its middle.
    """

    def __init__(self, window_px: int = 270, answer_px: int = 80, *, windows: int = 8) -> None:
        super().__init__()
        if not 0 < answer_px <= window_px or (window_px - answer_px) % 2:
            found = f"window_px, answer_px: found {window_px}, {answer_px}"
            raise ValueError(f"{found}, expected an answer within the window, as far from one side as from the other.")
        self.answer_px = answer_px
        self.margin_px = (window_px - answer_px) // 2
        # MONAI takes the whole part of window * (1 - overlap) as the step, and rounding must not make it one less.
        overlap = max(window_px - answer_px - 0.5, 0) / window_px
        self.slide = SlidingWindowHoVerNetInferer((window_px, window_px), windows, overlap)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Images (B, C, X, Y) to float32 (B, 2, X, Y): number of the nucleus, by falling score from 1 on, and its
        score; 0 on background.

        Args:
            inputs: images.
            network: gives ``nucleus_prediction`` and ``horizontal_vertical``, see
                :py:func:`~monai_ext.networks.make_hover_net`.
        """
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        answers = self.answers(images, network)
        sides = (images.shape[2], images.shape[3])
        parted = [
            _parted(logits, maps, sides)
            for logits, maps in zip(answers[HoVerNetBranch.NP.value], answers[HoVerNetBranch.HV.value], strict=True)
        ]
        found = torch.stack(parted).to(inputs.device)
        return MetaTensor(found).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else found

    def answers(self, images: Tensor, network: Callable[..., Any]) -> dict[str, Tensor]:
        """The network's answers (B, 2, X', Y'), float32 on the CPU; X', Y' are the image's sides, or ``answer_px`` if
        that is more, where the image goes on as mirrors show it.

        Args:
            images: (B, C, X, Y).
            network: as above.
        """
        wider, sides = images, [max(side, self.answer_px) for side in images.shape[2:]]
        for axis, side in zip((2, 3), sides, strict=True):
            own = images.shape[axis]
            # Torch mirrors no more than there is; an index stays on the device.
            places = np.pad(np.arange(own), (self.margin_px, self.margin_px + side - own), mode="symmetric")
            wider = wider.index_select(axis, torch.from_numpy(places).to(images.device))
        seen: Any = self.slide(wider, network)
        first, second = (slice(self.margin_px, self.margin_px + side) for side in sides)
        return {name: answer[:, :, first, second].float().cpu() for name, answer in seen.items()}


def _parted(logits: Tensor, maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Number and score (2, X, Y) of the first X, Y pixels of answers (2, X', Y')."""
    labels = watershed_of_hover(logits, maps)[: sides[0], : sides[1]]
    probability = logits.softmax(0)[1, : sides[0], : sides[1]].double().numpy()
    sizes = np.bincount(labels.ravel())
    scores = np.bincount(labels.ravel(), probability.ravel()) / np.maximum(sizes, 1)
    scores[0] = 0
    shown = 1 + np.flatnonzero(sizes[1:])  # small ones that were left out have no pixels
    ranks = np.zeros(len(sizes), np.int64)
    ranks[shown[np.argsort(-scores[shown], kind="stable")]] = 1 + np.arange(len(shown))
    return torch.from_numpy(np.stack([ranks[labels], scores[labels]]).astype(np.float32))


def watershed_of_hover(logits: Tensor, maps: Tensor) -> NDArray[np.int64]:
    """The label map (X, Y) of MONAI's ``HoVerNetInstanceMapPostProcessing``, without its outlines of each nucleus,
    which take seconds an image.

    Maps that are nowhere steep, of which MONAI can say nothing, have no nucleus.

    Args:
        logits: of background and nucleus (2, X, Y), X and Y from 11 on.
        maps: where each pixel lies in its nucleus along the last and the first axis (2, X, Y).
    """
    mask = GenerateWatershedMask()(logits)
    try:
        borders = GenerateInstanceBorder(kernel_size=SOBEL_PX)(mask, maps)
    except ValueError:
        return np.zeros(logits.shape[1:], np.int64)
    markers = GenerateWatershedMarkers()(mask, borders)
    labels = Watershed()(GenerateDistanceMap()(mask, borders), mask, markers)
    return np.asarray(labels)[0].astype(np.int64)
