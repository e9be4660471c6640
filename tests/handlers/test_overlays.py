# SPDX-License-Identifier: Apache-2.0
"""Which cases are drawn, what the pictures show, and where things lie in them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB, draw_overlay
from monai_ext.handlers.overlays import CaseOverlays, dice_score


def volume(mask: np.ndarray, name: str, affine: np.ndarray | None = None) -> MetaTensor:
    """Label map (1, *S)."""
    affine = np.eye(4) if affine is None else affine
    return MetaTensor(
        torch.from_numpy(mask[None].astype(np.float32)), affine=affine, meta={"filename_or_obj": f"/data/{name}.nii.gz"}
    )


def slab(first: int, shape: tuple[int, ...] = (16, 12, 10)) -> np.ndarray:
    """Four planes along the first axis: two slabs shifted by s share (4 - s) / 4, which is their Dice."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[first : first + 4] = 1
    return mask


def case(name: str, shift: int, **extra) -> dict:
    image = np.random.default_rng(0).random((16, 12, 10))
    return {
        "image": volume(image, name),
        "label": volume(slab(4), name),
        "pred": volume(slab(4 + shift), name),
    } | extra


def run(tmp_path, batches: list, **kwargs) -> Engine:
    engine = Engine(lambda _, batch: batch)
    CaseOverlays(tmp_path, **kwargs).attach(engine)
    engine.run(batches)
    return engine


def index(tmp_path) -> dict:
    return json.loads((tmp_path / "overlays" / "cases.json").read_text())


def picture(tmp_path, name: str) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "overlays" / f"{name}.png"))


def share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((pixels == colour).all(-1).mean())


def test_best_median_worst_over_batches(tmp_path):
    run(tmp_path, [[case("b", 1), case("d", 4)], [case("a", 0)], [case("c", 2), case("e", 3)]])
    found = index(tmp_path)
    assert [(s["rank"], s["name"], s["dice"]) for s in found["shown"]] == [
        ("best", "a", 1.0),
        ("median", "c", 0.5),
        ("worst", "d", 0.0),
    ]
    assert {c["name"]: c["dice"] for c in found["cases"]} == {"a": 1, "b": 0.75, "c": 0.5, "e": 0.25, "d": 0}
    for name in ("best", "median", "worst"):
        pixels = picture(tmp_path, name)
        assert pixels.shape[0] >= 200
        assert pixels.shape[1] >= 600
        assert share(pixels, REFERENCE_RGB) > 0
        assert share(pixels, PREDICTION_RGB) > 0


def test_the_next_evaluation_replaces_pictures(tmp_path):
    engine = run(tmp_path, [[case("a", 0), case("b", 1), case("c", 2)]])
    engine.state.max_epochs = None
    engine.run([[case("z", 3)]])
    assert [(s["rank"], s["name"]) for s in index(tmp_path)["shown"]] == [("best", "z")]
    assert sorted(p.name for p in (tmp_path / "overlays").iterdir()) == ["best.png", "cases.json"]


def test_two_cases_are_best_and_worst(tmp_path):
    run(tmp_path, [[case("a", 3), case("b", 1)]])
    assert [(s["rank"], s["name"]) for s in index(tmp_path)["shown"]] == [("best", "b"), ("worst", "a")]


@pytest.mark.parametrize("missing", ["absent", "none"])
def test_without_reference_the_first_three_are_shown(tmp_path, missing):
    cases = [case(name, 0) for name in "abcd"]
    for item in cases:
        item.pop("label") if missing == "absent" else item.update(label=None)
    run(tmp_path, [cases])
    assert [(s["rank"], s["name"], s["dice"]) for s in index(tmp_path)["shown"]] == [
        (f"example_{i}", name, None) for i, name in enumerate("abc", start=1)
    ]
    pixels = picture(tmp_path, "example_1")
    assert share(pixels, PREDICTION_RGB) > 0
    assert share(pixels, REFERENCE_RGB) == 0


def test_empty_masks_and_cases_without_a_name(tmp_path):
    nothing = torch.zeros(1, 8, 8, 8)
    run(tmp_path, [[{"image": torch.rand(1, 8, 8, 8), "pred": nothing, "label": nothing}]])
    assert index(tmp_path)["cases"] == [{"name": "case 1", "dice": 1.0}]
    assert share(picture(tmp_path, "best"), PREDICTION_RGB) == 0


def test_onehot_equals_label_map(tmp_path):
    maps = case("a", 1)
    onehot = {k: torch.cat([1 - maps[k], maps[k]]) if k != "image" else maps[k] for k in ("image", "pred", "label")}
    run(tmp_path / "maps", [[maps]])
    run(tmp_path / "onehot", [[onehot]])
    np.testing.assert_array_equal(picture(tmp_path / "maps", "best"), picture(tmp_path / "onehot", "best"))


