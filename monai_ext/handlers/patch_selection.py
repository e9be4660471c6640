# SPDX-License-Identifier: Apache-2.0
"""Chooses the patches to annotate when all images have been seen, and writes what an annotator needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from numpy.typing import NDArray

from monai_ext.data.patch_folder import Patch, cut, patch_at, write_patch_list, write_patches
from monai_ext.functional.patch_selection import Selection, Windows, join_windows
from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.draw_patches import contact_sheet, map_of_clusters
from monai_ext.handlers.files import path_in, write_atomically
from monai_ext.handlers.picture_results import rows_and_columns

Choose = Callable[[Windows], Selection]


class Seen(NamedTuple):
    """An image and the features of its windows."""

    file: Path
    group: str | None
    picture: NDArray[np.uint8]
    """(H, W, 3)"""
    found: dict[str, Any]


class PatchSelection:
    """Chooses patches among the windows of all images and writes their folder, see :mod:`monai_ext.data.patch_folder`.

    Beside them it draws ``contact_sheet.png``, the picks on their images, and, where windows were compared,
    ``clusters.png``, all windows by their two main components. ``selection.json`` holds the choice's name and all its
    options.

    It belongs to an evaluator that does not decollate, whose output is what
    :class:`~monai_ext.inferers.WindowFeatureInferer` gives. No mask is read.

    Args:
        output_dir: where to write.
        choose: which windows; :func:`~monai_ext.functional.patch_selection.select_patches` with its options set, or a
            random choice beside it.
        size: side of the windows in px.
        how: what else is to stand in ``selection.json``, such as what the features are.
        data_root_dir: folder of the images, from which they are named.
        image_key, pred_key: in the evaluator's batch and output.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        choose: Choose,
        size: int,
        how: Mapping[str, Any] | None = None,
        data_root_dir: str | Path = "",
        image_key: str = "picture",
        pred_key: str = "pred",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.choose, self.size, self.how = choose, size, dict(how or {})
        self.data_root_dir, self.image_key, self.pred_key = data_root_dir, image_key, pred_key
        self._seen: list[Seen] = []

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._seen.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self.write())

    def _keep(self, engine: Evaluator) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        pictures = batch[self.image_key]
        groups = batch.get("group", [None] * len(pictures))
        for picture, name, group, found in zip(
            pictures, pictures.meta["filename_or_obj"], groups, output[self.pred_key], strict=True
        ):
            file = path_in(self.data_root_dir, str(name))
            self._seen.append(Seen(file, group, rows_and_columns(picture).astype(np.uint8), found))

    def write(self) -> None:
        """Chooses, and writes all files."""
        found = [one.found for one in self._seen]
        windows = join_windows(found)
        selection = self.choose(windows)
        corners = np.concatenate([one["corners"] for one in found])[selection.picks].tolist()
        seen = [self._seen[number] for number in windows.image[selection.picks]]
        patches = [
            self._patch(number, one, corner, selection)
            for number, (one, corner) in enumerate(zip(seen, corners, strict=True))
        ]
        cuts = [cut(one.picture, patch) for one, patch in zip(seen, patches, strict=True)]
        write_patches(self.output_dir, patches, cuts, how=self._how(len(patches)))
        sheet = contact_sheet([one.picture for one in seen], cuts, corners, size=self.size)
        write_atomically(self.output_dir / "contact_sheet.png", png_bytes(sheet))
        clusters = self.output_dir / "clusters.png"
        clusters.unlink(missing_ok=True)
        if selection.clusters is not None and selection.features is not None:
            drawn = map_of_clusters(selection.features, selection.clusters, selection.picks)
            write_atomically(clusters, png_bytes(drawn))
        write_patch_list(self.output_dir, patches)

    def _patch(self, number: int, seen: Seen, corner: list[int], selection: Selection) -> Patch:
        why: dict[str, Any] = {}
        if selection.costs is not None and selection.terms is not None:
            window = selection.picks[number]
            why = {"cluster": number, "cost": float(selection.costs[window]), "terms": selection.terms[window].tolist()}
        row, column = corner
        return patch_at(seen.file.as_posix(), row=row, column=column, size=self.size, group=seen.group, **why)

    def _how(self, patches: int) -> dict[str, Any]:
        options = inspect.signature(self.choose).parameters.values()
        pixels = sum(one.picture.shape[0] * one.picture.shape[1] for one in self._seen)
        return {
            "method": getattr(getattr(self.choose, "func", self.choose), "__name__", "unknown"),
            **{option.name: option.default for option in options if option.default is not option.empty},
            **self.how,
            "windows": sum(len(one.found["corners"]) for one in self._seen),
            "share_of_pixels": patches * self.size**2 / pixels,
        }
