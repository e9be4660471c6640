# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd

from monai_ext.data.errors import DataFault
from monai_ext.data.results_io import SaveDicomSegd

pytest.importorskip("highdicom")
NAMES = {"0": "background", "3": "oedema", "1": "tumour"}


def marked(shape):
    """Two labels without any symmetry, one with a voxel in a corner of the volume."""
    mask = np.zeros(shape, np.uint8)
    mask[3:9, 5:7, 2:6] = 1
    mask[9, 5, 5] = mask[-1, 0, 0] = 1
    mask[12:14, 10:15, 5:6] = 3
    return mask


def load(path, axcodes=None):
    steps = [LoadImaged("image"), EnsureChannelFirstd("image")]
    return Compose([*steps, *([Orientationd("image", axcodes, labels=None)] if axcodes else [])])({"image": str(path)})


def on_grid(data, mask, affine):
    """Put the voxels of ``mask``, whose own matrix is ``affine``, on the grid of the loaded image."""
    image = data["image"]
    points = np.argwhere(mask)
    there = nib.affines.apply_affine(np.linalg.inv(image.affine.numpy()) @ affine, points)
    values = np.zeros(image.shape, np.float32)
    values[(0, *np.rint(there).astype(int).T)] = mask[tuple(points.T)]
    return {**data, "pred": MetaTensor(torch.from_numpy(values), affine=image.affine, meta=image.meta)}