def test_the_picture_does_not_depend_on_how_the_volume_is_stored(tmp_path):
    """The same head stored as RAS and as a flipped, permuted array with the matching affine."""
    rng = np.random.default_rng(1)
    arrays = {"image": rng.random((14, 12, 10)), "label": np.zeros((14, 12, 10)), "pred": np.zeros((14, 12, 10))}
    arrays["label"][2:7, 3:6, 2:9] = 1
    arrays["pred"][3:7, 3:8, 2:9] = 1
    ras = np.diag([1.0, 2.0, 3.0, 1.0])
    stored = np.zeros((4, 4))  # axis 0 runs to S, axis 1 to L, axis 2 to A
    stored[2, 0], stored[0, 1], stored[1, 2], stored[0, 3], stored[3, 3] = 3, -1, 2, 13, 1
    run(tmp_path / "ras", [[{k: volume(a, "a", ras) for k, a in arrays.items()}]])
    turned = {k: volume(np.ascontiguousarray(a.transpose(2, 0, 1)[:, ::-1]), "a", stored) for k, a in arrays.items()}
    run(tmp_path / "turned", [[turned]])
    np.testing.assert_array_equal(picture(tmp_path / "ras", "best"), picture(tmp_path / "turned", "best"))


def test_patients_right_is_left_and_anterior_is_up(tmp_path):
    """RAS array, a small object at high i (right) and high j (anterior): top left of the axial panel."""
    mask = np.zeros((20, 20, 20))
    mask[15:18, 15:18, 8:11] = 1
    run(tmp_path, [[{"image": volume(mask, "a"), "pred": volume(mask, "a"), "label": None}]], context=None)
    axial = picture(tmp_path, "example_1")[:, :320]
    rows, columns = np.nonzero((axial == PREDICTION_RGB).all(-1))
    assert rows.max() < 160
    assert columns.max() < 160


def test_image_is_brought_to_the_grid_of_a_prediction_that_was_inverted(tmp_path):
    item = case("a", 1)
    coarse = item["image"][:, ::2, ::2, ::2]
    item["image"] = MetaTensor(coarse.as_tensor(), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    run(tmp_path, [[item]])
    assert index(tmp_path)["shown"][0]["name"] == "a"
    plain = case("a", 1, image=torch.rand(1, 5, 5, 5))
    with pytest.raises(ValueError, match=r"a: the image has the spatial shape \(5, 5, 5\)"):
        run(tmp_path, [[plain]])


def test_shapes_and_outputs_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"a: 'pred' has the spatial shape .* and 'label' \(16, 12, 8\)"):
        run(tmp_path, [[case("a", 0, label=volume(slab(4)[..., :8], "a"))]])
    with pytest.raises(TypeError, match="set decollate to true"):
        run(tmp_path, [case("a", 0)])


def test_pictures_go_to_tensorboard(tmp_path):
    seen = []
    writer = SimpleNamespace(
        add_image=lambda tag, pixels, step, dataformats: seen.append((tag, pixels.shape[2], step, dataformats))
    )
    run(tmp_path, [[case("a", 0), case("b", 1)]], summary_writer=writer)
    assert seen == [("overlay/best", 3, 1, "HWC"), ("overlay/worst", 3, 1, "HWC")]


def test_aspect_respects_spacing():
    mask = np.zeros((20, 10, 5), dtype=int)
    mask[10, 5, 2] = 1
    pixels = draw_overlay(mask[None], mask, spacing_mm=np.array([1.0, 2.0, 4.0]), context=None)
    assert pixels.shape == (320, 3 * 320 + 2 * 6, 3)  # 20 mm along every axis


def test_thin_volumes_keep_readable_panels_and_large_ones_stay_small():
    mask = np.zeros((100, 40, 2), dtype=int)
    assert draw_overlay(mask[None], mask, spacing_mm=np.ones(3), context=None).shape[0] >= 200
    mask = np.zeros((1500, 1200), dtype=int)
    assert draw_overlay(mask[None], mask, spacing_mm=np.ones(2), context=None, side_px=2000).shape == (800, 1000, 3)


def test_view_follows_the_object():
    mask = np.zeros((50, 50), dtype=int)
    mask[20:30, 20:30] = 1
    image = np.zeros((1, 50, 50))
    image[0, 20:30, 20:30] = 1
    pixels = draw_overlay(image, mask, spacing_mm=np.ones(2), context=1.0, side_px=300)
    assert pixels.shape == (300, 300, 3)  # 10 voxels and 10 on each side
    rows, columns = np.nonzero((pixels == PREDICTION_RGB).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 199, 100, 199)
    assert (pixels[110:190, 110:190] == 255).all()


def test_colour_images_and_touching_instances():
    image = np.zeros((3, 20, 20))
    image[0, :, :10] = 1
    labels = np.zeros((20, 20), dtype=int)
    labels[4:10, 4:16], labels[10:16, 4:16] = 1, 2
    pixels = draw_overlay(image, labels, spacing_mm=np.ones(2), context=None, side_px=400)
    assert pixels[20, 200].tolist() == [255, 0, 0]  # rows run along y
    assert tuple(pixels[200, 200]) == PREDICTION_RGB  # the border between the two
    assert tuple(pixels[200, 120]) != PREDICTION_RGB


def test_dice_score():
    pred, label = np.array([0, 1, 1, 2, 2, 2]), np.array([1, 1, 0, 2, 0, 0])
    assert dice_score(pred, label) == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert dice_score(pred, label, instances=True) == pytest.approx(2 * 2 / (5 + 3))
    assert dice_score(np.array([0, 3]), np.array([0, 0])) == 0
    assert dice_score(np.zeros(3, int), np.zeros(3, int)) == 1
