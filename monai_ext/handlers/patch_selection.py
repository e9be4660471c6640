# SPDX-License-Identifier: Apache-2.0
"""Chooses the patches to annotate when all images have been seen, and writes what an annotator needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from numpy.typing import NDArray

from monai_ext.functional.patch_selection import Candidates, Selection, select_patches
from monai_ext.functional.stain_texture import standardize
from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.draw_patches import contact_sheet, map_of_clusters
from monai_ext.handlers.files import path_in, write_atomically
from monai_ext.handlers.picture_results import rows_and_columns

Method = Literal["cps", "random", "random_centre"]
METHODS = ("cps", "random", "random_centre")
LIST = "selection.json"


class Seen(NamedTuple):
    """An image and the features of its windows."""

    file: Path
    group: str | None
    picture: NDArray[np.uint8]
    """(H, W, 3)"""
    found: dict[str, Any]


class Pick(NamedTuple):
    """A chosen patch."""

    image: int
    row: int
    column: int
    window: int = -1
    """Place among the windows of all images; -1 where it is none of them."""


class PatchSelection:
    """Chooses K1 patches of all images by :func:`~monai_ext.functional.patch_selection.select_patches`, and writes

    - ``patches/<image>_r<row>_c<column>.png``, to annotate: instance maps go to ``labels/`` under the same name;
    - ``selection.json``: where each patch lies, its cluster, cost and terms, and how it was chosen;
    - ``datalist.json``: the patches as a training section whose labels are still to come;
    - ``annotate/<image>.geojson``: rectangles that QuPath opens on the image;
    - ``contact_sheet.png``: the picks on their images; ``clusters.png``: all windows by their two main components.

    It belongs to an evaluator that does not decollate, whose output is what
    :class:`~monai_ext.inferers.WindowFeatureInferer` gives. No mask is read.

    Args:
        output_dir: where to write.
        clusters: K1, the number of patches.
        size: side of the windows in px.
        features: what the features are, written into ``selection.json``.
        method: ``"cps"``; or without looking at features ``"random"`` windows or the centres of ``"random_centre"``
            images, of different ones.
        fine_clusters, weights, candidates: of the selection.
        scale_features: give all features the same spread first, for those in units of their own.
        seed: of the random methods.
        data_root_dir: folder of the images, from which they are named.
        image_key, pred_key: in the evaluator's batch and output.

    Raises:
        ValueError: an unknown method; at the end, fewer windows or images than patches.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        clusters: int,
        size: int,
        features: str,
        method: Method = "cps",
        fine_clusters: int = 4,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        candidates: Candidates = "all",
        scale_features: bool = False,
        seed: int = 0,
        data_root_dir: str | Path = "",
        image_key: str = "picture",
        pred_key: str = "pred",
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method: found {method!r}, expected one of {', '.join(METHODS)}.")
        self.output_dir = Path(output_dir)
        self.clusters, self.size, self.method, self.seed = clusters, size, method, seed
        self.options: dict[str, Any] = {"fine_clusters": fine_clusters, "weights": tuple(weights)}
        self.options["candidates"] = candidates
        self.features, self.scale_features = features, scale_features
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
        picks, selection = self._choose()
        patches = [self._described(number, pick, selection) for number, pick in enumerate(picks)]
        self._write_lists(patches)
        cuts = []
        for patch, pick in zip(patches, picks, strict=True):
            picture = self._seen[pick.image].picture
            cuts.append(picture[pick.row : pick.row + self.size, pick.column : pick.column + self.size])
            write_atomically(self.output_dir / f"patches/{patch['name']}.png", png_bytes(cuts[-1]))
        pictures, corners = [self._seen[pick.image].picture for pick in picks], [(p.row, p.column) for p in picks]
        sheet = contact_sheet(pictures, cuts, corners, size=self.size)
        write_atomically(self.output_dir / "contact_sheet.png", png_bytes(sheet))
        if selection is not None:
            drawn = map_of_clusters(self._joined("features"), selection.clusters, selection.picks)
            write_atomically(self.output_dir / "clusters.png", png_bytes(drawn))

    def _joined(self, key: str) -> NDArray[Any]:
        return np.concatenate([one.found[key] for one in self._seen])

    def _choose(self) -> tuple[list[Pick], Selection | None]:
        rng = np.random.default_rng(self.seed)
        if self.method == "random_centre":
            if self.clusters > len(self._seen):
                raise ValueError(f"clusters: found {self.clusters}, expected at most {len(self._seen)}, one an image.")
            images = rng.choice(len(self._seen), self.clusters, replace=False).tolist()
            sides = [self._seen[image].picture.shape[:2] for image in images]
            middles = [((height - self.size) // 2, (width - self.size) // 2) for height, width in sides]
            return [Pick(image, *middle) for image, middle in zip(images, middles, strict=True)], None
        corners = self._joined("corners")
        owner = np.repeat(np.arange(len(self._seen)), [len(one.found["corners"]) for one in self._seen])
        selection = None
        if self.method == "cps":
            features, regions = self._joined("features"), self._joined("regions")
            if self.scale_features:
                features, regions = standardize(features), standardize(regions, features)
            selection = select_patches(features, regions, clusters=self.clusters, **self.options)
            places = selection.picks
        elif self.clusters > len(corners):
            raise ValueError(f"clusters: found {self.clusters}, expected at most {len(corners)}, the windows.")
        else:
            places = rng.choice(len(corners), self.clusters, replace=False)
        return [Pick(int(owner[n]), int(corners[n, 0]), int(corners[n, 1]), int(n)) for n in places], selection

    def _described(self, number: int, pick: Pick, selection: Selection | None) -> dict[str, Any]:
        """A patch as ``selection.json`` has it."""
        seen = self._seen[pick.image]
        name = f"{seen.file.with_suffix('').as_posix().replace('/', '_')}_r{pick.row}_c{pick.column}"
        patch: dict[str, Any] = {"name": name, "image": seen.file.as_posix(), "group": seen.group, "cluster": number}
        patch |= {"row": pick.row, "column": pick.column, "size": self.size}
        if selection is not None:
            patch |= {"cost": float(selection.costs[pick.window]), "terms": selection.terms[pick.window].tolist()}
        return patch

    def _write_lists(self, patches: list[dict[str, Any]]) -> None:
        pixels = sum(one.picture.shape[0] * one.picture.shape[1] for one in self._seen)
        content: dict[str, Any] = {"method": self.method, "features": self.features}
        if self.method == "cps":
            content |= {**self.options, "scaled": self.scale_features}
        else:
            content["seed"] = self.seed
        content |= {"share_of_pixels": len(patches) * self.size**2 / pixels, "patches": patches}
        write_atomically(self.output_dir / LIST, json.dumps(content, indent=1))
        entries = []
        for patch in patches:
            entry = {
                key: f"{folder}/{patch['name']}.png" for key, folder in (("image", "patches"), ("label", "labels"))
            }
            entries.append(entry | ({} if patch["group"] is None else {"group": patch["group"]}))
        datalist = {"name": "patches to annotate", "labels": {"0": "background", "1": "nucleus"}, "training": entries}
        write_atomically(self.output_dir / "datalist.json", json.dumps(datalist, indent=1))
        for image in dict.fromkeys(patch["image"] for patch in patches):
            mine = [rectangle(patch) for patch in patches if patch["image"] == image]
            path = self.output_dir / "annotate" / Path(image).with_suffix(".geojson")
            write_atomically(path, json.dumps({"type": "FeatureCollection", "features": mine}))


def rectangle(patch: dict[str, Any]) -> dict[str, Any]:
    """A patch as a feature of GeoJSON that QuPath opens as an annotation, [x, y] in pixels."""
    left, top, side = patch["column"], patch["row"], patch["size"]
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    properties = {"objectType": "annotation", "name": patch["name"], "isLocked": True}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
