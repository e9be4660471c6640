# SPDX-License-Identifier: Apache-2.0
"""What the scripts that make sets of cells share: label maps, points, files and the data list."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _files import place
from _tiles import SECTIONS
from numpy.typing import NDArray
from PIL import Image

from monai_ext.data.datalist import resolve
from monai_ext.data.errors import DataFault
from monai_ext.data.points_formats import CELL
from monai_ext.data.points_io import PointSet, write_points
from monai_ext.functional.instances import centroids

Points = NDArray[np.float64]


class CellSetWriter:
    """Writes ``images``, ``labels``, ``points`` and, at the end, ``datalist.json`` and a short table.

    Points are the cells' centres of mass, [x, y] as indices, moved to the cell's nearest pixel where they lie outside
    it. With ``jitter_px`` they are clicks: of the cell's pixels within that distance one at random, which depends on
    the seed and the file's name alone.

    Args:
        out: folder to write.
        name: the data set's name in the data list.
        copy: copy files instead of linking them.
        jitter_px: greatest click error.
        seed: of the click errors.
    """

    def __init__(self, out: Path, *, name: str, copy: bool = False, jitter_px: float = 0.0, seed: int = 0) -> None:
        if not 0 <= jitter_px < np.inf:
            raise SystemExit(f"--jitter_px: found {jitter_px:g}, expected 0 or more.")
        self.out, self.copy, self.jitter_px, self.seed = out, copy, jitter_px, seed
        self.head: dict[str, Any] = {"name": name, "labels": {"0": "background", "1": CELL}}
        self.items: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
        self.cells = dict.fromkeys(SECTIONS, 0)

    def add(
        self,
        section: str,
        stem: str,
        *,
        image: Path | NDArray[Any],
        label: Path | NDArray[Any] | None = None,
        points: Points | None = None,
        group: str,
        keys: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one picture. A training picture without any point is left out, which is said.

        Args:
            section: training, validation or test.
            stem: file name without suffix.
            image: a file, linked, or the pixels: (H, W) in 8 or 16 bits, or (H, W, 3) in 8.
            label: number of the cell of each pixel (H, W), 0 is background: a file, linked, or the numbers; None for a
                picture without masks.
            points: (N, 2) of [x, y]; from ``label`` if None.
            group: its patient, slide or field.
            keys: further keys of its entry.
        """
        numbers = read_label_map(label) if isinstance(label, Path) else label
        if points is None:
            points = np.zeros((0, 2)) if numbers is None else self.clicks(numbers, stem)
        if section == "training" and not len(points):
            print(f"{stem}: no cell in it, left out of training")
            return
        item: dict[str, Any] = {"image": f"images/{stem}{image.suffix if isinstance(image, Path) else '.png'}"}
        self._bring(image, item["image"])
        if len(points):
            item["points"] = f"points/{stem}.json"
            (self.out / "points").mkdir(parents=True, exist_ok=True)
            write_points(self.out / item["points"], PointSet((CELL,) * len(points), points, "voxel"))
        if numbers is not None:
            item["label"] = f"labels/{stem}.png"
            if numbers.max(initial=0) > np.iinfo(np.uint16).max:
                raise SystemExit(f"{stem}: found a cell of number {numbers.max()}, expected 65535 at most.")
            linked = isinstance(label, Path) and label.suffix == ".png" and numbers.dtype == np.uint16
            self._bring(label if linked else numbers.astype(np.uint16), item["label"])
        self.items[section].append({**item, "group": group, **(keys or {})})
        self.cells[section] += len(points)

    def clicks(self, numbers: NDArray[Any], stem: str) -> Points:
        """One point [x, y] a cell of a label map (H, W), by rising number."""
        ids, points = centroids(numbers.T, inside=True)  # transposed, so that positions are [x, y]
        if not self.jitter_px:
            return points
        draws = np.random.default_rng([self.seed, zlib.crc32(stem.encode())])
        for n, number in enumerate(ids):
            pixels = np.argwhere(number == numbers.T)
            near = pixels[np.hypot(*(pixels - points[n]).T) <= self.jitter_px]
            if len(near):
                points[n] = draws.choice(near)
        return points

    def finish(self) -> None:
        """Write ``datalist.json``, last, so that it names only what exists, and say what was done."""
        path = self.out / "datalist.json"
        if not any(self.items.values()):
            raise SystemExit(f"{path}: found no picture for it, expected at least one.")
        path.write_text(json.dumps({**self.head, **{k: v for k, v in self.items.items() if v}}, indent=1) + "\n")
        print(f"{'section':<12}{'images':>7}{'groups':>8}{'cells':>8}{'masks':>7}")
        for section, rows in self.items.items():
            groups, masks = len({row["group"] for row in rows}), sum("label" in row for row in rows)
            print(f"{section:<12}{len(rows):>7}{groups:>8}{self.cells[section]:>8}{masks:>7}")
        print(f"written: {path}")

    def _bring(self, source: Path | NDArray[Any] | None, name: str) -> None:
        target = self.out / name
        if isinstance(source, Path):
            place(source, target, copy=self.copy)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # never write through a link into the source
        Image.fromarray(np.ascontiguousarray(source)).save(target)


def read_label_map(path: Path) -> NDArray[Any]:
    """Cell numbers (H, W) of a PNG or TIFF.

    Raises:
        SystemExit: what PIL cannot read, or a picture of several channels.
    """
    try:
        with Image.open(path) as image:
            numbers = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{path}: found a file that PIL cannot read ({error}), expected a label map.") from None
    if numbers.ndim != 2 or numbers.dtype.kind not in "iu" or numbers.min(initial=0) < 0:
        found = f"a picture of mode {image.mode} and shape {numbers.shape}"
        raise SystemExit(f"{path}: found {found}, expected one channel of whole numbers.")
    return numbers


def source_file(listing: Path, folder: Path, name: Any) -> Path:
    """File of ``folder`` that ``listing`` names.

    Raises:
        SystemExit: no such file, or a name that leads out of the folder.
    """
    try:
        path = Path(resolve(listing, folder, name, key="file"))
    except DataFault as fault:
        raise SystemExit(str(fault)) from None
    if not path.is_file():
        raise SystemExit(f"{path}: found no such file, expected it since {listing} names it.")
    return path


def diameters(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Diameter, in pixels, of the disc of each cell's area; a label map (H, W) with N cells gives (N,)."""
    areas = np.unique(numbers[numbers > 0], return_counts=True)[1]
    return 2 * np.sqrt(areas / np.pi)
