# SPDX-License-Identifier: Apache-2.0
"""Large fields or whole slides as a set of tiles for segmentation with few masks (bundle ``eugmt``).

    python scripts/tile_images.py <images> --masks <masks> --out data/mine --groups groups.csv

``<images>`` holds PNG, JPEG or TIFF pictures of 8 bit, or slides (SVS, NDPI, MRXS, pyramidal TIFF, ..). ``<masks>``
holds a PNG or TIFF of the same stem and size (a slide's: of ``--level``; masks are read whole) for as many as have one:
0 and anything else, or class numbers where ``--label`` gives several names. Tiles of pictures without mask go into the
section ``unlabeled``; the others are split by group into training, validation and test. The group is the picture, or
what a CSV with the columns ``file`` (name or stem) and ``group`` says, which puts the pictures of a patient together.
Pictures without mask of a group that has masks are left out, since a group must not be in two sections.

Tiles lie ``--step`` apart from the upper left corner on; the last of each row and column ends at the border, and so
overlaps more where the step does not divide. A tile is kept where at least ``--min_tissue`` of it is tissue, by
:func:`tissue_mask`. Pale stroma and clear spaces count as glass there: lower it for weak stains, so that negative
tissue stays in the set; ``--min_tissue 0`` keeps all, as fluorescence needs.

Slides go through MONAI's ``WSIReader`` with openslide, cucim or tifffile, the first that is installed and opens the
file. With openslide and cucim they are read tile by tile. tifffile READS A WHOLE LEVEL at once, kept here for all tiles
of the slide, and needs the memory for it; MONAI lets it see only the first level of pyramids in sub-directories.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _tiles import SECTIONS, TileSetWriter, split_groups
from monai.data import WSIReader
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu
from tqdm import tqdm

TIFFS = (".tif", ".tiff")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
MASKS = (".png", *TIFFS)
PICTURES = (*MASKS, ".jpg", ".jpeg")
BACKENDS = ("openslide", "cucim", "tifffile")
INSTALL = "pip install openslide-python openslide-bin"

PLAIN_PX = 2**26
"""TIFFs with more pixels are read as slides."""
OVERVIEW_PX = 16
"""Side of a slide's tile, in pixels of the overview on which tissue is sought."""
BLOCK_PX = 4096
"""Side of the regions from which the overview of a slide is put together."""
SATURATION, DARKNESS, BLACK = (0.05, 0.08), (0.12, 0.25), 0.04
"""Bounds of the thresholds of :func:`tissue_mask`, and what is darker than stained tissue."""

Corner = tuple[int, int]


def tile_corners(shape: Sequence[int], size: int, step: int) -> list[Corner]:
    """Upper left corners (row, column) of the tiles of a field (height, width), row by row.

    Raises:
        ValueError: the field is smaller than a tile.
    """
    if min(shape) < size:
        raise ValueError(f"found {shape[0]} x {shape[1]} pixels, expected at least {size} x {size}.")
    rows, columns = (sorted({*range(0, length - size, step), length - size}) for length in shape)
    return [(row, column) for row in rows for column in columns]


