# SPDX-License-Identifier: Apache-2.0
"""Pictures of chosen patches: on their images, and among all windows."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from monai_ext.handlers.draw import PREDICTION_RGB, sheet

Picture = NDArray[np.uint8]

TILE_PX, PAIRS = 256, 3
MOST_POINTS = 5000


def contact_sheet(
    pictures: Sequence[Picture], patches: Sequence[Picture], corners: Sequence[tuple[int, int]], *, size: int
) -> Picture:
    """Each patch beside its image, in which it is framed; three pairs in a row.

    Args:
        pictures: the images (H, W, 3).
        patches: what was cut from each (size, size, 3).
        corners: first row and column of each patch.
        size: side of the patches in px.
    """
    tiles: list[Picture] = []
    for picture, patch, (row, column) in zip(pictures, patches, corners, strict=True):
        scale = TILE_PX / max(picture.shape[:2])
        small = Image.fromarray(picture).resize([max(1, round(side * scale)) for side in picture.shape[1::-1]])
        frame = [column * scale, row * scale, (column + size) * scale - 1, (row + size) * scale - 1]
        ImageDraw.Draw(small).rectangle(frame, outline=PREDICTION_RGB, width=3)
        tiles += [np.asarray(small), np.asarray(Image.fromarray(patch).resize((TILE_PX, TILE_PX)))]
    return sheet([tiles[first : first + 2 * PAIRS] for first in range(0, len(tiles), 2 * PAIRS)])


def map_of_clusters(features: NDArray[np.floating], clusters: NDArray[np.integer], picks: ArrayLike) -> Picture:
    """Windows by the two main components of their features, coloured by cluster, with the picks as stars.

    Args:
        features: (N, D); of many windows every so many-th is drawn.
        clusters: (N,).
        picks: places of the chosen windows.
    """
    every = np.arange(0, len(features), -(-len(features) // MOST_POINTS))
    centre = features[every].mean(0)
    axes = np.linalg.svd(features[every] - centre, full_matrices=False)[2][:2]
    places = (features - centre) @ axes.T
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(5, 4), layout="constrained")
        axis = figure.add_subplot()
        axis.scatter(places[every, 0], places[every, 1], c=clusters[every], cmap="tab20", s=6, linewidths=0)
        chosen = np.asarray(picks)
        stars = {"c": clusters[chosen], "cmap": "tab20", "s": 140, "marker": "*", "edgecolors": "black"}
        axis.scatter(places[chosen, 0], places[chosen, 1], **stars)
        axis.set(xlabel="first component", ylabel="second component", title="windows by cluster; stars are the patches")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    return np.asarray(Image.open(buffer).convert("RGB"))
