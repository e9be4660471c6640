# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import tifffile
from monai.data import ITKReader, PILReader
from monai.transforms import (
    Compose,
    Flipd,
    LoadImaged,
    Orientationd,
    Rotate90d,
    Spacingd,
    SpatialCropd,
    SpatialPadd,
)
from PIL import Image
from scipy.spatial.transform import Rotation

from monai_ext.data.errors import DataFault
from monai_ext.data.points_io import LoadPointsd, PointSet, read_points, to_voxels, write_points

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -25, 15], degrees=True).as_matrix() @ np.diag([-0.8, 1.1, 2.5])
OBLIQUE[:3, 3] = [40, -60, 15]


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("space", ["voxel", "RAS", "LPS"])
def test_every_space_gives_the_same_voxels_on_an_oblique_affine(tmp_path, space):
    voxels = np.array([[1.0, 2, 3], [4.25, 5, 6]])
    ras = nib.affines.apply_affine(OBLIQUE, voxels)
    positions = {"voxel": voxels, "RAS": ras, "LPS": ras * [-1, -1, 1]}[space]
    np.testing.assert_allclose(to_voxels(PointSet(("F", "L"), positions, space), affine=OBLIQUE), voxels, atol=1e-9)
    write_points(tmp_path / "a.json", PointSet(("F", "L"), positions, space))
    converted = read_points(tmp_path / "a.json", affine=OBLIQUE)
    assert converted.space == "voxel"
    np.testing.assert_allclose(converted.positions, voxels, atol=1e-9)


def bright_voxel(path, index, affine, shape=(20, 24, 14)):
    volume = np.zeros(shape, np.float32)
    volume[tuple(index)] = 1
    nib.save(nib.Nifti1Image(volume, affine), path)


@pytest.mark.parametrize("space", ["voxel", "RAS", "LPS"])
@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [Orientationd("image", axcodes="RAS", labels=None)],
        [Orientationd("image", axcodes="PIR", labels=None), Flipd("image", 1)],
        [SpatialCropd("image", roi_start=(3, 4, 2), roi_end=(18, 20, 12)), Rotate90d("image")],
        [SpatialPadd("image", (30, 30, 30)), Flipd("image", 0), Orientationd("image", axcodes="RAS", labels=None)],
    ],
)
def test_points_stay_on_the_marked_voxel(tmp_path, space, transforms):
    """The image itself is the oracle: one bright voxel goes through the same transforms."""
    index = np.array([7, 9, 5])
    bright_voxel(tmp_path / "a.nii.gz", index, OBLIQUE)
    ras = nib.affines.apply_affine(OBLIQUE, index)
    position = {"voxel": index, "RAS": ras, "LPS": ras * [-1, -1, 1]}[space]
    write_points(tmp_path / "a.json", PointSet(("F",), np.array([position], float), space))
    pipeline = Compose([LoadImaged("image", ensure_channel_first=True), *transforms, LoadPointsd("points")])
    data = pipeline({"image": tmp_path / "a.nii.gz", "points": tmp_path / "a.json"})
    assert data["points_label"] == ("F",)
    assert data["points"].dtype == np.float64
    np.testing.assert_allclose(data["points"], np.argwhere(data["image"][0].numpy()), atol=1e-3)


def test_points_follow_resampling(tmp_path):
    """Resampled from 2 mm to 1 mm, a voxel's centre moves to twice its index."""
    bright_voxel(tmp_path / "a.nii.gz", (7, 9, 5), np.diag([2.0, 2, 2, 1]))
    write_points(tmp_path / "a.json", PointSet(("F",), np.array([[7.0, 9, 5]]), "voxel"))
    steps = [LoadImaged("image", ensure_channel_first=True), Spacingd("image", (1, 1, 1)), LoadPointsd("points")]
    data = Compose(steps)({"image": tmp_path / "a.nii.gz", "points": tmp_path / "a.json"})
    brightest = np.unravel_index(data["image"][0].numpy().argmax(), data["image"].shape[1:])
    np.testing.assert_allclose(data["points"], [[14, 18, 10]], atol=1e-6)
    np.testing.assert_array_equal(data["points"][0], brightest)


def test_an_image_read_in_lps_is_understood(tmp_path):
    bright_voxel(tmp_path / "a.nii.gz", (7, 9, 5), OBLIQUE)
    ras = nib.affines.apply_affine(OBLIQUE, [[7, 9, 5]])
    write_points(tmp_path / "a.json", PointSet(("F",), ras, "RAS"))
    load = LoadImaged("image", ensure_channel_first=True, reader=ITKReader(affine_lps_to_ras=False))
    data = Compose([load, LoadPointsd("points")])({"image": tmp_path / "a.nii.gz", "points": tmp_path / "a.json"})
    np.testing.assert_allclose(data["points"], [[7, 9, 5]], atol=1e-3)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "b.png"])
@pytest.mark.parametrize("transforms", [[], [Flipd("image", 0), Rotate90d("image"), SpatialPadd("image", (12, 12))]])
def test_2d_pixels_are_column_and_row(tmp_path, name, transforms):
    pixels = np.zeros((5, 8), np.uint8)
    pixels[1, 6] = 200  # row 1, column 6
    if name == "b.png":
        Image.fromarray(np.stack([pixels] * 3, -1)).save(tmp_path / name)
    elif name == "a.png":
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, pixels.astype(np.uint16) * 100)
    save(tmp_path / "a.csv", "label,x,y\nnucleus,6,1\n")
    pipeline = Compose([LoadImaged("image", ensure_channel_first=True), *transforms, LoadPointsd("points")])
    data = pipeline({"image": tmp_path / name, "points": tmp_path / "a.csv"})
    assert data["points_label"] == ("nucleus",)
    np.testing.assert_allclose(data["points"], np.argwhere(data["image"][0].numpy()), atol=1e-6)
    if not transforms:
        np.testing.assert_array_equal(data["points"], [[6, 1]])


def test_2d_array_of_rows_needs_xy_false(tmp_path):
    pixels = np.zeros((5, 8), np.uint8)
    pixels[1, 6] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    save(tmp_path / "a.csv", "x,y\n6,1\n")
    load = LoadImaged("image", ensure_channel_first=True, reader=PILReader(reverse_indexing=False))
    data = Compose([load, LoadPointsd("points", xy=False)])({"image": tmp_path / "a.png", "points": tmp_path / "a.csv"})
    np.testing.assert_array_equal(data["points"], np.argwhere(data["image"][0].numpy()))


def test_dimensions_must_agree_and_input_is_left_alone(tmp_path):
    bright_voxel(tmp_path / "a.nii.gz", (7, 9, 5), OBLIQUE)
    save(tmp_path / "a.csv", "x,y\n6,1\n")
    data = LoadImaged("image", ensure_channel_first=True)(
        {"image": tmp_path / "a.nii.gz", "points": tmp_path / "a.csv"}
    )
    with pytest.raises(DataFault, match="positions have 2 numbers, expected 3 as in the 3-D image"):
        LoadPointsd("points")(data)
    assert data["points"] == tmp_path / "a.csv"
    assert LoadPointsd("clicks", allow_missing_keys=True)(data).keys() == data.keys()
