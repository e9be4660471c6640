# SPDX-License-Identifier: Apache-2.0
"""Nuclei in cervical cytology (CNSeg) as a set of tiles with masks.

    python scripts/prepare_cnseg.py <source> --out data/cnseg

``<source>`` is the unpacked ClusterSeg: the folders ``difficult``, ``normal`` and ``sample`` train, ``test-difficult``,
``test-normal`` and ``test-sample`` test; any may be missing. Masks are ``<folder>_masks/<stem>.png`` (0 and anything
else) or, where there is none, LabelMe's ``<stem>.json`` beside the image, whose polygons are filled: a pixel is in a
nucleus where its centre is. Touching nuclei run together there, whereas the owners cut a border between them. With
``--layout patch`` it is PatchSeg: ``train-images`` and ``train-masks``, and if they exist ``test-images`` and
``test-masks``. Images larger than ``--size`` are cut, the last tile ending at the border; others are kept as they are.

The layout is the one that the owners' code implies (github.com/jingzhaohlj/AL-Net, which links the data: Kaggle
``zhaojing0522/cervical-nucleus-segmentation``). Not verified: the archive itself, its image size and its licence. The
EUGMT paper has 1500 training and 454 test images of ClusterSeg and no validation, which is taken from training here.

THE GROUPS ARE A GUESS, since the source names no slides: a name without its last ``_`` or ``-`` and digits, where
several images share that; but not where training and test images do, which the owners would not have divided, nor
where more than half of the training images do. Else the group is the image. ``--groups`` names a CSV with the columns
``file`` (``<folder>_<stem>``) and ``group`` for those who know better.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import _fields as tiles
import numpy as np
from _tiles import TileSetWriter
from numpy.typing import NDArray
from skimage.draw import polygon

CLUSTER = ("difficult", "normal", "sample")
FOLDERS = {
    "cluster": {
        "training": {name: f"{name}_masks" for name in CLUSTER},
        "test": {f"test-{name}": f"test-{name}_masks" for name in CLUSTER},
    },
    "patch": {"training": {"train-images": "train-masks"}, "test": {"test-images": "test-masks"}},
}
PAPER = {"training": 1500, "test": 454}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    layout = FOLDERS[options.layout]
    found = {section: find_images(options.source, folders) for section, folders in layout.items()}
    if not found["training"]:
        raise SystemExit(
            f"{options.source}: found none of the training folders, expected {', '.join(layout['training'])}."
        )
    tiles.refuse_source(options.out, options.source)
    pairs = found["training"] | found["test"]
    groups = choose_groups(found, options.groups)
    cutting = tiles.Cutting(options.size, options.size)
    fields = {name: tiles.plan_field(image, cutting, name=name, keep_small=True) for name, (image, _) in pairs.items()}
    counts: Counter[str] = Counter()
    for name in found["training"]:
        counts[groups[name]] += len(fields[name].corners)
    sections = tiles.draw_sections(counts, (1 - options.validation, options.validation, 0.0), seed=options.seed)
    writer = TileSetWriter(options.out, name="nuclei in cervical cytology", labels=["nucleus"])
    for name, field in fields.items():
        label = pairs[name][1]
        mask = (read_polygons if label.suffix == ".json" else tiles.read_mask)(label, field.shape)
        section = sections[groups[name]] if name in found["training"] else "test"
        tiles.write_tiles(writer, section, field, cutting=cutting, mask=mask, group=groups[name])
    writer.finish()
    for section, images in found.items() if options.layout == "cluster" else ():
        print(f"{section} folders: {len(images)} images, the paper has {PAPER[section]}")


def find_images(source: Path, folders: Mapping[str, str]) -> dict[str, tuple[Path, Path]]:
    """Image and mask, or polygons, by ``<folder>_<stem>``, of those folders that exist; each has the other."""
    pairs: dict[str, tuple[Path, Path]] = {}
    for folder, masks in folders.items():
        if not (source / folder).is_dir():
            continue
        images = tiles.files_by_stem(source / folder, tiles.PICTURES)
        labels = tiles.match_masks(images, source / masks) if (source / masks).is_dir() else {}
        for stem, image in images.items():
            label = labels.get(stem, image.with_suffix(".json"))
            if not label.is_file():
                raise SystemExit(f"{image}: found neither {masks}/{stem}.png nor {stem}.json beside it, expected one.")
            pairs[f"{folder}_{stem}"] = image, label
    return pairs


def choose_groups(found: Mapping[str, Mapping[str, tuple[Path, Path]]], table: Path | None) -> dict[str, str]:
    """Group of each image of all sections, from the table or guessed as the module's docstring says."""
    images = {name: image for pairs in found.values() for name, (image, _) in pairs.items()}
    if table:
        groups = tiles.read_groups(table, {name: Path(f"{name}{path.suffix}") for name, path in images.items()})
        if both := sorted({groups[n] for n in found["training"]} & {groups[n] for n in found["test"]}):
            raise SystemExit(f"{table}: found the group {both[0]} in training and test folders, expected it in one.")
        return groups
    parts = {name: re.sub(r"[_-]\d+$", "", path.stem) for name, path in images.items()}
    training, test = (Counter(parts[name] for name in found[section]) for section in ("training", "test"))
    groups = {name: name for name in images}
    for name, part in parts.items():
        divided = training[part] > 0 and test[part] > 0
        if training[part] + test[part] > 1 and not divided and training[part] <= len(found["training"]) / 2:
            groups[name] = part
    return groups


def read_polygons(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Fill the polygons of a LabelMe file, whose points (x, y) count from the corner of the first pixel."""
    mask = np.zeros(shape, dtype=np.uint8)
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        size = (content.get("imageHeight") or shape[0], content.get("imageWidth") or shape[1])
        shapes = [(each.get("shape_type") or "polygon", np.array(each["points"], float)) for each in content["shapes"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{path}: found no LabelMe polygons ({error!r}), expected shapes with points.") from None
    if size != tuple(shape):
        raise SystemExit(f"{path}: found polygons of an image of {size}, expected {tuple(shape)} (height, width).")
    for kind, points in shapes:
        if kind != "polygon" or points.ndim != 2 or len(points) < 3:
            raise SystemExit(f"{path}: found a {kind} of {len(points)} points, expected polygons of 3 or more.")
        mask[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, shape)] = 1  # pixel centres are at .5 in LabelMe
    return mask


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the data set as it was downloaded")
    parser.add_argument("--out", type=Path, default=Path("data/cnseg"), help="folder to write")
    parser.add_argument("--layout", choices=sorted(FOLDERS), default="cluster", help="ClusterSeg or PatchSeg")
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the training tiles kept to validate")
    parser.add_argument("--groups", type=Path, help="CSV with the columns file and group, instead of the guess")
    parser.add_argument("--seed", type=int, default=0, help="seed of the validation split")
    return parser


if __name__ == "__main__":
    main()
