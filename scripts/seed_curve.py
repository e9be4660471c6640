# SPDX-License-Identifier: Apache-2.0
"""Choose the degree of seed expansion: precision and recall of the expanded seeds against epsilon.

    python scripts/seed_curve.py data/datalist.json --section validation --costs gradient additive:0.1 saturating

Every case needs ``points``. Over the cases that also have a dense ``label``, the curve (Zhai et al., IEEE TMI 2023,
Fig. 4) goes to ``seed_curve.csv`` and ``seed_curve.png``, and the greatest epsilon that keeps the wanted mean precision
is named for each cost. Overlays of the seeds on the images, to judge by eye, are written with and without labels.
Distances depend on the grid and the scale of intensities: where training sets ``spacing``, ``normalize_nonzero`` or
``valid_region``, set them here too.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd

from monai_ext.data.datalist import load_datalist
from monai_ext.data.points_io import LoadPointsd
from monai_ext.functional.partial_labels import UNLABELLED
from monai_ext.functional.seed_expansion import ObjectDistance, threshold_distances
from monai_ext.transforms.seeds import ExpandSeedsd, ValidRegiond

mpl.use("Agg")
from matplotlib import pyplot as plt

MEASURES = ("precision", "recall", "missed")
HELP = {
    "costs": "edge costs, each with an optional spatial weight: gradient, additive:0.1, saturating:0.5",
    "spacing": "voxel size in mm that images are resampled to, along R, A and S; their own if absent",
    "normalize_nonzero": "z-score over the voxels that are not 0",
    "valid": "valid image region; above_minimum for skull-stripped images",
    "epsilons": "first, last and step of the curve",
    "overlays": "number of cases to draw",
    "overlay_epsilons": "degrees of expansion to draw",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--dataset_dir", type=Path, help="folder its paths are relative to; the datalist's if absent")
    parser.add_argument("--section", default="training")
    parser.add_argument("--costs", nargs="+", default=["gradient", "additive", "saturating"], help=HELP["costs"])
    parser.add_argument("--channel", type=int, default=0, help="image channel that distances are measured on")
    parser.add_argument("--valid", choices=("all", "above_minimum"), default="all", help=HELP["valid"])
    parser.add_argument("--spacing", type=float, nargs=3, help=HELP["spacing"])
    parser.add_argument("--normalize_nonzero", action="store_true", help=HELP["normalize_nonzero"])
    parser.add_argument("--epsilons", type=float, nargs=3, default=(0.01, 0.6, 0.01), help=HELP["epsilons"])
    parser.add_argument("--precision", type=float, default=0.9, help="least mean precision wanted")
    parser.add_argument("--overlays", type=int, default=8, help=HELP["overlays"])
    parser.add_argument(
        "--overlay_epsilons", type=float, nargs="+", default=(0.05, 0.1, 0.2, 0.3), help=HELP["overlay_epsilons"]
    )
    parser.add_argument("--out_dir", type=Path, default=Path("runs/seed_curve"), help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and draw; a fault in the data ends the program with its sentence."""
    options = parse(arguments)
    try:
        run(options)
    except (ValueError, RuntimeError) as error:
        # MONAI wraps what a transform raises in a RuntimeError that names the transform only.
        told = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise SystemExit(str(told)) from error


def run(options: argparse.Namespace) -> None:
    """Go through the cases once; the distances of a case serve every epsilon."""
    first, last, step = options.epsilons
    epsilons = np.arange(first, last + step / 2, step)
    expanders = {spec: _expander(spec, options.channel) for spec in options.costs}
    measured: dict[str, list[np.ndarray]] = {spec: [] for spec in expanders}
    options.out_dir.mkdir(parents=True, exist_ok=True)
    cases = load_datalist(options.datalist, options.dataset_dir or options.datalist.parent, options.section)
    loaders = {known: _loader(("image", "label") if known else ("image",), options) for known in (True, False)}
    for number, entry in enumerate(cases):
        if "points" not in entry:
            raise ValueError(f"{options.datalist} (points): found none for {entry.get('image')}, expected clicks.")
        case = loaders["label" in entry](entry)
        truth = np.asarray(case["label"][0]) > 0 if "label" in entry else None
        distances = {spec: expander.distances(case) for spec, expander in expanders.items()}
        if truth is not None:
            for spec, objects in distances.items():
                measured[spec].append(measure(objects, truth, epsilons))
        if number < options.overlays:
            name = Path(entry["points"]).name.split(".")[0]
            image = np.asarray(case["image"][options.channel])
            spacing_mm = case["image"].pixdim.tolist()
            path = options.out_dir / f"{name}.png"
            draw_overlays(path, image, truth, distances, options.overlay_epsilons, spacing_mm=spacing_mm)
        print(f"\r{number + 1}/{len(cases)} cases", end="", flush=True)
    print()
    if not any(measured.values()):
        print(f"No case has a label, so there is no curve; look at the overlays in {options.out_dir}.")
        return
    curves = {spec: np.stack(values) for spec, values in measured.items()}
    write_curves(options.out_dir / "seed_curve.csv", curves, epsilons, expanders)
    plot_curves(options.out_dir / "seed_curve.png", curves, epsilons, options.precision)
    print_choice(curves, epsilons, options.precision)


def _expander(spec: str, channel: int) -> ExpandSeedsd:
    cost, _, weight = spec.partition(":")
    return ExpandSeedsd(channel=channel, cost=cost, spatial_weight=float(weight) if weight else None)


