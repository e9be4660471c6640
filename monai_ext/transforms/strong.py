# SPDX-License-Identifier: Apache-2.0
"""Strongly augmented views whose pixels stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from torch import Tensor
from torchvision.transforms.v2 import functional as F


class StrongPhotometricd(RandomizableTransform, MapTransform):
    r"""Strong photometric view of colour images: brightness, contrast, saturation and hue in random order, then now and
    then fewer grey levels, stretched contrast and equalised histograms, then a blur.

    The geometry is untouched, so labels and predictions of the weak view fit. The defaults are those of UCMT's released
    code, which EUGMT follows. Set ``hue`` small, or 0, for immunohistochemistry: at 0.25, a quarter turn, brown DAB can
    come out blue like haematoxylin, which turns positive into negative.

    Args:
        keys: colour images (3, H, W) with values from 0 to 1, before any normalisation.
        output_keys: where the views go; the images themselves where None. A key that was written before may be read
            again, for example ``keys: [image, a]`` and ``output_keys: [a, b]`` for a view of a view.
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x, not below 0.
        hue: shifts are drawn from -x to x turns of the colour circle, at most 0.5.
        posterize_prob, autocontrast_prob, equalize_prob: how often these are done.
        posterize_bits: bits of each channel that are kept.
        blur_kernel: side of the Gaussian kernel in pixels, odd; 0 for no blur.
        blur_sigma_px: standard deviations are drawn between these.

    Raises:
        ValueError: an option out of range, or an image that is not of the shape and range above.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_keys: Sequence[str] | None = None,
        *,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.25,
        posterize_prob: float = 0.2,
        posterize_bits: int = 5,
        autocontrast_prob: float = 0.2,
        equalize_prob: float = 0.2,
        blur_kernel: int = 3,
        blur_sigma_px: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.output_keys = self.keys if output_keys is None else tuple(output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"output_keys: found {self.output_keys}, expected one for each of {self.keys}.")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue: found {hue}, expected 0 to 0.5 turns.")
        self.factors = {
            F.adjust_brightness: brightness,
            F.adjust_contrast: contrast,
            F.adjust_saturation: saturation,
        }
        self.hue = hue
        self.occasional: list[tuple[float, Callable[[Tensor], Tensor]]] = [
            (posterize_prob, lambda image: F.posterize(image, posterize_bits)),
            (autocontrast_prob, F.autocontrast),
            (equalize_prob, F.equalize),
        ]
        self.blur_kernel = blur_kernel
        self.blur_sigma_px = blur_sigma_px

    def draw(self) -> list[Callable[[Tensor], Tensor]]:
        """The operations of one view, drawn anew."""
        drawn: list[Callable[[Tensor], Tensor]] = []
        for adjust, width in self.factors.items():
            factor = float(self.R.uniform(max(0.0, 1 - width), 1 + width))
            drawn.append(partial(_with, adjust, factor))
        shift = float(self.R.uniform(-self.hue, self.hue))
        drawn.append(partial(_with, F.adjust_hue, shift))
        drawn = [drawn[n] for n in self.R.permutation(len(drawn))]
        drawn += [operation for prob, operation in self.occasional if self.R.rand() < prob]
        sigma = float(self.R.uniform(*self.blur_sigma_px))
        if self.blur_kernel:
            drawn.append(lambda image: F.gaussian_blur(image, [self.blur_kernel] * 2, [sigma] * 2))
        return drawn

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A shallow copy of ``data`` with the views, each drawn anew."""
        out = dict(data)
        for key, output_key in zip(self.keys, self.output_keys, strict=True):
            image = out[key]
            view = torch.as_tensor(image).as_subclass(torch.Tensor).float()
            if view.ndim != 3 or view.shape[0] != 3 or view.min() < 0 or view.max() > 1:
                found = f"shape {tuple(view.shape)}, values from {view.min():.3g} to {view.max():.3g}"
                raise ValueError(f"{key}: found {found}, expected a colour image (3, H, W) with values from 0 to 1.")
            for operation in self.draw():
                view = operation(view)
            out[output_key] = convert_to_dst_type(view.clamp(0, 1), dst=image, dtype=torch.float32)[0]
        return out


def _with(adjust: Callable[[Tensor, float], Tensor], amount: float, image: Tensor) -> Tensor:
    return adjust(image, amount)
