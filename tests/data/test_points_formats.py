# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_ext.data.errors import DataFault
from monai_ext.data.points_io import PointSet, read_points, write_points

SEVEN = dict(F=[10, 11, 6], L=[4, 10, 6], R=[16, 12, 7], P=[9, 5, 6], A=[10, 17, 5], I=[11, 11, 2], S=[10, 10, 9])


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def mrk(points, system="LPS", **more):
    control = [{"label": name, "position": list(position), **more} for name, position in points]
    return {"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": control}]}


@pytest.mark.parametrize("space", ["voxel", "RAS", "LPS"])
def test_own_json_is_read_back_bit_for_bit(tmp_path, space):
    points = PointSet(("F", "L2"), np.array([[1 / 3, -2e-17, 3.0], [4, 5, np.pi]]), space)
    write_points(tmp_path / "a.json", points)
    again = read_points(tmp_path / "a.json")
    assert (again.labels, again.space, again.positions.dtype) == (points.labels, space, np.float64)
    np.testing.assert_array_equal(again.positions, points.positions)


def test_2d_json_needs_neither_space_nor_label(tmp_path):
    points = read_points(save(tmp_path / "a.json", {"points": [{"position": [3, 4]}]}))
    assert (points.labels, points.space, points.positions.tolist()) == (("cell",), "voxel", [[3.0, 4.0]])


@pytest.mark.parametrize(("code", "space"), [("LPS", "LPS"), ("RAS", "RAS"), (0, "RAS"), (1, "LPS"), ("0", "RAS")])
def test_slicer_coordinate_system(tmp_path, code, space):
    points = read_points(save(tmp_path / "a.mrk.json", mrk([("F", [1, 2, 3])], code)))
    assert (points.space, points.positions.tolist()) == (space, [[1.0, 2.0, 3.0]])


def test_slicer_skips_points_that_were_never_placed_and_joins_lists(tmp_path):
    content = mrk([("F", [1, 2, 3])], positionStatus="defined")
    content["markups"][0]["controlPoints"].append({"label": "L", "position": [0, 0, 0], "positionStatus": "preview"})
    content["markups"].append(mrk([("R", [4, 5, 6])], 1)["markups"][0])
    assert read_points(save(tmp_path / "a.mrk.json", content)).labels == ("F", "R")
    content["markups"].append(mrk([("S", [4, 5, 6])], "RAS")["markups"][0])
    with pytest.raises(DataFault, match="LPS and RAS, expected one coordinateSystem"):
        read_points(save(tmp_path / "a.mrk.json", content))


@pytest.mark.parametrize(
    ("text", "space", "positions"),
    [
        ("label,r,a,s,defined,selected\nF,1,2,3,1,1\nL,4,5,6,0,1\n", "RAS", [[1, 2, 3]]),
        ("label,l,p,s,defined,description\nF,1,2,3,1,\n", "LPS", [[1, 2, 3]]),
        ("label,i,j,k\nF,1,2,3\n", "voxel", [[1, 2, 3]]),
        ("# space=ras\nlabel,x,y,z\nF,1,2,3\n", "RAS", [[1, 2, 3]]),
        ("# CoordinateSystem = LPS\nlabel,x,y,z\nF,1,2,3\n", "LPS", [[1, 2, 3]]),
        ("label,x,y,z,space\nF,1,2,3,Voxel\nL,1,2,4,voxel\n", "voxel", [[1, 2, 3], [1, 2, 4]]),
        ("\ufeffLabel;X;Y;Z;Space\nF;1,5;2;3;RAS\n", "RAS", [[1.5, 2, 3]]),
        ("label\tr\ta\ts\nF\t1.5\t2\t3\n", "RAS", [[1.5, 2, 3]]),
        ('"label","x","y"\n"tumour cell, large",7,8\n', "voxel", [[7, 8]]),
        ("x,y\n7,8\n\n9,10\n", "voxel", [[7, 8], [9, 10]]),
    ],
)
def test_csv(tmp_path, text, space, positions):
    points = read_points(save(tmp_path / "a.csv", text))
    assert points.space == space
    np.testing.assert_array_equal(points.positions, positions)


def test_csv_labels(tmp_path):
    assert read_points(save(tmp_path / "a.csv", 'label,x,y\n"a, b",7,8\n,1,2\n')).labels == ("a, b", "cell")


@pytest.mark.parametrize("wrap", [lambda f: {"type": "FeatureCollection", "features": f}, lambda f: f])
def test_geojson(tmp_path, wrap):
    region = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}
    features = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1.5, 2]}, "properties": {}},
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]},
            "properties": {"classification": {"name": "Tumor", "color": [200, 0, 0]}},
        },
        {"type": "Feature", "geometry": region, "properties": {"objectType": "annotation"}},
    ]
    points = read_points(save(tmp_path / "a.geojson", wrap(features)))
    assert (points.labels, points.space) == (("cell", "Tumor", "Tumor"), "voxel")
    assert points.positions.tolist() == [[1.5, 2], [3, 4], [5, 6]]


def test_geojson_single_feature_and_derived_class(tmp_path):
    kind = {"classification": {"names": ["Tumor", "Positive"]}}
    feature = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": kind}
    assert read_points(save(tmp_path / "a.json", feature)).labels == ("Tumor: Positive",)


