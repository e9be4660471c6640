# SPDX-License-Identifier: Apache-2.0
"""Tissue in two stains (TissueNet) as a set of cells with points and masks, to pre-train with.

    python scripts/prepare_tissuenet.py <source> --out data/tissuenet

``<source>`` holds for each of ``train``, ``val`` and ``test`` a folder with ``X.npy``, ``y.npy`` and, if known,
``tissue_list.npy``, or one file whose name holds the word, such as ``tissuenet_v1.1_train.npz``, with arrays of these
names. ``X`` is (N, H, W, 2), stains of nuclei and of membranes or cytoplasm; ``y`` is (N, H, W, 2), label maps of whole
cells and of nuclei. In some images the two maps are exchanged: the one with more foreground is the cells'. Arrays are
read picture by picture, and no pickle is opened, so that metadata stored as one is left out.

A picture becomes a PNG of red, green and an empty blue, each stain scaled from its lowest value to its 99.9th
percentile: intensities cannot be compared between pictures. The owners' division is kept; their smaller pictures are
crops, of fields that are not named, so that a picture is its own group. ``tissue`` of an entry is its tissue.

Layouts are those that the CKS paper's code and the owners' (deepcell.org, registration needed) read; not verified: the
files themselves and the licence, which excludes commercial use.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from _cells import CellSetWriter
from _fields import refuse_source
from numpy.typing import NDArray

NAMES = {"training": "train", "validation": "val", "test": "test"}
CHANNELS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source)
    sources = {section: find_arrays(options.source, word) for section, word in NAMES.items()}
    if sources["training"] is None:
        raise SystemExit(f"{options.source}: found neither train/X.npy nor a train .npz, expected one of them.")
    writer = CellSetWriter(options.out, name=f"tissue in two stains, {options.of} maps")
    swapped = 0
    for section, source in sources.items():
        if source is None:
            continue
        tissues = read_tissues(source)
        for number, (stains, maps) in enumerate(islice(pairs_of(source), options.limit)):
            cells, nuclei, exchanged = order_maps(maps)
            swapped += exchanged
            keys = {"tissue": tissues[number]} if number < len(tissues) else None
            name, label = f"{NAMES[section]}_{number:05d}", cells if options.of == "cell" else nuclei
            writer.add(section, name, image=as_rgb(stains), label=label, group=name, keys=keys)
    writer.finish()
    print(f"label maps of cells and nuclei were exchanged in {swapped} pictures")


def find_arrays(source: Path, word: str) -> Path | None:
    """Folder or .npz of a section, None where there is none."""
    if (source / word / "X.npy").is_file():
        return source / word
    found = sorted(path for path in source.glob("*.npz") if word in path.stem.lower())
    if len(found) > 1:
        raise SystemExit(f"{found[1]}: found {found[0].name} beside it, expected one file of {word!r}.")
    return found[0] if found else None


def pairs_of(source: Path) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Stains and label maps (H, W, 2) of each picture; another number of the one than of the other is an error."""
    for stains, maps in zip_longest(pictures(source, "X"), pictures(source, "y")):
        if stains is None or maps is None or stains.shape != maps.shape:
            raise SystemExit(f"{source}: found X and y of different shapes, expected a label map for each picture.")
        yield stains, maps


def pictures(source: Path, name: str) -> Iterator[NDArray[Any]]:
    """Each (H, W, 2) of an array (N, H, W, 2), without reading it whole.

    Raises:
        SystemExit: a missing array, one of another shape, a pickle or a truncated file.
    """
    try:
        if source.is_dir():
            array = np.load(source / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            _check_shape(source, name, array.shape)
            yield from array
            return
        with zipfile.ZipFile(source) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
            _check_shape(source, name, shape)
            if is_fortran or dtype.hasobject:
                raise ValueError("Fortran order or objects")
            size = int(np.prod(shape[1:])) * dtype.itemsize
            for _ in range(shape[0]):
                yield np.frombuffer(file.read(size), dtype).reshape(shape[1:])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{source}: found no whole array {name!r} ({error}), expected (N, H, W, 2).") from None


def read_tissues(source: Path) -> list[str]:
    """Tissue of each picture; empty where it is not stored, or as a pickle."""
    try:
        if source.is_dir():
            return [str(name) for name in np.load(source / "tissue_list.npy", allow_pickle=False)]
        with np.load(source, allow_pickle=False) as arrays:
            return [str(name) for name in arrays["tissue_list"]]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return []


def order_maps(maps: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Label maps (H, W) of cells and of nuclei, and whether (H, W, 2) held them the other way round."""
    foreground = np.count_nonzero(maps, axis=(0, 1))
    exchanged = bool(foreground[0] < foreground[1])
    cells, nuclei = np.moveaxis(np.asarray(maps).astype(np.int64), -1, 0)[:: -1 if exchanged else 1]
    return cells, nuclei, exchanged


def as_rgb(stains: NDArray[Any]) -> NDArray[np.uint8]:
    """Two stains (H, W, 2) as (H, W, 3) with an empty third channel; a constant stain is 0."""
    values = np.asarray(stains, dtype=np.float64)
    low, high = values.min(axis=(0, 1)), np.percentile(values, 99.9, axis=(0, 1))
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.pad(np.rint(255 * scaled).astype(np.uint8), ((0, 0), (0, 0), (0, 1)))


def _check_shape(source: Path, name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[-1] != CHANNELS:
        raise SystemExit(f"{source}: found {name!r} of shape {shape}, expected (N, H, W, {CHANNELS}).")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, default=Path("data/tissuenet"), help="folder to write")
    parser.add_argument("--of", choices=("cell", "nucleus"), default="cell", help="which of the two label maps")
    parser.add_argument("--limit", type=int, help="number of pictures of each section; all if absent")
    return parser


if __name__ == "__main__":
    main()
