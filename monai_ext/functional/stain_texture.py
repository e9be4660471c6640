# SPDX-License-Identifier: Apache-2.0
"""Colour and texture of stained tissue as a short vector, where there is no network's weights to be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.color import rgb2hed
from skimage.feature import local_binary_pattern
from sklearn.preprocessing import StandardScaler

PERCENTILES = (5, 25, 50, 75, 95)
NEIGHBOURS, RADII_PX = 8, (1, 3)


def stain_texture(windows: ArrayLike) -> NDArray[np.float64]:
    """Features (B, 40) of windows of tissue stained with haematoxylin and eosin.

    Of the optical density of haematoxylin and of eosin (Ruifrok and Johnston, 2001) mean, standard deviation and five
    percentiles, together with both densities' gradients, and the frequencies of the uniform local binary patterns of
    haematoxylin's density at two radii (Ojala et al., 2002). They are in units of their own: see :func:`standardize`.

    Args:
        windows: RGB (B, h, w, 3), 8 bits or from 0 to 1.
    """
    return np.stack([_of_window(window) for window in np.asarray(windows)])


def standardize(features: ArrayLike, like: ArrayLike | None = None) -> NDArray[np.float64]:
    """Features (..., D) with the mean 0 and the standard deviation 1 of ``like``, (N, D), by default of themselves."""
    values = np.asarray(features, np.float64)
    flat = values.reshape(-1, values.shape[-1])
    return StandardScaler().fit(flat if like is None else like).transform(flat).reshape(values.shape)


def _of_window(window: NDArray[np.generic]) -> NDArray[np.float64]:
    density = rgb2hed(window)
    found = []
    for stain in (density[..., 0], density[..., 1]):
        slope = np.hypot(*np.gradient(stain))
        found += [stain.mean(), stain.std(), *np.percentile(stain, PERCENTILES), slope.mean(), slope.std(), slope.max()]
    levels = np.clip(density[..., 0], 0, 0.5) * 510
    for radius in RADII_PX:
        patterns = local_binary_pattern(levels.astype(np.uint8), NEIGHBOURS, radius, "uniform").astype(int)
        found += list(np.bincount(patterns.ravel(), minlength=NEIGHBOURS + 2) / patterns.size)
    return np.array(found)
