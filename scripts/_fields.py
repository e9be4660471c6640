# SPDX-License-Identifier: Apache-2.0
"""Fields and their masks, cut into tiles: what the scripts that make sets of tiles do alike."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _slides import TIFFS, Corner, open_picture
from _tiles import TileSetWriter, split_groups
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu

MASKS = (".png", *TIFFS)
PICTURES = (*MASKS, ".jpg", ".jpeg")

SATURATION, DARKNESS, BLACK = (0.05, 0.08), (0.12, 0.25), 0.04
"""Bounds of the thresholds of :func:`tissue_mask`, and what is darker than stained tissue."""


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
    """Draw a section for each group that has tiles, see :func:`_tiles.split_groups`."""
    return split_groups({group: count for group, count in counts.items() if count}, shares, seed=seed)


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


def add_cutting(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how fields of any source are cut and split."""
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--step", type=int, default=256, help="distance of tiles in pixels")
    parser.add_argument("--min_tissue", type=float, default=0.5, help="least share of tissue in a tile, 0 keeps all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
