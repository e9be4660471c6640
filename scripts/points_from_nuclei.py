# SPDX-License-Identifier: Apache-2.0
"""Points of cells from pictures of a nuclear stain, by blob detection.

    python scripts/points_from_nuclei.py <images> --out data/mine/points --picture

``<images>`` is a folder of PNG, JPEG or TIFF pictures with 8 or 16 bits, or one of them; nuclei are bright. For each
picture ``<out>/<stem>.json`` gets the centres [x, y], in pixels of that picture: name them in the data list as the
``points`` of the picture in which cells are to be segmented, which must show the same field at the same size. Of
several channels that differ ``--channel`` takes one, the first is 0.

How wide nuclei are is estimated for each picture and printed, and blobs from 0.6 to 1.2 times that are taken. Look at
the rings of ``--picture``: where nuclei are split, missed or run together give ``--min_diameter_px`` and
``--max_diameter_px``; where faint ones are missed lower ``--threshold``, where background is taken raise it. A picture
in which none is found, or nothing stands out whose width could be estimated, gets no file. Nuclei far off their cells'
centres, and cells without one, make such points unsuitable.

The CKS paper takes its points from a stain by blob detection and gives no parameters. Here intensities are scaled from
the 1st to the 99.9th percentile and their root is taken, so that faint nuclei beside bright ones are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _fields import PICTURES, files_by_stem
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_opening, distance_transform_edt, gaussian_filter
from skimage.feature import blob_dog, blob_log, peak_local_max
from skimage.filters import threshold_otsu
from skimage.io import imread

from monai_ext.data.points_formats import CELL
from monai_ext.data.points_io import PointSet, write_points

NARROW, WIDE = 0.6, 1.2
"""Bounds of the diameters sought, in estimated ones."""
SIGMA_OF_DIAMETER = 1 / (2 * np.sqrt(2))
"""A blob of radius r answers most to a Gaussian of sigma r / sqrt(2)."""
SIGMAS, OVERLAP = 6, 0.4
LARGEST_PART = 1 / 3
"""A foreground wider than this part of the picture's shorter side is taken for glow, which is then subtracted."""
LEAST_CONTRAST = 0.68
"""Least share of the variance that Otsu's two classes explain; of Gaussian noise they explain 2 / pi = 0.64."""
PICTURE_PX = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the points."""
    options = _parser().parse_args(arguments)
    images = files_by_stem(options.images, PICTURES) if options.images.is_dir() else _one(options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for stem, path in images.items():
        stain = stretch(read_channel(path, options.channel))
        bounds = [options.min_diameter_px, options.max_diameter_px]
        if None in bounds:
            width = estimate_diameter(stain)
            bounds = [b or part * width for b, part in zip(bounds, (NARROW, WIDE), strict=True)]
        if bounds[0] > bounds[1]:
            raise SystemExit(f"{path}: diameters from {bounds[0]:.1f} to {bounds[1]:.1f} px, expected a rising range.")
        nuclei = find_nuclei(stain, diameters_px=bounds, method=options.method, threshold=options.threshold)
        file = options.out / f"{stem}.json"
        file.unlink(missing_ok=True)  # of an earlier run, where now none is found
        if len(nuclei):
            write_points(file, PointSet((CELL,) * len(nuclei), nuclei[:, :2], "voxel"))
        if options.picture:
            _draw(options.out / "pictures" / f"{stem}.png", stain, nuclei)
        total += len(nuclei)
        sizes = f"of {bounds[0]:.1f} to {bounds[1]:.1f} px" if bounds[1] else "stand out"
        print(f"{path.name}: {len(nuclei)} nuclei {sizes}{'' if len(nuclei) else ', no file written'}")
    print(f"{total} nuclei in {len(images)} pictures; written: {options.out}")


def read_channel(path: Path, channel: int | None = None) -> NDArray[np.float64]:
    """One channel (H, W) of a picture; without a number, the one that all that are not constant are equal to.

    Raises:
        SystemExit: what cannot be read, no such channel, or several that differ and no number.
    """
    try:
        values = np.squeeze(imread(path)).astype(np.float64)
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise SystemExit(f"{path}: found a file that cannot be read ({error}), expected a picture.") from None
    if values.ndim not in (2, 3) or not np.isfinite(values).all():
        raise SystemExit(f"{path}: found an array of shape {values.shape}, expected (H, W) and channels, all finite.")
    channels = values[None] if values.ndim == 2 else np.moveaxis(values, int(np.argmin(values.shape)), 0)
    if channel is None:
        varied = [c for c in channels if np.ptp(c)] or [channels[0]]
        if any(not np.array_equal(c, varied[0]) for c in varied):
            raise SystemExit(f"{path}: found {len(varied)} channels that differ, expected --channel to choose one.")
        return varied[0]
    if not 0 <= channel < len(channels):
        raise SystemExit(f"{path}: found {len(channels)} channels, expected --channel from 0 to {len(channels) - 1}.")
    return channels[channel]


def stretch(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the intensities between the 1st and the 99.9th percentile, in [0, 1]; a constant picture is 0."""
    low, high = np.percentile(values, [1, 99.9])
    return np.sqrt(np.clip((values - low) / max(high - low, 1e-12), 0, 1))