def _loader(keys: Sequence[str], options: argparse.Namespace) -> Compose:
    grid = [
        Orientationd(keys, "RAS", labels=None),
        Spacingd(keys, options.spacing or 1.0, mode=("bilinear", "nearest")[: len(keys)]),
    ]
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            *(grid if options.spacing else []),
            LoadPointsd("points"),
            ValidRegiond("image", mode=options.valid, channel=options.channel),
            NormalizeIntensityd("image", nonzero=options.normalize_nonzero, channel_wise=True),
        ]
    )


def measure(objects: Iterable[ObjectDistance], truth: np.ndarray, epsilons: Iterable[float]) -> np.ndarray:
    """Precision and recall of the foreground seeds, and the share of the object labelled background, (E, 3)."""
    objects = list(objects)
    rows = []
    for epsilon in epsilons:
        seeds = threshold_distances(objects, truth.shape, epsilon=float(epsilon))
        hits = int((truth & (seeds == 1)).sum())
        size = max(int(truth.sum()), 1)
        rows.append((hits / max(int((seeds == 1).sum()), 1), hits / size, int((truth & (seeds == 0)).sum()) / size))
    return np.array(rows)


def write_curves(
    path: Path, curves: Mapping[str, np.ndarray], epsilons: np.ndarray, expanders: Mapping[str, ExpandSeedsd]
) -> None:
    """Write mean and standard deviation over cases, one row for each cost and epsilon."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        statistics = [f"{name}_{kind}" for name in MEASURES for kind in ("mean", "sd")]
        writer.writerow(["cost", "spatial_weight", "epsilon", *statistics, "cases"])
        for spec, values in curves.items():
            expander = expanders[spec]
            for epsilon, mean, sd in zip(epsilons, values.mean(axis=0), values.std(axis=0), strict=True):
                numbers = [f"{x:.4f}" for pair in zip(mean, sd, strict=True) for x in pair]
                row = [expander.cost, f"{expander.spatial_weight:g}", f"{epsilon:.4g}", *numbers, len(values)]
                writer.writerow(row)


def plot_curves(path: Path, curves: Mapping[str, np.ndarray], epsilons: np.ndarray, wanted: float) -> None:
    """Draw precision (full line) and recall (dashed) of each cost."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for number, (spec, values) in enumerate(curves.items()):
        precision, recall, _ = values.mean(axis=0).T
        axes.plot(epsilons, precision, color=f"C{number}", label=f"{spec}: precision")
        axes.plot(epsilons, recall, "--", color=f"C{number}", label=f"{spec}: recall")
    axes.axhline(wanted, color="grey", linewidth=0.8)
    axes.set(xlabel="epsilon", ylabel="mean over cases", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def choose_epsilon(values: np.ndarray, wanted: float) -> int | None:
    """Index of the greatest epsilon whose mean precision over cases is at least ``wanted``; None if there is none."""
    reached = np.flatnonzero(values[..., 0].mean(axis=0) >= wanted)
    return int(reached[-1]) if reached.size else None


def print_choice(curves: Mapping[str, np.ndarray], epsilons: np.ndarray, wanted: float) -> None:
    """Name the choice for each cost."""
    first = next(iter(curves.values()))
    print(f"{len(first)} labelled cases; {first[..., 2].mean():.2%} of the objects' voxels are labelled background.")
    for spec, values in curves.items():
        index = choose_epsilon(values, wanted)
        if index is None:
            print(f"{spec}: no epsilon keeps a mean precision of {wanted}.")
        else:
            precision, recall, _ = values[:, index].mean(axis=0)
            print(f"{spec}: epsilon {epsilons[index]:.3g} (precision {precision:.3f}, recall {recall:.3f})")


def draw_overlays(
    path: Path,
    image: np.ndarray,
    truth: np.ndarray | None,
    distances: Mapping[str, list[ObjectDistance]],
    epsilons: Sequence[float],
    *,
    spacing_mm: Sequence[float],
) -> None:
    """Draw three slices through the first click: a row for each cost and axis, a column for each epsilon.

    Red is foreground, green background, the rest unlabelled; the yellow line is the dense label.
    """
    rows = [(spec, axis) for spec in distances for axis in range(image.ndim)]
    figure, grid = plt.subplots(
        len(rows), len(epsilons), figsize=(2.2 * len(epsilons), 2.2 * len(rows)), squeeze=False, layout="constrained"
    )
    low, high = np.percentile(image, (1, 99))
    for (spec, axis), line in zip(rows, grid, strict=True):
        objects = distances[spec]
        cut = objects[0].click[axis] if objects else image.shape[axis] // 2
        across, up = (spacing for n, spacing in enumerate(spacing_mm) if n != axis)
        for epsilon, axes in zip(epsilons, line, strict=True):
            seeds = threshold_distances(objects, image.shape, epsilon=epsilon).take(cut, axis).T
            view = {"origin": "lower", "aspect": up / across}
            axes.imshow(image.take(cut, axis).T, cmap="gray", vmin=low, vmax=high, **view)
            axes.imshow(_colours(seeds), **view)
            if truth is not None and truth.take(cut, axis).any():
                axes.contour(truth.take(cut, axis).T, levels=[0.5], colors="yellow", linewidths=1)
            axes.set_title(f"{spec}, {epsilon:g}", fontsize=8)
            axes.set_axis_off()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _colours(seeds: np.ndarray) -> np.ndarray:
    colours = np.zeros((*seeds.shape, 4))
    colours[seeds == 1] = (1, 0, 0, 0.45)
    colours[seeds == 0] = (0, 1, 0, 0.2)
    colours[seeds == UNLABELLED] = 0
    return colours


if __name__ == "__main__":
    main()