def save(data, folder, **options):
    SaveDicomSegd("pred", output_dir=folder, labels=NAMES, **options)(data)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_patient(seg):
    """Where the voxels of each segment lie, LPS mm, from the standard's attributes alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = np.reshape(seg.pixel_array, (-1, seg.Rows, seg.Columns))
    names = {int(segment.SegmentNumber): segment.SegmentLabel for segment in seg.SegmentSequence}
    found = {name: [] for name in names.values()}
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        rows, columns = np.nonzero(frame)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        places = origin + np.outer(columns * between_columns, across) + np.outer(rows * between_rows, down)
        found[names[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]] += places.tolist()
    return found


def in_world(mask, affine, value):
    return nib.affines.apply_affine(np.diag([-1.0, -1, 1, 1]) @ affine, np.argwhere(mask == value))


def assert_same_places(found, expected):
    assert len(found) == len(expected)
    apart = np.linalg.norm(np.array(found)[:, None] - expected[None], axis=-1)
    assert apart.min(axis=0).max() < 0.01
    assert apart.min(axis=1).max() < 0.01


@pytest.mark.parametrize("axcodes", [None, "RAS", "PIL"])
@pytest.mark.parametrize("name", ["plain", "oblique", "flipped"])
def test_voxels_lie_where_they_lay(data, name, axcodes):
    affine, mask = data.affines[name], marked(data.shape)
    case = on_grid(load(data.series("patient.1", np.ones(data.shape), affine), axcodes), mask, affine)
    assert save(case, data.folder / "out") == ["patient.1_seg.dcm"]
    seg = pydicom.dcmread(data.folder / "out/patient.1_seg.dcm")
    found = in_patient(seg)
    assert found.keys() == {"tumour", "oedema"}
    assert_same_places(found["tumour"], in_world(mask, affine, 1))
    assert_same_places(found["oedema"], in_world(mask, affine, 3))

    headers = [pydicom.dcmread(file) for file in (data.folder / "patient.1").iterdir()]
    positions = {header.SOPInstanceUID: header.ImagePositionPatient for header in headers}
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    assert seg.SeriesInstanceUID != headers[0].SeriesInstanceUID
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(np.array(positions[source], float), np.array(place, float), atol=1e-3)


def test_an_empty_mask_says_that_nothing_was_found(data):
    case = on_grid(load(data.series("s", np.ones(data.shape))), np.zeros(data.shape), data.affine)
    assert save(case, data.folder / "out") == ["s_seg.dcm"]
    seg = pydicom.dcmread(data.folder / "out/s_seg.dcm")
    assert seg.pixel_array.max() == 0
    assert in_patient(seg) == {"tumour": [], "oedema": []}


def test_slices_that_are_not_quite_even(data):
    mask = marked(data.shape)
    folder = data.series("s", np.ones(data.shape))
    for number, file in enumerate(sorted(folder.iterdir())):
        header = pydicom.dcmread(file)
        if 0 < number < data.shape[2] - 1:
            header.ImagePositionPatient[2] += 0.02 * (-1) ** number
        header.save_as(file)
    assert save(on_grid(load(folder), mask, data.affine), data.folder / "out") == ["s_seg.dcm"]
    found = in_patient(pydicom.dcmread(data.folder / "out/s_seg.dcm"))
    assert len(found["tumour"]) == (mask == 1).sum()


@pytest.mark.parametrize("count", [1, 16])
def test_a_file_of_the_series_stands_for_it(data, count):
    mask = marked(data.shape)[:, :, :count]
    folder = data.series("s", np.ones((*data.shape[:2], count)))
    case = on_grid(load(folder), mask, data.affine)
    case["image"].meta["filename_or_obj"] = str(folder / "001.dcm")
    assert save(case, data.folder / "out") == ["s_seg.dcm"]
    assert_same_places(
        in_patient(pydicom.dcmread(data.folder / "out/s_seg.dcm"))["tumour"], in_world(mask, data.affine, 1)
    )


def test_folders_above_the_series_are_kept(data):
    for patient in ("p1", "p2"):
        case = on_grid(load(data.series(f"{patient}/ct", np.ones(data.shape))), marked(data.shape), data.affine)
        files = save(case, data.folder / "out", data_root_dir=data.folder)
    assert files == ["p1/ct_seg.dcm", "p2/ct_seg.dcm"]
    assert "ct_seg.dcm" in save(case, data.folder / "out", data_root_dir=data.folder / "elsewhere")


def test_other_images_need_no_highdicom_and_get_no_file(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    case = on_grid(load(data.folder / "a.nii.gz"), marked(data.shape), data.affine)
    assert save(case, data.folder / "out") == []
    assert not (data.folder / "out").exists()


def test_an_image_that_names_no_file_gets_none(data):
    case = on_grid(load(data.series("s", np.ones(data.shape))), marked(data.shape), data.affine)
    for meta in ({}, {"filename_or_obj": ""}, {"filename_or_obj": str(data.folder / "gone.dcm")}):
        case["image"] = MetaTensor(case["image"].as_tensor(), affine=case["pred"].affine, meta=meta)
        assert save(case, data.folder / "out") == []


def test_without_highdicom_it_says_what_to_install(data, monkeypatch):
    case = on_grid(load(data.series("s", np.ones(data.shape))), marked(data.shape), data.affine)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"s: writing its mask .* pip install monai_ext\[dicom\], or .*\.$"):
        save(case, data.folder / "out")


def test_series_without_places_and_flat_masks_are_left_out_with_a_warning(data, caplog):
    folder = data.series("s", np.ones(data.shape))
    case = on_grid(load(folder), marked(data.shape), data.affine)
    with caplog.at_level(logging.WARNING):
        assert save({**case, "pred": case["pred"][..., 0]}, data.folder / "out") == []
        for file in folder.iterdir():
            header = pydicom.dcmread(file)
            del header.ImagePositionPatient
            header.save_as(file)
        assert save(case, data.folder / "out") == []
    assert caplog.text.count("s (pred): no DICOM SEG") == 2


def test_masks_on_another_grid_are_refused(data):
    case = on_grid(load(data.series("s", np.ones(data.shape))), marked(data.shape), data.affine)
    mask = case["pred"]
    shift, coarse = np.eye(4), np.diag([2.0, 1, 1, 1])
    shift[0, 3] = 0.5
    for wrong in (
        mask[:, 1:],
        MetaTensor(mask.as_tensor(), affine=mask.affine.numpy() @ shift),
        MetaTensor(mask.as_tensor(), affine=mask.affine.numpy() @ coarse),
        MetaTensor(mask.as_tensor().transpose(1, 2), affine=mask.affine),
    ):
        with pytest.raises(DataFault, match=r"s \(pred\): a mask of shape .* expected the series' own 20 x 24 x 16"):
            save({**case, "pred": wrong}, data.folder / "out")


def test_other_faults_are_one_sentence(data):
    folder = data.series("s", np.ones(data.shape))
    case = on_grid(load(folder), marked(data.shape) * 2, data.affine)
    with pytest.raises(DataFault, match=r"s \(pred\): the mask holds the value 2, expected 0 or a label \(3, 1\)"):
        save(case, data.folder / "out")
    data.series("t", np.ones(data.shape))
    (data.folder / "t/001.dcm").rename(folder / "other.dcm")
    with pytest.raises(DataFault, match="2 DICOM series, expected one"):
        save(case, data.folder / "out")
    with pytest.raises(ValueError, match="labels: found"):
        SaveDicomSegd("pred", output_dir=data.folder, labels={"0": "background"})
