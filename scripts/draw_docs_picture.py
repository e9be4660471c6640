# SPDX-License-Identifier: Apache-2.0
"""Draw the picture of a bundle's page from the demo's phantoms: clicks, seeds, and the segmentation learned.

bash scripts/demo.sh && python scripts/draw_docs_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd

from monai_ext.data import load_datalist
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.functional.seed_expansion import expand_seeds
from monai_ext.functional.simulate_points import simulate_points
from monai_ext.transforms.seeds import clicks_per_object

ROOT = Path(__file__).resolve().parents[1]
BLUE, ORANGE = "#0072B2", "#E69F00"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, draw one test phantom."""
    bundle = ROOT / "bundles" / "pa_seg_3d"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phantoms", type=Path, default=bundle / "output" / "phantom")
    parser.add_argument("--predictions", type=Path, default=bundle / "output" / "inference")
    parser.add_argument("--case", type=int, default=0, help="number of the test case")
    parser.add_argument("--out", type=Path, default=bundle / "docs" / "phantom.png")
    options = parser.parse_args(arguments)
    entry = load_datalist(options.phantoms / "datalist.json", options.phantoms, "test")[options.case]
    load = Compose(
        [LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"]), NormalizeIntensityd("image")]
    )
    case = load(entry)
    image, mask = np.asarray(case["image"][0]), np.asarray(case["label"][0]) > 0
    name = Path(entry["image"]).name.removesuffix(".nii.gz")
    prediction = np.asarray(nib.load(options.predictions / "images" / f"{name}_seg.nii.gz").dataobj) > 0
    labels, positions = simulate_points(mask, seed=0, affine=np.asarray(case["image"].affine))
    objects = clicks_per_object(labels, positions)
    spacing = [float(size) for size in case["image"].pixdim]
    seeds = expand_seeds(image, objects, epsilon=0.2, cost="saturating", spacing=spacing, spatial_weight=0.8)
    _draw(image, mask, prediction, seeds, objects[0], options.out)


def _draw(
    image: np.ndarray, mask: np.ndarray, prediction: np.ndarray, seeds: np.ndarray, clicks: tuple, out: Path
) -> None:
    foreground, background = clicks
    k = round(float(foreground[2]))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), facecolor="white")
    low, high = np.percentile(image, [1, 99.5])
    for axis in axes:
        axis.imshow(image[:, :, k].T, cmap="gray", vmin=low, vmax=high, origin="lower")
        axis.set_axis_off()
    axes[0].scatter(*foreground[:2], s=40, c=ORANGE, edgecolors="black", label="1 inside")
    axes[0].scatter(*background[:, :2].T, s=40, c=BLUE, edgecolors="black", label="6 outside (all slices)")
    axes[0].legend(loc="lower right", fontsize=7, framealpha=0.9)
    plane = seeds[:, :, k].T
    axes[1].imshow(np.ma.masked_where(plane != 0, plane), cmap="winter", alpha=0.25, origin="lower")
    axes[1].contourf(plane == 1, levels=[0.5, 1.5], colors=[ORANGE], alpha=0.8)
    axes[1].contour(plane == UNLABELLED, levels=[0.5], colors=["white"], linewidths=0.8, linestyles="dotted")
    axes[2].contour(mask[:, :, k].T, levels=[0.5], colors=[BLUE], linewidths=1.6)
    axes[2].contour(prediction[:, :, k].T, levels=[0.5], colors=[ORANGE], linewidths=1.6)
    for axis, title in zip(axes, ("seven clicks", "what they tell", "learned (orange), reference (blue)"), strict=True):
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
