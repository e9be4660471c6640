# SPDX-License-Identifier: Apache-2.0
"""Points from a nuclear stain, on made-up nuclei with known centres and on the real fluorescence set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.spatial import cKDTree

from monai_ext.data.points_io import read_points

REAL = Path(os.environ.get("FRUGAL_DATA", "")) / "dsb2018_fluorescence"
CENTRES = np.array([[12, 20], [40, 14], [70, 50], [20, 60], [95, 30], [0, 40], [60, 25]])
"""x, y; one is cut off by the border."""


def stain(centres=CENTRES, *, radius=6.0, shape=(75, 110), dimmest=0.3):
    """Soft discs of different brightness on a noisy background, in [0, 1]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture = np.random.default_rng(0).normal(0.05, 0.01, shape)
    for (x, y), height in zip(centres, np.linspace(dimmest, 0.9, len(centres)), strict=True):
        picture += height / (1 + np.exp((np.hypot(columns - x, rows - y) - radius) * 2))
    return np.clip(picture, 0, 1)


@pytest.fixture
def detect(script, tmp_path):
    def run(*options, images=None):
        source, out = images or tmp_path / "images", tmp_path / "points"
        script("points_from_nuclei").main([str(source), "--out", str(out), *options])
        return {file.stem: read_points(file).positions for file in out.glob("*.json")}

    return run


def agree(found, centres=CENTRES, *, within_px=1.5):
    distance, nearest = cKDTree(centres).query(found)
    return len(found) == len(centres) == len(set(nearest)) and bool((distance <= within_px).all())


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (tifffile.imwrite if path.suffix == ".tif" else lambda p, a: Image.fromarray(a).save(p))(path, array, **options)


@pytest.mark.parametrize("method", ["log", "dog"])
def test_centres_of_8_and_16_bit_pictures(tmp_path, detect, capsys, method):
    save(tmp_path / "images/a.png", np.uint8(255 * stain()))
    save(tmp_path / "images/b.png", np.uint16(4000 * stain()))
    save(tmp_path / "images/c.tif", np.uint16(60000 * stain(CENTRES[:3])))
    found = detect("--method", method)
    assert agree(found["a"])
    assert agree(found["b"])
    assert agree(found["c"], CENTRES[:3])
    printed = capsys.readouterr().out
    assert "a.png: 7 nuclei of " in printed
    assert "17 nuclei in 3 pictures" in printed
    assert not (tmp_path / "points/pictures").exists()


def test_one_file_and_a_picture_with_rings(tmp_path, detect):
    save(tmp_path / "images/a.png", np.uint8(255 * stain()))
    found = detect("--picture", images=tmp_path / "images/a.png")
    rings = np.asarray(Image.open(tmp_path / "points/pictures/a.png")).astype(int)
    zoom = 1000 // 110
    assert rings.shape == (75 * zoom, 110 * zoom, 3)
    for x, y in ((found["a"] + 0.5) * zoom).astype(int):
        assert rings[y, min(x + 1, 110 * zoom - 1)].tolist() == [90, 255, 90]
    assert (rings == [255, 60, 60]).all(axis=-1).sum() > 6 * 2 * np.pi * 4 * zoom


@pytest.mark.parametrize("axis", [0, -1])
def test_channels(tmp_path, detect, axis):
    other = np.roll(stain(), 9, axis=1)
    both = np.stack([other, stain(), np.full_like(other, 0.5)], axis=axis)
    save(tmp_path / "images/a.tif", np.uint16(3000 * both), photometric="minisblack")
    assert agree(detect("--channel", "1")["a"])
    assert not agree(detect("--channel", "0")["a"])
    with pytest.raises(SystemExit, match=r"a\.tif: found 2 channels that differ, expected --channel"):
        detect()
    with pytest.raises(SystemExit, match="found 3 channels, expected --channel from 0 to 2"):
        detect("--channel", "3")


@pytest.mark.parametrize("lit", [(2,), (0, 1, 2)])
def test_blue_and_grey_colour_pictures_need_no_channel(tmp_path, detect, lit):
    colour = np.zeros((75, 110, 4), np.uint8)
    colour[..., lit] = np.uint8(255 * stain())[..., None]
    colour[..., 3] = 255
    save(tmp_path / "images/a.png", colour)
    assert agree(detect()["a"])


