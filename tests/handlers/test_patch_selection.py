# SPDX-License-Identifier: Apache-2.0
"""What an annotator gets, from pictures on the disk through MONAI's evaluator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRanged
from PIL import Image

from monai_ext.data import load_datalist
from monai_ext.functional.patch_selection import select_patches
from monai_ext.functional.stain_texture import standardize
from monai_ext.handlers import PatchSelection
from monai_ext.handlers.draw_patches import TILE_PX, contact_sheet, map_of_clusters
from monai_ext.inferers import WindowFeatureInferer

SIZE = 8


class Means(torch.nn.Module):
    """Mean colour, and a feature that is far larger than the others."""

    def forward(self, windows):
        return torch.cat([windows.mean((2, 3)), 100 * windows[:, :1].amax((2, 3))], 1)


def pictures():
    """Three pictures, each of a colour of its own, 20 rows and 28 columns; noise makes windows differ."""
    rng = np.random.default_rng(0)
    names = ("slide-a/one.png", "slide-a/two.png", "slide-b/one.png")
    return {
        name: (rng.integers(0, 40, (20, 28, 3)) + 200 * np.eye(3)[n]).astype(np.uint8) for n, name in enumerate(names)
    }


@pytest.fixture
def select(tmp_path, evaluator_of):
    """Runs the handler over the pictures; returns the output folder and the list."""

    def run(**options):
        inferer = WindowFeatureInferer(size=SIZE, stride=4)
        scale = ScaleIntensityRanged("image", 0, 255, 0, 1)
        groups = {"transforms": [scale], "keys": lambda name: {"group": name.split("/")[0]}}
        evaluator = evaluator_of(pictures(), Means(), inferer=inferer, decollate=False, **groups)
        options = {"clusters": 3, "size": SIZE, "features": "means", "data_root_dir": tmp_path / "data", **options}
        PatchSelection(tmp_path / "out", **options).attach(evaluator)
        evaluator.run()
        return tmp_path / "out", json.loads((tmp_path / "out/selection.json").read_text())

    return run


def all_features():
    found = []
    for pixels in pictures().values():
        image = torch.from_numpy(pixels.transpose(2, 1, 0) / 255).float()
        found += WindowFeatureInferer(size=SIZE, stride=4)(image[None], Means())
    return tuple(np.concatenate([one[key] for one in found]) for key in ("features", "regions", "corners"))


def test_everything_an_annotator_needs(select):
    out, content = select()
    assert content["method"] == "cps"
    assert content["features"] == "means"
    assert content["share_of_pixels"] == pytest.approx(3 * 64 / (3 * 20 * 28))
    assert sorted(patch["image"] for patch in content["patches"]) == sorted(pictures())
    assert [patch["cluster"] for patch in content["patches"]] == [0, 1, 2]
    for patch in content["patches"]:
        row, column = patch["row"], patch["column"]
        cut = pictures()[patch["image"]][row : row + SIZE, column : column + SIZE]
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"patches/{patch['name']}.png")), cut)
        features = json.loads((out / "annotate" / patch["image"].replace(".png", ".geojson")).read_text())["features"]
        (feature,) = features
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1] == [column, row]
        assert ring[2] == [column + SIZE, row + SIZE]
        assert feature["properties"]["objectType"] == "annotation"
    entries = load_datalist(out / "datalist.json", out, "training")
    assert [entry["group"] for entry in entries] == [patch["group"] for patch in content["patches"]]
    assert all(
        entry["label"].endswith(f"labels/{p['name']}.png") for entry, p in zip(entries, content["patches"], strict=True)
    )
    assert Image.open(out / "clusters.png").width > 300
    assert not list(out.rglob("labels"))


def test_the_choice_is_that_of_the_algorithm(select):
    _, content = select(weights=(1.0, 0.0, 1.0), fine_clusters=2)
    features, regions, corners = all_features()
    expected = select_patches(features, regions, clusters=3, fine_clusters=2, weights=(1, 0, 1))
    assert [[p["row"], p["column"]] for p in content["patches"]] == corners[expected.picks].tolist()
    np.testing.assert_allclose([p["cost"] for p in content["patches"]], expected.costs[expected.picks], rtol=1e-5)
    np.testing.assert_allclose(
        [p["terms"] for p in content["patches"]], expected.terms[expected.picks], rtol=1e-4, atol=1e-6
    )


def test_features_of_one_spread(select):
    _, content = select(scale_features=True)
    features, regions, _ = all_features()
    expected = select_patches(standardize(features), standardize(regions, features), clusters=3)
    np.testing.assert_allclose([p["cost"] for p in content["patches"]], expected.costs[expected.picks], rtol=1e-4)
    assert content["scaled"] is True


@pytest.mark.parametrize("method", ["random", "random_centre"])
def test_random_choices(select, method):
    out, content = select(method=method, seed=21)
    again = select(method=method, seed=21)[1]
    others = [select(method=method, seed=seed)[1] for seed in range(4)]
    assert content["patches"] == again["patches"]
    assert len({str(sorted(p["name"] for p in other["patches"])) for other in others}) > (method == "random")
    assert content["seed"] == 21
    assert not (out / "clusters.png").exists()
    if method == "random_centre":
        assert {(p["row"], p["column"]) for p in content["patches"]} == {(6, 10)}
        assert len({p["image"] for p in content["patches"]}) == 3


def test_too_few_images_or_windows(select):
    with pytest.raises(ValueError, match="clusters: found 4, expected at most 3, one an image"):
        select(method="random_centre", clusters=4)
    with pytest.raises(ValueError, match="clusters: found 73, expected at most 72, the windows"):
        select(method="random", clusters=73)
    with pytest.raises(ValueError, match="method: found 'best'"):
        select(method="best")


def test_contact_sheet_frames_the_patch_on_its_image():
    image = np.zeros((64, 128, 3), np.uint8)
    patch = np.full((16, 16, 3), 200, np.uint8)
    sheet = contact_sheet([image] * 4, [patch] * 4, [(8, 32)] * 4, size=16)
    assert sheet.shape == (2 * (TILE_PX + 16), 3 * (2 * TILE_PX + 24), 3)
    frame = (sheet == (255, 140, 0)).all(-1)
    rows, columns = np.nonzero(frame[: TILE_PX + 8, : TILE_PX + 8])
    assert (rows.min() - 8, columns.min() - 8) == (16, 64)  # drawn at twice its size
    assert (rows.max() - 8, columns.max() - 8) == (47, 95)
    assert (sheet[100, 8 + TILE_PX + 8 + 100] == 200).all()
    assert (sheet[-20, -20] == 255).all(), "the second row has one pair"


def test_the_map_takes_few_features_and_many_windows():
    rng = np.random.default_rng(0)
    for shape in ((6000, 4), (10, 1), (1, 3)):
        features, clusters = rng.normal(size=shape), np.arange(shape[0]) % 2
        assert map_of_clusters(features, clusters, [0]).ndim == 3