def tissue_mask(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where a pixel of ``rgb`` (H, W, 3) is more coloured or darker than glass, and not black (never scanned).

    Saturation is that of HSV, darkness 1 minus the mean of the channels. The thresholds are Otsu's, on a copy of at
    most 1024 pixels a side, but within ``SATURATION`` and ``DARKNESS``: the lower bound keeps a field of glass only
    from being split at its noise, the upper one a field of tissue only at its stain.
    """
    brightest = rgb.max(axis=-1) / np.float32(255)
    saturation = 1 - rgb.min(axis=-1) / np.float32(255) / np.maximum(brightest, np.float32(1e-6))
    darkness = 1 - rgb.mean(axis=-1, dtype=np.float32) / 255
    stride = math.ceil(max(rgb.shape) / 1024)
    tissue = np.zeros(brightest.shape, dtype=bool)
    for values, bounds in ((saturation, SATURATION), (darkness, DARKNESS)):
        tissue |= values > np.clip(threshold_otsu(values[::stride, ::stride]), *bounds)
    return tissue & (brightest > BLACK)


@dataclass(frozen=True)
class Cutting:
    """How fields are cut: tile size, distance of tiles, level of slides, least share of tissue."""

    size: int
    step: int
    level: int = 0
    min_tissue: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("step", 1), ("level", 0)):
            if getattr(self, name) < least:
                raise SystemExit(f"--{name}: found {getattr(self, name)}, expected at least {least}.")
        if not 0 <= self.min_tissue <= 1:
            raise SystemExit(f"--min_tissue: found {self.min_tissue}, expected a share from 0 to 1.")


class Plain:
    """A picture that PIL reads whole."""

    def __init__(self, path: Path) -> None:
        try:
            with Image.open(path) as image:
                if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr"):
                    raise SystemExit(f"{path}: found a picture of mode {image.mode}, expected 8 bits a channel.")
                self.pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a picture.") from None
        self.shape = self.pixels.shape[:2]

    def region(self, corner: Corner, size: Corner) -> NDArray[np.uint8]:
        return self.pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]

    def overview(self, tile: int) -> NDArray[np.uint8]:
        stride = math.ceil(math.sqrt(math.prod(self.shape) / 2**24))
        return self.pixels[::stride, ::stride]


class Slide:
    """A slide, read by region through MONAI; with tifffile each level is read once, whole."""

    def __init__(self, path: Path, *, level: int) -> None:
        self.path, self.level = path, level
        self.reader, self.slide = _open_slide(path)
        self.levels = [self.reader.get_size(self.slide, n) for n in range(self.reader.get_level_count(self.slide))]
        self.whole: tuple[int, Any] = (-1, None)
        if self.reader.backend == "tifffile":  # whose pages are levels, thumbnails and labels alike
            series = self.slide.series[0]
            if series.axes != "YXS" or series.dtype != np.uint8:
                found = f"{series.dtype} values with the axes {series.axes}"
                raise SystemExit(f"{path}: found {found}, expected an RGB slide of 8 bits a channel.")
            self.levels = [each.shape[:2] for each in series.levels][: len(self.levels)]
        if level >= len(self.levels):
            raise SystemExit(f"{path}: found {len(self.levels)} level(s), expected one of number {level} (--level).")
        self.shape = self.levels[level]

    def region(self, corner: Corner, size: Corner, *, level: int | None = None) -> NDArray[np.uint8]:
        """Read a region (H, W, 3); ``corner`` and ``size`` count in the pixels of ``level``."""
        level = self.level if level is None else level
        if self.reader.backend == "tifffile":
            if self.whole[0] != level:
                self.whole = level, self._read((0, 0), self.levels[level], level)
            return self.whole[1][corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        ratio = self.reader.get_downsample_ratio(self.slide, level)
        return self._read((round(corner[0] * ratio), round(corner[1] * ratio)), size, level)

    def overview(self, tile: int) -> NDArray[np.uint8]:
        """The slide on which a tile of ``tile`` pixels has about ``OVERVIEW_PX``."""
        wanted = max(1.0, tile / OVERVIEW_PX)
        ratios = {n: self.shape[0] / self.levels[n][0] for n in range(self.level, len(self.levels))}
        level = max((n for n, ratio in ratios.items() if ratio <= wanted), key=ratios.__getitem__)
        stride = max(1, int(wanted / ratios[level]))
        block, (height, width) = BLOCK_PX // stride * stride or stride, self.levels[level]
        rows = []
        for top in range(0, height, block):
            size = [(min(block, height - top), min(block, width - left)) for left in range(0, width, block)]
            parts = [self.region((top, n * block), part, level=level) for n, part in enumerate(size)]
            rows.append(np.concatenate([part[::stride, ::stride] for part in parts], axis=1))
        return np.concatenate(rows)

    def _read(self, location: Corner, size: Corner, level: int) -> NDArray[np.uint8]:
        try:
            return np.moveaxis(self.reader.get_data(self.slide, location=location, size=size, level=level)[0], 0, -1)
        except Exception as error:  # the backends raise whatever their libraries raise
            found = f"a region that {self.reader.backend} cannot read ({error})"
            raise SystemExit(f"{self.path}: found {found}, expected a whole slide, or openslide: {INSTALL}.") from None


def _open_slide(path: Path) -> tuple[WSIReader, Any]:
    reasons = []
    for backend in BACKENDS:
        if not optional_import(backend)[1]:
            continue
        try:
            reader = WSIReader(backend)
            return reader, reader.read(path)
        except Exception as error:
            reasons.append(f"{backend}: {error}")
    found = "; ".join(reasons) or "nothing installed that reads slides"
    raise SystemExit(f"{path}: found no reader for it ({found}), expected a slide and openslide: {INSTALL}.")


def open_picture(path: Path, *, level: int = 0) -> Plain | Slide:
    """Open a slide, or read a picture.

    A TIFF is a slide where it has several pages or sub-directories or more than ``PLAIN_PX`` pixels.
    """
    slide = path.suffix.lower() in SLIDES
    if path.suffix.lower() in TIFFS:
        try:
            with Image.open(path) as image:
                pages, tags = getattr(image, "n_frames", 1), getattr(image, "tag_v2", {})
                slide = pages > 1 or 330 in tags or math.prod(image.size) > PLAIN_PX
        except (OSError, Image.DecompressionBombError):
            slide = True
    if slide:
        return Slide(path, level=level)
    if level:
        raise SystemExit(f"{path}: found a plain picture, expected a slide with level {level} (--level).")
    return Plain(path)


@dataclass(frozen=True)
class Field:
    """A picture, the name of its tiles and the corners of those to cut."""

    path: Path
    name: str
    shape: Corner
    corners: list[Corner]
    dropped: int


def plan_field(path: Path, cutting: Cutting, *, name: str | None = None, keep_small: bool = False) -> Field:
    """Choose the tiles of a picture: those with enough tissue.

    Args:
        path: the picture or slide.
        cutting: how to cut it.
        name: what its tiles' names begin with, its stem if None.
        keep_small: take a picture smaller than a tile as it is, instead of refusing it.

    Raises:
        SystemExit: naming the file, where it cannot be read or is too small.
    """
    picture, name = open_picture(path, level=cutting.level), name or path.stem
    if keep_small and min(picture.shape) < cutting.size:
        return Field(path, name, picture.shape, [(0, 0)], 0)
    try:
        corners = tile_corners(picture.shape, cutting.size, cutting.step)
    except ValueError as error:
        raise SystemExit(f"{path}: {error}") from None
    kept = corners
    if cutting.min_tissue > 0:
        mask = tissue_mask(picture.overview(cutting.size))
        scale = np.divide(mask.shape, picture.shape)
        first = np.floor(np.array(corners) * scale).astype(int)
        last = np.maximum(np.rint((np.array(corners) + cutting.size) * scale).astype(int), first + 1)
        shares = [mask[r:rr, c:cc].mean() for (r, c), (rr, cc) in zip(first, last, strict=True)]
        kept = [corner for corner, share in zip(corners, shares, strict=True) if share >= cutting.min_tissue]
    return Field(path, name, picture.shape, kept, len(corners) - len(kept))


def write_tiles(
    writer: TileSetWriter, section: str, field: Field, *, cutting: Cutting, mask: NDArray[Any] | None, group: str
) -> None:
    """Cut a field's tiles; they are named after it and their corner, or after it alone where it is one tile."""
    picture, size = open_picture(field.path, level=cutting.level), (cutting.size, cutting.size)
    if min(field.shape) < cutting.size:
        size = field.shape
    for row, column in field.corners:
        name = field.name if size == field.shape else f"{field.name}_{row:05d}_{column:05d}"
        image = np.ascontiguousarray(picture.region((row, column), size))
        label = None if mask is None else mask[row : row + size[0], column : column + size[1]]
        writer.add(section, name, image=image, label=label, group=group)


def read_mask(path: Path, shape: Sequence[int], *, classes: int = 1) -> NDArray[np.uint8]:
    """Read a mask of a field (height, width): 0 and 1 for one class, else the class numbers.

    Raises:
        SystemExit: another size, several channels that differ, or unknown class numbers.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
            opaque = (
                values[..., : -1 if image.mode in ("LA", "RGBA") else None] if values.ndim == 3 else values[..., None]
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a mask.") from None
    mask = opaque[..., 0]
    if mask.shape != tuple(shape):
        found, expected = (f"{height} x {width}" for height, width in (mask.shape, shape))
        raise SystemExit(f"{path}: found {found} pixels, expected {expected} as its image has.")
    if (opaque != mask[..., None]).any():
        raise SystemExit(f"{path}: found a coloured picture, expected a mask of one channel.")
    if classes == 1:
        return (mask != 0).astype(np.uint8)
    if unknown := sorted(set(np.unique(mask).tolist()) - set(range(classes + 1))):
        raise SystemExit(f"{path}: found the value {unknown[0]}, expected 0 to {classes}: give each class a --label.")
    return mask.astype(np.uint8)


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by their stems.

    Raises:
        SystemExit: none, or two of one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise SystemExit(f"{path}: found {found[path.stem].name} beside it, expected one file of each stem.")
            found[path.stem] = path
    if not found:
        raise SystemExit(f"{folder}: found no such files, expected {', '.join(suffixes)}.")
    return found


def match_masks(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Masks by their images' stems; a mask without image, which is a slip in its name, is an error."""
    masks = files_by_stem(folder, MASKS)
    if stray := sorted(set(masks) - set(images)):
        raise SystemExit(f"{masks[stray[0]]}: found no image of the stem {stray[0]!r}, expected one for each mask.")
    return masks


def read_groups(path: Path | None, images: Mapping[str, Path]) -> dict[str, str]:
    """Group of each image by its stem: from a CSV of ``file`` (name or stem) and ``group``, or the stem itself."""
    if path is None:
        return {stem: stem for stem in images}
    if not path.is_file():
        raise SystemExit(f"{path}: found no such file, expected a CSV with the columns file and group.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"file", "group"} <= set(table.fieldnames or ()):
            raise SystemExit(f"{path}: found the columns {table.fieldnames}, expected file and group.")
        rows = [((row["file"] or "").strip(), (row["group"] or "").strip()) for row in table]
    groups = dict(rows)
    if twice := [name for name, group in rows if groups[name] != group]:
        raise SystemExit(f"{path}: found two groups for {twice[0]}, expected one.")
    chosen = {stem: groups.get(image.name) or groups.get(stem, "") for stem, image in images.items()}
    if without := [images[stem].name for stem, group in chosen.items() if not group]:
        raise SystemExit(f"{path}: found no group for {without[0]} (one of {len(without)}), expected a row for each.")
    return chosen


def draw_sections(counts: Mapping[str, int], shares: Sequence[float], *, seed: int) -> dict[str, str]:
    """Draw a section for each group that has tiles, see :func:`_tiles.split_groups`; none may come out empty."""
    sections = split_groups({group: count for group, count in counts.items() if count}, shares, seed=seed)
    for section, share in zip(SECTIONS, shares, strict=True):
        if share > 0 and section not in sections.values():
            found = f"none of {len(sections)} groups in {section}"
            raise SystemExit(f"shares {list(shares)}: found {found}, expected some: give more groups or other shares.")
    return sections


def refuse_source(out: Path, *sources: Path) -> None:
    """Stop where tiles would be written among the files they come from."""
    for source in sources:
        if source.resolve() in (out.resolve(), *((out / name).resolve() for name in ("images", "labels"))):
            raise SystemExit(f"--out {out}: found that it writes into {source}, expected another folder.")


def report(fields: Collection[Field]) -> int:
    """Say how many tiles were cut and dropped, and return how many are kept; none is an error."""
    kept, dropped = sum(len(field.corners) for field in fields), sum(field.dropped for field in fields)
    print(f"{len(fields)} fields, {kept + dropped} tiles cut, {dropped} dropped by the tissue filter, {kept} kept")
    if not kept:
        raise SystemExit("tiles: found none with enough tissue, expected some: lower --min_tissue, 0 keeps all.")
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    cutting = Cutting(options.size, options.step, options.level, options.min_tissue)
    refuse_source(options.out, options.images, *([options.masks] if options.masks else []))
    images = files_by_stem(options.images, (*PICTURES, *SLIDES))
    masks = match_masks(images, options.masks) if options.masks else {}
    groups = read_groups(options.groups, images)
    fields = {stem: plan_field(path, cutting) for stem, path in tqdm(images.items(), "fields", disable=None)}
    report(fields.values())
    counts: Counter[str] = Counter()
    for stem in masks:
        counts[groups[stem]] += len(fields[stem].corners)
    sections = draw_sections(counts, options.shares, seed=options.seed) if masks else {}
    writer = TileSetWriter(options.out, name=options.name, labels=options.label)
    left_out = [stem for stem in fields if stem not in masks and counts[groups[stem]]]
    if left_out:
        print(f"{len(left_out)} fields have no mask but others of their group do, and are left out", file=sys.stderr)
    for stem, field in tqdm(fields.items(), "tiles", disable=None):
        if stem in left_out or not field.corners:
            continue
        mask = read_mask(masks[stem], field.shape, classes=len(options.label)) if stem in masks else None
        section = "unlabeled" if mask is None else sections[groups[stem]]
        write_tiles(writer, section, field, cutting=cutting, mask=mask, group=groups[stem])
    writer.finish()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of pictures or slides")
    parser.add_argument("--masks", type=Path, help="folder of masks with the images' stems")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_cutting(parser)
    parser.add_argument("--level", type=int, default=0, help="level of slides, 0 is the finest")
    parser.add_argument("--shares", type=float, nargs=3, default=(0.8, 0.1, 0.1), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group, for example the patient")
    parser.add_argument("--name", default="tiles", help="name of the data set")
    parser.add_argument("--label", nargs="+", default=["positive"], help="name of each class but the background")
    return parser


def add_cutting(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how fields of any source are cut and split."""
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--step", type=int, default=256, help="distance of tiles in pixels")
    parser.add_argument("--min_tissue", type=float, default=0.5, help="least share of tissue in a tile, 0 keeps all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")


if __name__ == "__main__":
    main()