def estimate_diameter(stain: NDArray[np.float64]) -> float:
    """Typical width of the nuclei of a stretched picture (H, W), in pixels; 0 where no foreground stands out.

    Twice the median, weighted by itself, of the radii of the largest discs inside Otsu's foreground: touching nuclei
    have a disc each.
    """
    side = min(stain.shape)
    smooth = gaussian_filter(stain, 1)
    width = _disc_width(smooth)
    if width > side * LARGEST_PART:
        width = _disc_width(np.clip(smooth - gaussian_filter(smooth, side / 20), 0, None))
    return width


def _disc_width(smooth: NDArray[np.float64]) -> float:
    if not np.ptp(smooth):
        return 0.0
    bright = smooth > threshold_otsu(smooth)
    apart = smooth[bright].mean() - smooth[~bright].mean()
    if bright.mean() * (1 - bright.mean()) * apart**2 < LEAST_CONTRAST * smooth.var():
        return 0.0
    depth = distance_transform_edt(binary_opening(bright))
    peaks = peak_local_max(gaussian_filter(depth, 1), min_distance=2, threshold_abs=1.5, exclude_border=False)
    radii = np.sort(depth[tuple(peaks.T)])
    weights = np.cumsum(radii)
    return 2 * float(radii[np.searchsorted(weights, weights[-1] / 2)]) if len(radii) else 0.0


def find_nuclei(
    stain: NDArray[np.float64], *, diameters_px: Sequence[float], method: str = "log", threshold: float = 0.1
) -> NDArray[np.float64]:
    """Bright blobs of a picture.

    Args:
        stain: (H, W) in [0, 1].
        diameters_px: least and greatest diameter that the filter is made for; smaller blobs answer it less.
        method: ``log`` (Laplacian of Gaussian) or ``dog`` (difference of Gaussians, which is faster).
        threshold: least answer of the filter; a lone white disc on black answers some 0.7.

    Returns:
        (N, 3): x, y and radius in pixels; empty where the greatest diameter is 0.
    """
    if diameters_px[1] <= 0:
        return np.zeros((0, 3))
    low, high = (max(width, 1.0) * SIGMA_OF_DIAMETER for width in diameters_px)
    shared = {"threshold": threshold, "overlap": OVERLAP, "exclude_border": False}
    if method == "log":
        blobs = blob_log(stain, min_sigma=low, max_sigma=high, num_sigma=SIGMAS, log_scale=True, **shared)
    else:
        blobs = blob_dog(stain, min_sigma=low, max_sigma=high, **shared)
    rows, columns, sigmas = blobs.reshape(-1, 3).T
    return np.stack([columns, rows, sigmas * np.sqrt(2)], axis=1)


def _draw(path: Path, stain: NDArray[np.float64], nuclei: NDArray[np.float64]) -> None:
    zoom = max(1, PICTURE_PX // max(stain.shape))
    picture = Image.fromarray(np.rint(255 * stain).astype(np.uint8)).convert("RGB")
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    for x, y, radius in (nuclei + np.array([0.5, 0.5, 0.0])) * zoom:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 60, 60), width=2)
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(90, 255, 90))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _one(path: Path) -> Mapping[str, Path]:
    if not path.is_file() or path.suffix.lower() not in PICTURES:
        raise SystemExit(f"{path}: found no such folder or picture, expected {', '.join(PICTURES)}.")
    return {path.stem: path}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of pictures, or one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the points files")
    parser.add_argument("--channel", type=int, help="channel of the nuclear stain, the first is 0")
    parser.add_argument("--method", choices=("log", "dog"), default="log", help="blob detector")
    parser.add_argument("--min_diameter_px", type=_positive, help="smallest nucleus; estimated if absent")
    parser.add_argument("--max_diameter_px", type=_positive, help="largest nucleus; estimated if absent")
    parser.add_argument("--threshold", type=_positive, default=0.1, help="least answer of the detector")
    parser.add_argument("--picture", action="store_true", help="draw rings on each picture, in <out>/pictures")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return value


if __name__ == "__main__":
    main()