def click_volume(path, objects, affine, shape=(24, 24, 14)):
    volume = np.zeros(shape, np.uint8)
    for number, clicks in enumerate(objects):
        for letter, position in clicks.items():
            volume[tuple(position)] = 2 * number + (2 if letter == "F" else 1)
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def reorder(affine, axes):
    """Affine of an array whose axes are stored as ``axes`` says: the anatomy stays, the storage changes."""
    return affine[:, [*axes, 3]]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_label_volume_names_the_clicks_by_anatomy(tmp_path, axes):
    """The same anatomy in any storage order gives the same letters at the same RAS positions."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -15, 12], degrees=True).as_matrix() @ np.diag([0.9, 1.0, 2.0])
    affine[:3, 3] = [5, 6, 7]
    stored = {letter: [position[a] for a in axes] for letter, position in SEVEN.items()}
    path = click_volume(tmp_path / "a.nii.gz", [stored], reorder(affine, axes), tuple((24, 24, 14)[a] for a in axes))
    points = read_points(path)
    assert points.space == "RAS"
    found = dict(zip(points.labels, points.positions, strict=True))
    for letter, position in SEVEN.items():
        np.testing.assert_allclose(found[letter], nib.affines.apply_affine(affine, position), atol=1e-4)


def test_label_volume_with_flipped_axes_and_a_second_object(tmp_path):
    affine = np.diag([-2.0, -1.0, 1.0, 1.0])  # LPS storage: index 0 grows to the left
    far = {letter: np.add(position, [5, 2, 3]) for letter, position in SEVEN.items()}
    points = read_points(click_volume(tmp_path / "a.nii", [SEVEN, far], affine))
    found = dict(zip(points.labels, points.positions, strict=True))
    assert set(found) == set(SEVEN) | {letter + "2" for letter in SEVEN}
    np.testing.assert_allclose(found["L"], [-32, -12, 7])  # the largest index is the patient's left
    np.testing.assert_allclose(found["A2"], [-28, -7, 9])
    np.testing.assert_allclose(found["S"], [-20, -10, 9])


@pytest.mark.parametrize(
    ("voxels", "match"),
    [
        ({}, "holds the values \\[\\]"),
        ({(1, 1, 1): 7}, "holds the values \\[7"),
        ({(1, 1, 1): 2, (2, 2, 2): 1}, "1 voxels of 1 and 1 of 2, expected six and one"),
    ],
)
def test_label_volume_faults(tmp_path, voxels, match):
    volume = np.zeros((5, 5, 5), np.uint8)
    for index, value in voxels.items():
        volume[index] = value
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataFault, match=match):
        read_points(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[1]", "structure is not that of a points file"),
        ("a.json", "3", "structure is not that of a points file"),
        ("a.json", {"points": []}, "no point"),
        (
            "a.json",
            {"points": [{"label": "F", "position": [1, 2, 3]}]},
            "the space is None, expected voxel, RAS or LPS",
        ),
        ("a.json", {"space": "mm", "points": [{"label": "F", "position": [1, 2, 3]}]}, "the space is 'mm'"),
        ("a.json", {"space": "RAS", "points": [{"position": [1, 2, 3]}]}, "point 1 has no label"),
        ("a.json", {"space": "RAS", "points": [{"label": "F", "position": [1, 2, None]}]}, "point 1 has the position"),
        ("a.json", '{"space": "RAS", "points": [{"label": "F", "position": [1, 2, NaN]}]}', "finite numbers"),
        ("a.json", {"space": "voxel", "points": [{"label": "F", "position": [1]}]}, "two or three"),
        ("a.json", {"space": "voxel", "points": [{"label": "F", "position": "123"}]}, "two or three"),
        ("a.json", {"points": [{"position": [1, 2]}, {"label": "F", "position": [1, 2, 3]}], "space": "RAS"}, "mixed"),
        ("a.mrk.json", mrk([("F", [1, 2, 3])], "IJK"), "the space is 'IJK'"),
        ("a.csv", "", "the first line is ''"),
        ("a.csv", "F,1,2,3\nL,1,2,3", "the first line is 'f,1,2,3'"),
        (
            "a.csv",
            "label,x,y,z\nF,1,2,3\n",
            "columns x,y,z and the space not said, expected one first line '# space=RAS'",
        ),
        ("a.csv", "label,x,y,z,space\nF,1,2,3,RAS\nL,1,2,3,LPS\n", "the space LPS and RAS"),
        ("a.csv", "label,r,a,s\nF,1,2,three\n", "point 1 has the position"),
        ("a.csv", "label,r,a,s\nF,1,2\n", "point 1 has the position"),
        ("a.csv", "label,r,a,s\n", "no point"),
        ("a.fcsv", "# Markups", "saved as .mrk.json"),
        ("a.nii.gz", "hello", "cannot be read"),
    ],
)
def test_faults_are_one_sentence_with_the_file(tmp_path, name, content, match):
    with pytest.raises(DataFault, match=match) as caught:
        read_points(save(tmp_path / name, content))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataFault, match="no such file"):
        read_points(tmp_path / "none.json")
