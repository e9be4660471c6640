# SPDX-License-Identifier: Apache-2.0
"""What an annotator gets, from pictures on the disk through MONAI's evaluator."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRanged
from PIL import Image

from monai_ext.data import load_datalist
from monai_ext.functional.patch_selection import Windows, random_centres, random_windows, select_patches
from monai_ext.handlers import PatchSelection
from monai_ext.handlers.draw_patches import TILE_PX, contact_sheet, map_of_clusters
from monai_ext.inferers import WindowFeatureInferer

SIZE = 8
KEYS = ("features", "regions", "corners")
CPS = partial(select_patches, clusters=3)


class Means(torch.nn.Module):
    """Mean colour, and a feature that is far larger than the others; the map of an image knows the place alone."""

    def forward(self, windows):
        return torch.cat([windows.mean((2, 3)), 100 * windows[:, :1].amax((2, 3))], 1)

    def map_of(self, image):
        return image

    def of_map(self, features, rows, columns, size):
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        return torch.cat([places, places.flip(-1) * size], -1).float()


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

    def run(mode="exact", **options):
        inferer = WindowFeatureInferer(size=SIZE, stride=4, mode=mode)
        scale = ScaleIntensityRanged("image", 0, 255, 0, 1)
        groups = {"transforms": [scale], "keys": lambda name: {"group": name.split("/")[0]}}
        evaluator = evaluator_of(pictures(), Means(), inferer=inferer, decollate=False, **groups)
        options = {"choose": CPS, "size": SIZE, "how": {"features": "means"}, **options}
        PatchSelection(tmp_path / "out", data_root_dir=tmp_path / "data", **options).attach(evaluator)
        evaluator.run()
        return tmp_path / "out", json.loads((tmp_path / "out/selection.json").read_text())

    return run


def all_windows(mode="exact"):
    """All windows, and their first rows and columns."""
    found = []
    for pixels in pictures().values():
        image = torch.from_numpy(pixels.transpose(2, 1, 0) / 255).float()
        found += WindowFeatureInferer(size=SIZE, stride=4, mode=mode)(image[None], Means())
    features, regions, corners = (np.concatenate([one[key] for one in found]) for key in KEYS)
    off = np.hypot(corners[:, 0] + 4 - 10, corners[:, 1] + 4 - 14)
    return Windows(features, regions, np.repeat(range(3), 24), off), corners


def test_everything_an_annotator_needs(select):
    out, content = select()
    assert (content["method"], content["clusters"], content["features"]) == ("select_patches", 3, "means")
    assert content["windows"] == 3 * 4 * 6
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
    choose = partial(select_patches, clusters=3, weights=(1.0, 0.0, 1.0), fine_clusters=2, scale=True)
    _, content = select(choose=choose)
    windows, corners = all_windows()
    expected = choose(windows)
    assert [[p["row"], p["column"]] for p in content["patches"]] == corners[expected.picks].tolist()
    np.testing.assert_allclose([p["cost"] for p in content["patches"]], expected.costs[expected.picks], rtol=1e-4)
    np.testing.assert_allclose(
        [p["terms"] for p in content["patches"]], expected.terms[expected.picks], rtol=1e-4, atol=1e-6
    )


def test_every_option_of_the_choice_is_written_down(select):
    _, content = select(choose=partial(select_patches, clusters=3, weights=[1.0, 0.0, 1.0]))
    del content["patches"], content["share_of_pixels"]
    assert content == {
        "method": "select_patches", "clusters": 3, "fine_clusters": 4, "weights": [1.0, 0.0, 1.0], "candidates": "all",
        "scale": False, "seeds": [42, 500], "cheapest": 32, "spread": 96, "features": "means", "windows": 72,
    }  # fmt: skip


def test_windows_know_their_image_and_how_far_from_its_centre_they_lie(select):
    seen = []
    select(choose=lambda windows: seen.append(windows) or CPS(windows))
    expected, _ = all_windows()
    for found, wanted in zip(seen[0][:4], expected[:4], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert seen[0].exact is None


def test_of_a_dense_run_the_exact_features_of_a_short_list_decide(select):
    """They are asked of the image on which a window lies, in the order in which windows are named."""
    choose = partial(select_patches, clusters=3, cheapest=4, spread=5)
    _, content = select("dense", choose=choose)
    exact, corners = all_windows()
    windows, _ = all_windows("dense")
    expected = choose(windows._replace(exact=lambda some: (exact.features[some], exact.regions[some])))
    assert [[p["row"], p["column"]] for p in content["patches"]] == corners[expected.picks].tolist()
    assert [p["image"] for p in content["patches"]] == [list(pictures())[n] for n in windows.image[expected.picks]]
    np.testing.assert_allclose([p["cost"] for p in content["patches"]], expected.costs[expected.picks], rtol=1e-4)
    assert (content["cheapest"], content["spread"]) == (4, 5)
    assert expected.picks.tolist() != choose(windows).picks.tolist()

    seen = []
    select("dense", choose=lambda windows: seen.append(windows) or CPS(windows))
    some = np.array([50, 3, 71, 30, 4])
    for found, wanted in zip(seen[0].exact(some), (exact.features, exact.regions), strict=True):
        np.testing.assert_allclose(found, wanted[some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [random_windows, random_centres])
def test_random_choices(select, method):
    out, content = select(choose=partial(method, number=2, seed=21))
    windows, corners = all_windows()
    expected = method(windows, number=2, seed=21).picks
    assert [[p["row"], p["column"]] for p in content["patches"]] == corners[expected].tolist()
    assert [p["image"] for p in content["patches"]] == [list(pictures())[n] for n in windows.image[expected]]
    assert (content["method"], content["number"], content["seed"]) == (method.__name__, 2, 21)
    assert not any("cost" in patch for patch in content["patches"])
    assert not (out / "clusters.png").exists()


def test_another_choice_takes_the_place_of_the_first(select):
    """Nobody annotates patches of an earlier choice by mistake; what was annotated stays."""
    out, _ = select()
    (out / "labels").mkdir()
    (out / "labels/mine.png").touch()
    (out / "patches/mine.png").touch()
    _, content = select(choose=partial(random_windows, number=1))
    (patch,) = content["patches"]
    assert {path.name for path in (out / "patches").iterdir()} == {f"{patch['name']}.png", "mine.png"}
    assert [path.relative_to(out / "annotate").with_suffix("") for path in (out / "annotate").rglob("*.geojson")] == [
        Path(patch["image"]).with_suffix("")
    ]
    assert (out / "labels/mine.png").exists()
    assert not (out / "clusters.png").exists()
    assert len(load_datalist(out / "datalist.json", out, "training")) == 1


def test_contact_sheet_frames_the_patch_on_its_image():
    image = np.zeros((64, 128, 3), np.uint8)
    patch = np.full((16, 16, 3), 200, np.uint8)
    sheet = contact_sheet([image] * 4, [patch] * 4, [(8, 32)] * 4, size=16)
    step = TILE_PX + 6
    assert sheet.shape == (2 * step - 6, 6 * step - 6, 3)
    frame = (sheet == (255, 140, 0)).all(-1)
    rows, columns = np.nonzero(frame[:step, :step])
    assert (rows.min(), columns.min()) == (16, 64)  # drawn at twice its size
    assert (rows.max(), columns.max()) == (47, 95)
    assert (sheet[100, step + 100] == 200).all()
    assert (sheet[-20, -20] == 255).all(), "the second row has one pair"


def test_the_map_takes_few_features_and_many_windows():
    rng = np.random.default_rng(0)
    for shape in ((6000, 4), (10, 1), (1, 3)):
        features, clusters = rng.normal(size=shape), np.arange(shape[0]) % 2
        assert map_of_clusters(features, clusters, [0]).ndim == 3
