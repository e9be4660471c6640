# SPDX-License-Identifier: Apache-2.0
"""Vestibular schwannoma in T2 MR (TCIA Vestibular-Schwannoma-SEG) as a seven-point data set.

    python scripts/prepare_vestibular_schwannoma.py <source> --out data/vestibular_schwannoma --crop 128 128 48

``<source>`` is the download (any depth above the folders ``VS-SEG-001``, ``VS-SEG-002``, ...) with the MR and RTSTRUCT
series. The T2 series becomes the image; the tumour's contours in the RTSTRUCT that was drawn on it become the mask on
its grid. The sections are those of Zhai et al., IEEE TMI 2023 (176/20/46), which follow the case number: up to 181
training, up to 201 validation, the rest test. Cases that cannot be converted (one sentence each) are left out.

``--crop`` cuts (or fills with zeros) a box of that many voxels around the tumour, as the authors did, and keeps the
world position. IT USES THE MASK OF EVERY CASE, TEST CASES INCLUDED: figures then hold for tumours already located.

The data: Shapey et al., Scientific Data 8 (2021), doi 10.1038/s41597-021-01064-w; licence on its TCIA page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import _dicom
import _prepare
import numpy as np
from numpy.typing import NDArray

TUMOUR = r"^(TV|VS|AN)(?![a-z])|tumou?r|schwannoma|neuroma"
LAST_TRAINING, LAST_VALIDATION = 181, 201


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the data set."""
    parser = _prepare.parser((__doc__ or "").splitlines()[0], default_out="data/vestibular_schwannoma")
    parser.add_argument("--series", default="t2_", help="part of the image's SeriesDescription")
    parser.add_argument("--roi", default=TUMOUR, help="regular expression for the tumour's name in the RTSTRUCT")
    parser.add_argument("--crop", type=int, nargs=3, metavar=("I", "J", "K"), help="box around the true tumour, voxels")
    options = parser.parse_args(arguments)
    found = {path.name: path for path in sorted(options.source.rglob("VS-SEG-*")) if re.search(r"-\d+$", path.name)}
    if not found:
        raise SystemExit(f"{options.source} holds no folders named VS-SEG-<number>.")
    if options.crop:
        print("warning: --crop places the box by the mask, in test cases too", file=sys.stderr)
    writer = _prepare.DataSetWriter(options, name="vestibular schwannoma from seven points", target="tumour")
    for name, folder in found.items():
        try:
            headers = _dicom.read_headers(folder)
            volume = _dicom.read_series(headers, description=options.series)
            mask = _dicom.read_structure(headers, volume, name=options.roi)
        except _dicom.CaseError as fault:
            print(f"{name} is left out: {fault}", file=sys.stderr)
            continue
        image, affine = volume.array, volume.affine
        if options.crop:
            image, mask, affine = crop_around(image, mask, affine, size=options.crop)
        writer.add(section_of(name), name, image=image, label=mask, affine=affine)
    writer.finish()


def section_of(name: str) -> str:
    """Section of a case by its number."""
    number = int(name.rsplit("-", 1)[1])
    if number <= LAST_TRAINING:
        return "training"
    return "validation" if number <= LAST_VALIDATION else "test"


def crop_around(
    image: NDArray[np.float32], mask: NDArray[np.uint8], affine: NDArray[np.float64], *, size: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """Cut a box of ``size`` voxels centred on the mask's bounding box; zeros beyond the image.

    The returned affine maps the box's voxels to where they were.
    """
    inside = np.argwhere(mask)
    start = (inside.min(axis=0) + inside.max(axis=0) + 1) // 2 - np.array(size) // 2
    source, target = [], []
    for low, length, available in zip(start, size, mask.shape, strict=True):
        first, last = max(low, 0), min(low + length, available)
        source.append(slice(first, last))
        target.append(slice(first - low, last - low))
    boxes = []
    for array in (image, mask):
        box = np.zeros(size, dtype=array.dtype)
        box[tuple(target)] = array[tuple(source)]
        boxes.append(box)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return boxes[0], boxes[1], moved


if __name__ == "__main__":
    main()
