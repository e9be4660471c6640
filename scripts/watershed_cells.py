# SPDX-License-Identifier: Apache-2.0
"""The baseline without learning: Otsu's threshold, cut into cells by a watershed from their points.

    python scripts/watershed_cells.py data/dsb2018_fluorescence

Foreground is what is brighter than Otsu's threshold; each pixel of it goes to the point that a watershed on the
distance to the background, or with ``--cut voronoi`` the mere distance, leads to. ``--points given`` takes the centres
of the reference's cells in the section, which learned methods are not shown; ``detected`` finds blobs as
``points_from_nuclei.py`` does. Prints AP50, AP75, mAP and Dice as the bundles' evaluation has them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from points_from_nuclei import NARROW, WIDE, estimate_diameter, find_nuclei, stretch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from monai_ext.data import load_datalist
from monai_ext.functional.instances import centroids, overlaps_of_label_maps
from monai_ext.metrics.instance_ap import THRESHOLDS, InstanceAveragePrecision
from monai_ext.metrics.instance_dice import InstanceDice


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print one line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset_dir", type=Path, help="folder of the data set and its datalist.json")
    parser.add_argument("--section", default="test", help="section of the datalist, with masks")
    parser.add_argument("--points", choices=("given", "detected"), default="given", help="where cells are")
    parser.add_argument("--cut", choices=("watershed", "voronoi"), default="watershed", help="how they are parted")
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Metrics of all pictures of a section."""
    precision, dice = InstanceAveragePrecision(), InstanceDice()
    for entry in load_datalist(options.dataset_dir / "datalist.json", options.dataset_dir, options.section):
        picture, label = (np.asarray(Image.open(entry[key])) for key in ("image", "label"))
        grey = picture if picture.ndim == 2 else picture[..., :3].mean(-1)
        rows = centroids(label, inside=True)[1] if options.points == "given" else detected(grey)
        cells = cut(grey, rows, by=options.cut)
        overlaps = overlaps_of_label_maps(cells, label)
        scores = np.ones(len(overlaps.prediction_areas))
        precision.update(overlaps, scores)
        dice.update(overlaps, scores)
    names = {"ap50": [0.5], "ap75": [0.75], "map": THRESHOLDS}
    found = {name: round(float(precision.value(thresholds)), 4) for name, thresholds in names.items()}
    return {"points": options.points, "cut": options.cut, **found, "dice": round(float(dice.value()), 4)}


def detected(grey: NDArray[Any]) -> NDArray[np.float64]:
    """Points (N, 2) in rows and columns that blob detection finds in a picture (H, W)."""
    stain = stretch(grey.astype(np.float64))
    width = estimate_diameter(stain)
    return find_nuclei(stain, diameters_px=(NARROW * width, WIDE * width))[:, 1::-1]


def cut(grey: NDArray[Any], points: NDArray[np.float64], *, by: str) -> NDArray[np.int64]:
    """Label map of the foreground of a picture (H, W), one cell a point (N, 2) in rows and columns."""
    if len(points) == 0 or grey.min() == grey.max():
        return np.zeros(grey.shape, dtype=np.int64)
    foreground = grey > threshold_otsu(grey)
    if by == "voronoi":
        nearest = cKDTree(points).query(np.argwhere(foreground))[1]
        cells = np.zeros(grey.shape, dtype=np.int64)
        cells[foreground] = nearest + 1
        return cells
    markers = np.zeros(grey.shape, dtype=np.int64)
    row, column = np.round(points).astype(int).T
    markers[row, column] = np.arange(1, len(points) + 1)
    return watershed(-distance_transform_edt(foreground), markers, mask=foreground | (markers > 0))


if __name__ == "__main__":
    main()