def test_diameters(tmp_path, script, detect, capsys):
    small, large = (script("points_from_nuclei").stretch(stain(radius=r, dimmest=0.6)) for r in (4.0, 9.0))
    estimate = script("points_from_nuclei").estimate_diameter
    assert estimate(small) == pytest.approx(8, rel=0.25)
    assert estimate(large) == pytest.approx(18, rel=0.25)
    assert estimate(np.zeros((20, 20))) == 0
    mixed = np.maximum(stain(CENTRES[:3], radius=4.0, dimmest=0.8), stain(CENTRES[3:5], radius=14.0, dimmest=0.8))
    save(tmp_path / "images/a.png", np.uint8(255 * mixed))
    assert agree(detect("--min_diameter_px", "24", "--max_diameter_px", "34", "--threshold", "0.3")["a"], CENTRES[3:5])
    both = detect("--min_diameter_px", "6", "--max_diameter_px", "34", "--threshold", "0.3")["a"]
    assert agree(both, CENTRES[:5], within_px=3)
    with pytest.raises(SystemExit, match=r"diameters from 200\.0 to .* px, expected a rising range"):
        detect("--min_diameter_px", "200")
    with pytest.raises(SystemExit):
        detect("--max_diameter_px", "0")
    assert "--max_diameter_px: found '0', expected a number above 0" in capsys.readouterr().err


def test_a_lone_disc_answers_as_the_filter_says(script):
    """The Laplacian at the centre of a disc of radius r, at sigma r / sqrt(2) and times sigma^2, is 2 / e."""
    rows, columns = np.mgrid[:121, :121]
    disc = (np.hypot(rows - 60, columns - 60) <= 20).astype(float)
    find = script("points_from_nuclei").find_nuclei
    assert find(disc, diameters_px=(40, 40), threshold=0.98 * 2 / np.e)[:, :2].tolist() == [[60, 60]]
    assert len(find(disc, diameters_px=(40, 40), threshold=1.05 * 2 / np.e)) == 0


def test_nothing_to_find(tmp_path, detect, capsys):
    save(tmp_path / "images/flat.png", np.full((40, 50), 9, np.uint8))
    save(tmp_path / "images/noise.png", np.random.default_rng(0).poisson(20, (128, 128)).astype(np.uint8))
    save(tmp_path / "images/a.png", np.uint8(255 * stain()))
    (tmp_path / "points").mkdir()
    (tmp_path / "points/flat.json").write_text("of an earlier run")
    assert set(detect()) == {"a"}
    assert "flat.png: 0 nuclei stand out, no file written" in capsys.readouterr().out


def test_faults_get_a_sentence(tmp_path, detect):
    with pytest.raises(SystemExit, match="found no such folder or picture, expected"):
        detect()
    (tmp_path / "images").mkdir()
    with pytest.raises(SystemExit, match="found no such files, expected"):
        detect()
    (tmp_path / "images/a.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"a\.png: found a file that cannot be read"):
        detect()
    (tmp_path / "images/a.png").unlink()
    save(tmp_path / "images/a.tif", np.zeros((2, 3, 20, 20), np.uint8), photometric="minisblack")
    with pytest.raises(SystemExit, match=r"expected \(H, W\) and channels"):
        detect()


@pytest.mark.real
@pytest.mark.skipif("FRUGAL_DATA" not in os.environ, reason="FRUGAL_DATA names no folder of real data")
def test_the_real_set(tmp_path, detect):
    """Share of nuclei with a point in them, and of points that are a nucleus's only one, on every third picture."""
    chosen = sorted((REAL / "images").glob("*.png"))[::3]
    (tmp_path / "images").mkdir()
    for path in chosen:
        (tmp_path / "images" / path.name).symlink_to(path)
    found = detect()
    hits = points = nuclei = 0
    for path in chosen:
        numbers = np.asarray(Image.open(REAL / "labels" / path.name))
        x, y = found[path.stem].astype(int).T
        hits, points = hits + len(set(numbers[y, x]) - {0}), points + len(x)
        nuclei += len(np.unique(numbers)) - 1
    assert hits / nuclei > 0.88
    assert hits / points > 0.88
