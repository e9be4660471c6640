# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.spatial.transform import Rotation

from monai_ext.data.points_io import PointSet, write_points

# --- faults of images and masks ------------------------------------------------------------------------------------


def test_missing_file(data):
    (data.folder / "v_mask.nii.gz").unlink()
    data.assert_refused("v_mask.nii.gz (label)", "no such file")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.png", "a.tif"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.97])
def test_truncated_files(data, name, kept):
    if name.endswith("nrrd"):
        itk = pytest.importorskip("itk")
        itk.imwrite(itk.image_from_array(data.image), str(data.folder / name))
    elif name.endswith("png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(data.folder / name)
    elif name.endswith("tif"):
        tifffile.imwrite(data.folder / name, data.image[:, :, 0])
    else:
        data.volume(name, data.image)
    data.content = {"training": [{"image": name}]}
    data.check({"training": ["image"]})
    whole = (data.folder / name).read_bytes()
    (data.folder / name).write_bytes(whole[: int(len(whole) * kept)])
    found = "cannot be read" if kept else "has no bytes"
    data.assert_refused(f"{name} (image)", found, needs={"training": ["image"]})


@pytest.mark.parametrize("content", ["hello", "<html>not found</html>"])
def test_a_file_of_another_kind(data, content):
    (data.folder / "a.nii.gz").write_text(content)
    data.assert_refused("a.nii.gz (image)", "cannot be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["image", "label"])
def test_nan_and_inf(data, value, key):
    array = data.image if key == "image" else data.mask.astype(np.float32)
    array[3, 4, 5:7] = value
    data.volume("v.nii.gz" if key == "image" else "v_mask.nii.gz", array)
    data.assert_refused(f"({key}): 2 voxels are NaN or Inf")


def test_label_of_another_shape(data):
    data.volume("v_mask.nii.gz", data.mask[:, :, :-1])
    data.assert_refused("v_mask.nii.gz (label)", "(20, 24, 15)", "(20, 24, 16) as its image has")


@pytest.mark.parametrize("shift_mm", [0.2, 50.0])
def test_label_of_another_affine(data, shift_mm):
    affine = data.affine.copy()
    affine[1, 3] = shift_mm
    data.volume("v_mask.nii.gz", data.mask, affine)
    data.assert_refused("v_mask.nii.gz (label)", f"up to {shift_mm:g} mm away")


def test_label_turned_about_the_origin_and_label_rounded(data):
    turned = data.affine.copy()
    turned[:3, :3] = Rotation.from_euler("z", 2, degrees=True).as_matrix() @ data.affine[:3, :3]
    data.volume("v_mask.nii.gz", data.mask, turned)
    data.assert_refused("mm away")
    data.volume("v_mask.nii.gz", data.mask, data.affine + 1e-4)
    data.check()


def test_label_values(data):
    data.mask[0, 0, 0] = 3
    data.volume("v_mask.nii.gz", data.mask)
    data.assert_refused("v_mask.nii.gz (label)", "the values 3 are not", "only 0, 1 as in its 'labels'")
    data.content["labels"]["3"] = "cyst"
    assert data.check()[1].label_volumes["cyst"] == [0.002]
    data.volume("v_mask.nii.gz", data.mask * np.float32(0.5))
    data.assert_refused("0.5, 1.5 are not")


def test_empty_label(data):
    data.volume("v_mask.nii.gz", data.mask * 0)
    data.assert_refused("v_mask.nii.gz (label)", "every voxel is 0")


def test_labels_without_names(data):
    del data.content["labels"]
    data.assert_refused("list.json (labels)", "missing")
    data.check({"training": ["image", "points"]})


# --- faults of points ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", ["plain", "oblique", "flipped"])
@pytest.mark.parametrize("space", ["voxel", "RAS", "LPS"])
def test_good_points_in_every_space(data, affine, space):
    affine = data.affines[affine]
    data.write(affine)
    clicks = dict(data.seven)
    if affine[0, 0] < 0:  # index 0 is on the right and in front
        clicks |= {"L": data.seven["R"], "R": data.seven["L"], "P": data.seven["A"], "A": data.seven["P"]}
    if space != "voxel":
        world = nib.affines.apply_affine(affine, np.array(list(clicks.values())))
        clicks = dict(zip(clicks, world * (1 if space == "RAS" else [-1, -1, 1]), strict=True))
    data.points(clicks, space)
    assert data.check({"training": ["image", "points"]})[0].points == [(7, 1)]


def test_two_objects(data):
    data.points({**data.seven, **{name + "2": np.add(position, [1, 1, 3]) for name, position in data.seven.items()}})
    assert data.check()[0].points == [(14, 2)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", ["low", "high"])
def test_points_outside_the_image(data, axis, end):
    name = [("L", "R"), ("P", "A"), ("I", "S")][axis][end == "high"]
    position = list(data.seven[name])
    position[axis] = -0.5 if end == "low" else data.shape[axis] - 0.51
    data.points({**data.seven, name: position})
    data.check()
    position[axis] = -0.6 if end == "low" else data.shape[axis] - 0.4
    data.points({**data.seven, name: position})
    data.assert_refused("a.json (points)", f"point '{name}'", "inside the image of shape (20, 24, 16)")


@pytest.mark.parametrize(
    ("position", "inside"),
    [
        ((5, 11, 6), True),
        ((4, 11, 6), False),
        ((4.4, 11, 6), False),
        ((4.6, 11, 6), True),
        ((15, 11, 6), True),
        ((16, 11, 6), False),
        ((10, 17, 6), False),
        ((10, 11, 2), False),
        ((10, 11, 8), True),
        ((1, 11, 6), False),
    ],
)
def test_f_must_be_enclosed_and_off_the_click_planes(data, position, inside):
    data.points({**data.seven, "F": position})
    if inside:
        data.check()
    else:
        data.assert_refused("a.json (points)", "point 'F'", "not enclosed by", "5..15 x 6..16 x 3..8")


def test_f_in_a_border_plane_is_enclosed_where_a_click_is_in_it(data):
    data.points({**data.seven, "F": (0, 11, 15), "L": (0, 10, 6), "S": (10, 10, 15)})
    data.check()
    data.points({**data.seven, "F": (1, 11, 6), "L": (1, 10, 6)})
    data.assert_refused("not enclosed by")


@pytest.mark.parametrize("positions", [{"L": (10, 11, 6), "R": (10, 11, 6)}, {"L": (9, 1, 1), "R": (10, 1, 1)}])
def test_a_box_without_room(data, positions):
    flat = {name: (10, *data.seven[name][1:]) for name in "LRPAIS"}
    data.points({**data.seven, **flat, **positions})
    data.assert_refused("a.json (points)", "enclose no voxel")


@pytest.mark.parametrize("letter", list("FLRPAIS"))
def test_a_missing_letter(data, letter):
    second = {name + "2": position for name, position in data.seven.items() if name != letter}
    data.points({**data.seven, **second})
    data.assert_refused("a.json (points)", f"no point {letter}2,")


def test_doubled_and_unknown_letters(data):
    write_points(data.folder / "a.json", PointSet(("F", "F"), np.ones((2, 3)), "voxel"))
    data.assert_refused("a.json (points)", "'F' occurs twice", "one click for each letter")
    data.points({**data.seven, "Q": (1, 1, 1)})
    data.assert_refused("a.json (points)", "label 'Q' is unknown")


@pytest.mark.parametrize("affine", ["plain", "oblique"])
def test_a_file_in_the_wrong_space_is_noticed(data, affine):
    """The image's centre is the world's origin, so that mirrored points stay inside it and still enclose F."""
    centred = data.affines[affine].copy()
    centred[:3, 3] = -centred[:3, :3] @ (np.array(data.shape) - 1) / 2
    data.write(centred)
    world = nib.affines.apply_affine(centred, np.array(list(data.seven.values())))
    data.points(dict(zip(data.seven, world * [-1, -1, 1], strict=True)), "LPS")
    data.check({"training": ["image", "points"]})
    data.points(dict(zip(data.seven, world * [-1, -1, 1], strict=True)), "RAS")
    if affine == "plain":
        data.assert_refused("a.json (points)", "point 'L' lies beyond 'R' along the RAS axis x", "space (RAS, LPS)")
    else:
        data.assert_refused("a.json (points)")


def test_an_oblique_pair_that_is_right_along_one_axis_is_accepted(data):
    """Clicked in planes of voxels, L may have the larger RAS x when the pair is far apart along another axis."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    data.write(affine)
    clicks = {**data.seven, "F": (10, 11, 6), "L": (8, 1, 6), "R": (12, 20, 6), "P": (10, 1, 6), "A": (10, 20, 6)}
    assert (affine[:3, :3] @ np.subtract(clicks["R"], clicks["L"]))[0] < 0
    data.points(clicks)
    data.check({"training": ["image", "points"]})


def test_an_image_without_place_in_the_world(data):
    nib.save(nib.Nifti1Image(data.image, None), data.folder / "a.nii")
    header = nib.Nifti1Header.from_fileobj((data.folder / "a.nii").open("rb"))
    header["sform_code"], header["srow_x"] = 1, (0, 0, 0, 0)
    whole = (data.folder / "a.nii").read_bytes()
    (data.folder / "a.nii").write_bytes(header.binaryblock + whole[len(header.binaryblock) :])
    data.content["training"][0]["image"] = "a.nii"
    data.points(data.seven, "RAS")
    data.assert_refused("a.json (points)", "affine without inverse")


def test_unreadable_and_2d_points(data):
    (data.folder / "a.json").write_text("{")
    data.assert_refused("a.json (points)", "not JSON")
    (data.folder / "a.json").write_text(json.dumps({"points": [{"position": [1, 2]}]}))
    data.assert_refused("a.json (points)", "positions have 2 numbers", "3 as the image has axes")
