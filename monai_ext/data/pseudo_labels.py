# SPDX-License-Identifier: Apache-2.0
"""Predictions of whole images as a data set to learn from: label maps, and patches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_ext.data.datalist import load_datalist
from monai_ext.data.files import path_in, write_atomically
from monai_ext.data.patch_folder import (
    LIST,
    SELECTION,
    Patch,
    cut,
    patch_at,
    png_file,
    read_selection,
    write_training_list,
)
from monai_ext.functional.pseudo_labels import kept_instances, overruled, spread_windows


class PseudoLabels:
    """Writes a round's pseudo labels to ``<output_dir>/round_<k>``:

    - ``maps/<image>.png``: what was predicted for an image and kept, 16 bits; where a patch of it is annotated, the
      annotation;
    - ``images/`` and ``labels/``: patches of the images and of their maps, drawn at random, as many of each image;
    - ``datalist.json``: the patches as a training section, written last.

    An image in which nothing is found gives no patch. Source: "Which pixel to annotate", Lou et al., IEEE TMI 2022,
    sections III-C and IV-A: 600 of 256 px a round; which, and what of a prediction is kept, it does not say.

    Args:
        output_dir: where to write.
        size: side of a patch in px.
        number: of patches a round.
        score_floor: instances of lower scores are dropped.
        smallest_px: instances of fewer pixels are dropped.
        patches_dir: the annotated patches with their ``selection.json``; without that file nothing is known of where
            they lie, and predictions stand. None for none.
        data_root_dir: folder of the images, from which the selection names them.
        seed: of the draw, with the round's number.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        size: int,
        number: int = 600,
        score_floor: float = 0.5,
        smallest_px: int = 10,
        patches_dir: str | Path | None = None,
        data_root_dir: str | Path = "",
        seed: int = 0,
    ) -> None:
        self.output_dir, self.patches_dir = Path(output_dir), None if patches_dir is None else Path(patches_dir)
        self.size, self.number, self.seed = size, number, seed
        self.score_floor, self.smallest_px = score_floor, smallest_px
        self.data_root_dir = data_root_dir
        self._seen: list[tuple[str, NDArray[np.uint8], NDArray[np.int64]]] = []
        self._dropped = 0

    def start(self) -> None:
        """Forgets the images of the round before."""
        self._seen, self._dropped = [], 0

    def add(
        self, file: str | Path, picture: NDArray[np.uint8], labels: NDArray[np.int64], scores: NDArray[np.floating]
    ) -> None:
        """Keeps what is good of an image's prediction.

        Args:
            file: the image's.
            picture: (H, W, 3), 8 bits.
            labels: (H, W) predicted instances, 0 is background.
            scores: (H, W) the score of each pixel's instance.
        """
        name = path_in(self.data_root_dir, file).as_posix()
        limits: dict[str, Any] = {"smallest_px": self.smallest_px}
        kept, dropped = kept_instances(labels, scores, score_floor=self.score_floor, **limits)
        for patch, annotation in self._annotated(name):
            kept = overruled(kept, annotation, row=patch["row"], column=patch["column"], **limits)
        self._dropped += dropped
        self._seen.append((name, picture, kept))

    def write(self, number: int) -> dict[str, int]:
        """Writes the files of a round.

        Args:
            number: of the round.

        Returns:
            How many ``images`` were seen, instances ``kept`` (the annotated ones among them) and ``dropped``, and
            ``patches`` written.
        """
        folder = self.folder(number)
        for name, _, labels in self._seen:
            map_name = Path(name).with_suffix("").as_posix().replace("/", "_")
            write_atomically(folder / f"maps/{map_name}.png", png_file(labels.astype(np.uint16)))
        useful = [one for one in self._seen if one[2].any()]
        rng = np.random.default_rng((self.seed, number))
        shapes = [labels.shape for _, _, labels in useful]
        places = dict.fromkeys(spread_windows(shapes, size=self.size, number=self.number, rng=rng))
        entries = []
        for image, row, column in places:
            name, picture, labels = useful[image]
            patch = patch_at(name, row=row, column=column, size=self.size)
            entry = {key: f"{key}s/{patch['name']}.png" for key in ("image", "label")}
            write_atomically(folder / entry["image"], png_file(cut(picture, patch)))
            write_atomically(folder / entry["label"], png_file(cut(labels, patch).astype(np.uint16)))
            entries.append(entry)
        write_training_list(folder, entries, name=f"pseudo labels of round {number}")
        kept = sum(int(labels.max(initial=0)) for *_, labels in self._seen)
        return {"images": len(self._seen), "kept": kept, "dropped": self._dropped, "patches": len(entries)}

    def items(self, number: int) -> list[dict[str, Any]]:
        """The patches of a round, as they lie on the disk: ``image`` and ``label`` of each."""
        folder = self.folder(number)
        return load_datalist(folder / LIST, folder, "training")

    def folder(self, number: int) -> Path:
        """Where a round's files are."""
        return self.output_dir / f"round_{number}"

    def _annotated(self, name: str) -> list[tuple[Patch, NDArray[np.integer]]]:
        """The patches of an image, and their label maps (h, w)."""
        if self.patches_dir is None or not (self.patches_dir / SELECTION).exists():
            return []
        patches = [patch for patch in read_selection(self.patches_dir) if patch["image"] == name]
        return [(patch, np.asarray(Image.open(self.patches_dir / f"labels/{patch['name']}.png"))) for patch in patches]
