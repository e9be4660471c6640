# SPDX-License-Identifier: Apache-2.0
"""Overlapping cervical cells of the ISBI 2014 challenge (synthetic pictures, 45 to train and 90 to test) as a set.

    python scripts/prepare_isbi2014.py <source> --out data/isbi2014

``<source>`` is the unpacked ``Train45Test90.zip`` of the challenge's page (search for "Overlapping Cervical Cytology
Image Segmentation Challenge"); no licence is stated there. The files and the variables in them, which ``--train_*`` and
``--test_*`` name otherwise:

=================================  =====================  ======================================================
files                              variables              each holds
=================================  =====================  ======================================================
isbi_train.mat, isbi_test90.mat    ISBI_Train,            cells (n, 1), a picture (H, W) of 8 bits in each
                                   ISBI_Test90
isbi_train_GT.mat,                 train_Cytoplasm,       cells (n, 1) of cells (m, 1): a mask (H, W) for each of
isbi_test90_GT.mat                 test_Cytoplasm         the m cytoplasms, which may overlap
the same                           train_Nuclei,          cells (n, 1), a mask (H, W) of all nuclei in each, or a
                                   test_Nuclei            label map of them
=================================  =====================  ======================================================

The challenge's other archive keeps the same in ``trainset.mat``, ``testset.mat`` and their ``_GT``, of which those that
MATLAB saved as version 7.3 must be saved again first: ``s = load(f); save(f, '-struct', 's', '-v7')``.

Of the training pictures ``--labeled`` are labelled and ``--validation`` validate, drawn at random; the rest are the
section ``unlabeled``. Categories are 1 cytoplasm, which holds its nucleus, and 2 nucleus; ``annotations.json`` has the
instances of all sections. Nuclei that touch in a mask are one instance. Each picture is a group of its own: the
pictures were put together from cells of 16 real fields, and which cell is where was not published, so that a cell may
stand in several pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _fields import refuse_source
from _tiles import TileSetWriter
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.ndimage import label as components

from monai_ext.data.coco import CocoWriter
from monai_ext.functional.outlines import cutouts_of_labels, cutouts_of_masks

CATEGORIES = {1: "cytoplasm", 2: "nucleus"}
ANNOTATIONS = "annotations.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    options = _parser().parse_args(arguments)
    refuse_source(options.out, options.source)
    writer = TileSetWriter(options.out, name="overlapping cervical cells", labels=tuple(CATEGORIES.values()))
    writer.head["annotations"] = ANNOTATIONS
    coco = CocoWriter(CATEGORIES)
    training = read_part(options.source, options.train_files, options.train_names)
    for number, section in enumerate(draw_sections(len(training), options)):
        _add(writer, coco, section, f"train_{number:03d}", training[number])
    for number, picture in enumerate(read_part(options.source, options.test_files, options.test_names)):
        _add(writer, coco, "test", f"test_{number:03d}", picture)
    coco.write(options.out / ANNOTATIONS)
    for value, name in CATEGORIES.items():
        print(f"{name}: {sum(one['category_id'] == value for one in coco.annotations)} instances")
    writer.finish()


Picture = tuple[NDArray[np.uint8], list[NDArray[np.bool_]], NDArray[Any]]
"""Grey values (H, W), a mask (H, W) for each cytoplasm, and the label map (H, W) of the nuclei."""


def read_part(source: Path, files: Sequence[str], names: Sequence[str]) -> list[Picture]:
    """Read the pictures of a part.

    Args:
        source: folder.
        files: of pictures, and of what is in them.
        names: variables of the pictures, cytoplasms and nuclei.

    Raises:
        SystemExit: naming the file and the variable, where one is missing or is not as expected.
    """
    paths = source / files[0], source / files[1], source / files[1]
    images, cytoplasms, nuclei = (_variable(path, name) for path, name in zip(paths, names, strict=True))
    if not len(images) == len(cytoplasms) == len(nuclei):
        found = f"{len(cytoplasms)} cells of {names[1]} and {len(nuclei)} of {names[2]}"
        raise SystemExit(f"{paths[1]}: found {found}, expected {len(images)} as {names[0]} in {paths[0].name} has.")
    pictures = []
    for number, (image, masks, nucleus) in enumerate(zip(images, cytoplasms, nuclei, strict=True), start=1):
        where = f"{paths[1]}: in picture {number}"
        if image.dtype != np.uint8 or image.ndim != 2:
            found = f"{image.dtype} of shape {image.shape}"
            raise SystemExit(f"{paths[0]}: found {found} as picture {number}, expected uint8 (H, W).")
        listed = [mask for mask in (np.ravel(masks) if masks.dtype == object else [masks]) if np.size(mask)]
        for mask in (*listed, nucleus):
            if mask.shape != image.shape:
                raise SystemExit(f"{where} found a mask of shape {mask.shape}, expected {image.shape}.")
        numbers = components(nucleus)[0] if len(np.unique(nucleus)) <= 2 else nucleus
        pictures.append((image, [mask != 0 for mask in listed], numbers))
    return pictures


def draw_sections(count: int, options: argparse.Namespace) -> list[str]:
    """Draw a section for each training picture; which are labelled with a seed stay so where more are."""
    left = count - options.labeled - options.validation
    if options.labeled < 1 or options.validation < 0 or left < 0:
        asked = f"{options.labeled} labelled and {options.validation} for validation"
        raise SystemExit(f"--labeled, --validation: found {asked}, expected at least 1 and 0, of {count} pictures.")
    order = np.random.default_rng(options.seed).permutation(count)
    sections = ["unlabeled"] * count
    for place in order[: options.labeled]:
        sections[place] = "training"
    for place in order[count - options.validation :]:
        sections[place] = "validation"
    return sections


def _add(writer: TileSetWriter, coco: CocoWriter, section: str, stem: str, picture: Picture) -> None:
    image, cytoplasms, nuclei = picture
    writer.add(section, stem, image=np.stack([image] * 3, axis=-1), label=None, group=stem)
    name = writer.items[section][-1]["image"]
    coco.add(name, cutouts_of_masks(cytoplasms), shape=image.shape, category_id=1)
    coco.add(name, cutouts_of_labels(nuclei), shape=image.shape, category_id=2)


def _variable(path: Path, name: str) -> list[NDArray[Any]]:
    """The cells of a variable of a .mat file."""
    if not path.is_file():
        raise SystemExit(f"{path}: found no such file, expected it from the challenge.")
    try:
        content = loadmat(path, variable_names=[name])
    except NotImplementedError:
        asked = "an older one: in MATLAB s = load(f); save(f, '-struct', 's', '-v7')"
        raise SystemExit(f"{path}: found a MATLAB file of version 7.3, expected {asked}.") from None
    except (OSError, ValueError, TypeError, MatReadError) as error:
        raise SystemExit(f"{path}: found a file that cannot be read ({error}), expected a MATLAB file.") from None
    if name not in content or content[name].dtype != object:
        found = "no cell array" if name in content else "no variable"
        raise SystemExit(f"{path}: found {found} {name}, expected cells with one entry a picture.")
    return [np.asarray(cell) for cell in np.ravel(content[name])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the .mat files")
    parser.add_argument("--out", type=Path, default=Path("data/isbi2014"), help="folder to write")
    parser.add_argument("--labeled", type=int, default=9, help="number of labelled training pictures")
    parser.add_argument("--validation", type=int, default=9, help="number of training pictures that validate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    for part, stem, image, prefix in (
        ("train", "isbi_train", "ISBI_Train", "train"),
        ("test", "isbi_test90", "ISBI_Test90", "test"),
    ):
        files, names = (f"{stem}.mat", f"{stem}_GT.mat"), (image, f"{prefix}_Cytoplasm", f"{prefix}_Nuclei")
        what = ("PICTURES", "MASKS")
        parser.add_argument(f"--{part}_files", nargs=2, default=files, metavar=what, help="files of this part")
        what = ("PICTURES", "CYTOPLASM", "NUCLEI")
        parser.add_argument(f"--{part}_names", nargs=3, default=names, metavar=what, help="variables in them")
    return parser


if __name__ == "__main__":
    main()
