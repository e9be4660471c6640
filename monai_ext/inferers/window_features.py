# SPDX-License-Identifier: Apache-2.0
"""Features of all windows of an image and of their quarters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.functional.patch_selection import window_corners

Mode = Literal["exact", "dense"]


class WindowFeatureInferer(Inferer):
    """What a network such as :class:`~monai_ext.networks.PatchFeatures` says of each window of an image.

    Pictures are as MONAI reads them, columns first; the network sees them and windows are told rows first, as others
    have them. The image stays in memory and windows are cut on the device, a batch at a time.

    Args:
        size: side of the windows, an even number of pixels.
        stride: pixels between neighbouring ones.
        mode: ``"exact"`` puts each window and each quarter through the network, as the paper does; ``"dense"`` takes
            means over one map of the image's features, an approximation that is many times faster, and can be asked
            for the exact features of some windows.
        batch_size: windows at a time.
        store: a folder in which an image's features are kept, so that an interrupted run goes on where it stopped; they
            are found again by the picture's content, the network's weights and these settings.

    Raises:
        ValueError: an odd size or an unknown mode.
    """

    def __init__(
        self,
        *,
        size: int = 256,
        stride: int = 15,
        mode: Mode = "exact",
        batch_size: int = 64,
        store: str | Path | None = None,
    ) -> None:
        super().__init__()
        if size % 2 or size < 2:
            raise ValueError(f"size: found {size}, expected an even number of pixels.")
        if mode not in ("exact", "dense"):
            raise ValueError(f"mode: found {mode!r}, expected 'exact' or 'dense'.")
        self.size, self.stride, self.mode, self.batch_size = size, stride, mode, batch_size
        self.store = None if store is None else Path(store)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """For each image ``corners`` int64 (M, 2), first rows and columns, ``off_centre_px`` (M,), how far the middles
        lie from the image's, ``features`` float32 (M, D) and ``regions`` (M, 4, D), of the quarters: upper left, upper
        right, lower left, lower right. In the mode ``"dense"`` also ``exact``, which takes some of the corners (n, 2)
        to exact features (n, D) and regions (n, 4, D).

        Args:
            inputs: (B, 3, X, Y), values from 0 to 1.
            network: takes windows (b, 3, h, w) to (b, D); for ``"dense"`` it has ``map_of`` and ``of_map``.
        """
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        return [self._found(image.transpose(1, 2).contiguous(), network) for image in images]

    def _found(self, image: Tensor, network: Any) -> dict[str, Any]:
        found = self._stored(image, network)
        off_centre = found["corners"] + self.size / 2 - np.array(image.shape[1:]) / 2
        found["off_centre_px"] = np.linalg.norm(off_centre, axis=1)
        if self.mode == "dense":
            found["exact"] = partial(self._exact_at, image=image.cpu(), network=network, device=image.device)
        return found

    def _stored(self, image: Tensor, network: Any) -> dict[str, Any]:
        if self.store is None:
            return self._of_image(image, network)
        path = self.store / f"{self._name(image, network)}.npz"
        if path.exists():
            with np.load(path) as file:
                return dict(file)
        found = self._of_image(image, network)
        self.store.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **found)
        os.replace(temporary, path)
        return found

    def _name(self, image: Tensor, network: Any) -> str:
        digest = hashlib.sha256(repr((self.size, self.stride, self.mode, type(network).__name__)).encode())
        digest.update(image.cpu().numpy().tobytes())
        if isinstance(network, torch.nn.Module):
            for name, value in network.state_dict().items():
                digest.update(name.encode())
                digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:24]

    def _of_image(self, image: Tensor, network: Any) -> dict[str, Any]:
        corners = torch.from_numpy(window_corners(*image.shape[1:], size=self.size, stride=self.stride))
        if self.mode == "dense":
            whole = network.map_of(image)

            def of_grid(corners: Tensor, size: int) -> Tensor:
                return network.of_map(whole, corners[:, 0].unique(), corners[:, 1].unique(), size).flatten(0, 1)

            features = of_grid(corners, self.size)
            regions = torch.stack([of_grid(some, self.size // 2) for some in self._quarters(corners)], 1)
        else:
            features, regions = self._exact(image, corners, network)
        return {"corners": corners.numpy(), "features": features.cpu().numpy(), "regions": regions.cpu().numpy()}

    def _exact_at(
        self, corners: NDArray[np.int64], *, image: Tensor, network: Any, device: torch.device
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        features, regions = self._exact(image.to(device), torch.from_numpy(corners), network)
        return features.numpy(), regions.numpy()

    def _exact(self, image: Tensor, corners: Tensor, network: Any) -> tuple[Tensor, Tensor]:
        features = self._of_windows(image, corners, self.size, network)
        # Where half a window is some strides, windows share quarters.
        unlike, which = torch.unique(torch.cat(self._quarters(corners)), dim=0, return_inverse=True)
        regions = self._of_windows(image, unlike, self.size // 2, network)[which].split(len(corners))
        return features, torch.stack(regions, 1)

    def _quarters(self, corners: Tensor) -> list[Tensor]:
        half = self.size // 2
        return [corners + torch.tensor(step) for step in ((0, 0), (0, half), (half, 0), (half, half))]

    def _of_windows(self, image: Tensor, corners: Tensor, size: int, network: Any) -> Tensor:
        found = []
        for some in corners.split(self.batch_size):
            found.append(network(torch.stack([image[:, i : i + size, j : j + size] for i, j in some.tolist()])).cpu())
        return torch.cat(found)
