# SPDX-License-Identifier: Apache-2.0
"""Draw the picture of a bundle's page from its demo's phantoms: what the labels are, and what was learned.

bash scripts/demo.sh eugmt && python scripts/draw_docs_picture.py eugmt
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd
from PIL import Image

from monai_ext.data import load_datalist
from monai_ext.data.coco import CocoReader
from monai_ext.functional.instances import centroids
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.functional.seed_expansion import expand_seeds
from monai_ext.functional.simulate_points import simulate_points
from monai_ext.transforms.seeds import clicks_per_object

ROOT = Path(__file__).resolve().parents[1]
BLUE, ORANGE = "#0072B2", "#E69F00"
PHANTOMS = {"mmt_psm": "phantom_demo", "cps_csingan": "phantom_small"}
"""Folder of the demo's phantoms where it is another than the bundle's own."""


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, draw one test phantom."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", choices=DRAWINGS, nargs="?", default="pa_seg_3d")
    parser.add_argument("--case", type=int, default=0, help="number of the test case")
    options = parser.parse_args(arguments)
    bundle = ROOT / "bundles" / options.bundle
    phantoms = bundle / "output" / PHANTOMS.get(options.bundle, "phantom")
    entry = load_datalist(phantoms / "datalist.json", phantoms, "test")[options.case]
    figure = DRAWINGS[options.bundle](entry, bundle / "output/inference/images")
    figure.tight_layout()
    figure.savefig(bundle / "docs/phantom.png", dpi=120)


def draw_points(entry: dict[str, Any], predictions: Path) -> Figure:
    """PA-Seg: clicks, seeds, and the segmentation learned, in the slice of the click inside."""
    load = Compose(
        [LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"]), NormalizeIntensityd("image")]
    )
    case = load(entry)
    image, mask = np.asarray(case["image"][0]), np.asarray(case["label"][0]) > 0
    name = Path(entry["image"]).name.removesuffix(".nii.gz")
    prediction = np.asarray(nib.load(predictions / f"{name}_seg.nii.gz").dataobj) > 0
    labels, positions = simulate_points(mask, seed=0, affine=np.asarray(case["image"].affine))
    objects = clicks_per_object(labels, positions)
    spacing = [float(size) for size in case["image"].pixdim]
    seeds = expand_seeds(image, objects, epsilon=0.2, cost="saturating", spacing=spacing, spatial_weight=0.8)
    return _draw(image, mask, prediction, seeds, objects[0])


def draw_membranes(entry: dict[str, Any], predictions: Path) -> Figure:
    """EUGMT: a tile, its mask, and what was found in it and missed."""
    image, mask = (np.asarray(Image.open(entry[key])) for key in ("image", "label"))
    prediction = np.asarray(Image.open(predictions / f"{Path(entry['image']).stem}_seg.png"))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), facecolor="white")
    axes[0].imshow(image)
    for axis, values, colours in (
        (axes[1], mask, [BLUE]),
        (axes[2], mask + 2 * prediction, [BLUE, ORANGE, "#222222"]),
    ):
        axis.imshow(values, cmap=ListedColormap(["white", *colours]), vmin=0, vmax=len(colours), interpolation="none")
    for axis, title in zip(
        axes, ("a test tile", "its mask", "found (black), missed (blue), wrong (orange)"), strict=True
    ):
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return figure


def draw_cells(entry: dict[str, Any], predictions: Path) -> Figure:
    """CKS: a picture with its points, and the outlines learned beside the true ones."""
    image, mask = (np.asarray(Image.open(entry[key])) for key in ("image", "label"))
    cells = np.asarray(Image.open(predictions / f"{Path(entry['image']).stem}_cells.png"))
    _, points = centroids(mask)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), facecolor="white")
    for axis in axes:
        axis.imshow(image, cmap="gray", vmax=np.percentile(image, 99.8))
        axis.set_axis_off()
    axes[0].scatter(points[:, 1], points[:, 0], s=12, c=ORANGE, edgecolors="black", linewidths=0.5)
    for axis, labels, colour in ((axes[1], cells, ORANGE), (axes[2], mask, BLUE)):
        for number in np.unique(labels[labels > 0]):
            axis.contour(labels == number, levels=[0.5], colors=[colour], linewidths=1.2)
    for axis, title in zip(axes, ("one point a cell", "outlines learned", "true outlines"), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def draw_smears(entry: dict[str, Any], predictions: Path) -> Figure:
    """MMT-PSM: a smear, and the outlines learned and true of its cytoplasm and nuclei."""
    image = np.asarray(Image.open(entry["image"]))
    file = Path(entry["image"])
    true = CocoReader(file.parents[1] / "annotations.json"), f"images/{file.name}"
    found = CocoReader(predictions.parent / "instances.coco.json"), f"images/{file.name}"
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), facecolor="white")
    for axis in axes:
        axis.imshow(image)
        axis.set_axis_off()
    for axis, (reader, name) in zip(axes[1:], (found, true), strict=True):
        for annotation, mask in zip(reader.annotations(name), reader.masks(name), strict=True):
            colour = BLUE if annotation["category_id"] == 1 else ORANGE
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    for axis, title in zip(axes, ("a smear", "outlines learned", "true outlines"), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def draw_patches(entry: dict[str, Any], predictions: Path) -> Figure:
    """CPS and CSinGAN: a chosen patch in its picture, with its annotation, a pair grown from it, and nuclei found."""
    output = predictions.parents[1]
    chosen = output / "selection_small"
    patch = json.loads((chosen / "selection.json").read_text(encoding="utf8"))["patches"][1]
    name = f"{patch['name']}.png"
    (pair, *_) = [
        pair
        for pair in load_datalist(output / "synthesis/datalist.json", output / "synthesis", "training")
        if Path(pair["image"]).name.startswith(patch["name"])
    ]
    whole = np.asarray(Image.open(output / "phantom_small" / patch["image"]))
    pictures = [whole, *(np.asarray(Image.open(file)) for file in (chosen / "patches" / name, pair["image"]))]
    pictures.append(np.asarray(Image.open(entry["image"])))
    cells = predictions / f"{Path(entry['image']).stem}_cells.png"
    labels = [np.asarray(Image.open(file)) for file in (chosen / "labels" / name, pair["label"], cells)]
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), facecolor="white")
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
    corner, side = (patch["column"] - 0.5, patch["row"] - 0.5), patch["size"]
    axes[0].add_patch(Rectangle(corner, side, side, fill=False, edgecolor=ORANGE, linewidth=2))
    for axis, numbers, colour in zip(axes[1:], labels, (BLUE, ORANGE, ORANGE), strict=True):
        for number in np.unique(numbers[numbers > 0]):
            axis.contour(numbers == number, levels=[0.5], colors=[colour], linewidths=1.0)
    titles = ("a patch is chosen", "you annotate it", "new pairs are drawn", "nuclei of a test phantom")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def _draw(image: np.ndarray, mask: np.ndarray, prediction: np.ndarray, seeds: np.ndarray, clicks: tuple) -> Figure:
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
    return figure


DRAWINGS = {
    "pa_seg_3d": draw_points,
    "eugmt": draw_membranes,
    "cks": draw_cells,
    "mmt_psm": draw_smears,
    "cps_csingan": draw_patches,
}


if __name__ == "__main__":
    main()
