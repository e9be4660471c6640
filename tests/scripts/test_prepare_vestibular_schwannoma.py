# SPDX-License-Identifier: Apache-2.0
"""DICOM to NIfTI with RTSTRUCT contours, on made-up oblique series in TCIA's folder layout."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation
from skimage.measure import find_contours

ROWS, COLUMNS, SLICES = 40, 32, 12
TURN = Rotation.from_euler("xyz", (8, -5, 20), degrees=True).as_matrix()
SPACING = np.array([0.6, 0.5, 1.5])  # mm between columns, between rows, between slices
ORIGIN = np.array([-12.0, 31.0, -7.5])


def lps(column, row, plane):
    """Where a voxel lies, from the DICOM tags' meaning."""
    return ORIGIN + TURN @ (SPACING * np.array([column, row, plane]))


def tumour():
    """A lobed mask (column, row, slice) with a hole in slice 5."""
    grid = np.stack(np.meshgrid(*map(np.arange, (COLUMNS, ROWS, SLICES)), indexing="ij"), -1)
    mask = np.linalg.norm((grid - (12, 22, 5)) / (8, 9, 3.2), axis=-1) < 1
    mask |= np.linalg.norm((grid - (18, 15, 7)) / (6, 7, 2.2), axis=-1) < 1
    mask[10:14, 20:25, 5] = False
    return mask


def save(path, **tags):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    data.SOPClassUID, data.SOPInstanceUID = data.file_meta.MediaStorageSOPClassUID, generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def save_series(folder, description, *, seed, slope=1, skip=()):
    series, pixels = generate_uid(), np.random.default_rng(seed).integers(0, 900, (SLICES, ROWS, COLUMNS), np.uint16)
    for n in set(range(SLICES)) - set(skip):
        save(
            folder / f"{description}-{seed}" / f"1-{(7 * n) % SLICES:02d}.dcm",  # file order is not slice order
            Modality="MR",
            SeriesDescription=description,
            SeriesInstanceUID=series,
            ImageOrientationPatient=[*TURN[:, 0], *TURN[:, 1]],
            ImagePositionPatient=list(lps(0, 0, n)),
            PixelSpacing=[SPACING[1], SPACING[0]],  # between rows first
            SliceThickness=SPACING[2],
            InstanceNumber=SLICES - n,
            RescaleSlope=slope,
            RescaleIntercept=0,
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            Rows=ROWS,
            Columns=COLUMNS,
            BitsAllocated=16,
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=0,
            PixelData=pixels[n].tobytes(),
        )
    return series, np.moveaxis(pixels * slope, (0, 1, 2), (2, 1, 0))


def dataset(**tags):
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def contours_of(mask):
    made = []
    for plane in np.flatnonzero(mask.any((0, 1))):
        for outline in find_contours(mask[..., plane].astype(float), 0.5):
            points = np.array([lps(column, row, plane) for column, row in outline[:-1]])
            made.append(dataset(ContourGeometricType="CLOSED_PLANAR", ContourData=np.round(points, 4).ravel().tolist()))
    return made


def save_structures(folder, series, masks):
    study = dataset(RTReferencedSeriesSequence=[dataset(SeriesInstanceUID=series)])
    save(
        folder / f"RTSTRUCT-{series[-5:]}" / "1-1.dcm",
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        ReferencedFrameOfReferenceSequence=[dataset(RTReferencedStudySequence=[study])],
        StructureSetROISequence=[dataset(ROINumber=n + 5, ROIName=name) for n, name in enumerate(masks)],
        ROIContourSequence=[
            dataset(ReferencedROINumber=n + 5, ContourSequence=contours_of(mask))
            for n, mask in enumerate(masks.values())
        ],
    )


def save_patient(root, number, *, name="TV", seed=0, skip=()):
    """T1 and T2 series, each with its own structures: the T1's tumour lies elsewhere."""
    folder = root / "manifest-1" / "Vestibular-Schwannoma-SEG" / f"VS-SEG-{number:03d}" / "study"
    t1, _ = save_series(folder, "t1_mpr_tra", seed=100 + seed)
    t2, image = save_series(folder, "t2_ci3d_tra", seed=seed, slope=2, skip=skip)
    save_structures(folder, t1, {name: np.roll(tumour(), 6, axis=0)})
    save_structures(folder, t2, {"Skull": np.ones_like(tumour()), name: tumour()})
    return folder, image


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_mask_image_and_world_position(tmp_path, script, check_set):
    folders = {number: save_patient(tmp_path / "in", number, seed=number) for number in (1, 181, 182, 201, 202)}
    out = tmp_path / "out"
    script("prepare_vestibular_schwannoma").main([str(tmp_path / "in"), "--out", str(out)])
    datalist = check_set(out)
    names = {s: [item["group"] for item in datalist[s]] for s in ("training", "validation", "test")}
    assert names["training"] == ["VS-SEG-001", "VS-SEG-181"]
    assert names["validation"] == ["VS-SEG-182", "VS-SEG-201"]
    assert names["test"] == ["VS-SEG-202"]

    image, label = nib.load(out / "images/VS-SEG-001.nii.gz"), nib.load(out / "labels/VS-SEG-001.nii.gz")
    mask = np.asarray(label.dataobj).astype(bool)
    assert np.array_equal(image.get_fdata(), folders[1][1])
    assert dice(mask, tumour()) > 0.99
    assert not mask[11:13, 21:24, 5].any()  # the hole
    corner = nib.affines.apply_affine(label.affine, (31, 7, 9))
    assert np.allclose(corner, lps(31, 7, 9) * (-1, -1, 1), atol=1e-4)  # RAS from LPS

    oracle = LoadImage(reader="ITKReader", image_only=True)(folders[1][0] / "t2_ci3d_tra-1")
    index = np.linalg.inv(oracle.affine.numpy()) @ label.affine @ (31, 7, 9, 1)
    assert np.allclose(index, np.round(index), atol=1e-3)
    assert oracle[tuple(np.round(index[:3]).astype(int))] == image.dataobj[31, 7, 9]


def test_crop_keeps_the_world_position_and_fills_with_zeros(tmp_path, script, check_set, capsys):
    for number in (1, 182, 202):
        save_patient(tmp_path / "in", number)
    main = script("prepare_vestibular_schwannoma").main
    main([str(tmp_path / "in"), "--out", str(tmp_path / "whole")])
    assert "warning" not in capsys.readouterr().err
    main([str(tmp_path / "in"), "--out", str(tmp_path / "crop"), "--crop", "24", "30", "16"])
    assert "places the box by the mask" in capsys.readouterr().err
    check_set(tmp_path / "crop")
    for kind in ("images", "labels"):
        whole, crop = (nib.load(tmp_path / s / kind / "VS-SEG-001.nii.gz") for s in ("whole", "crop"))
        assert crop.shape == (24, 30, 16)
        values, original = np.asarray(crop.dataobj), np.asarray(whole.dataobj)
        shift = (np.linalg.inv(whole.affine) @ crop.affine)[:3, 3].round().astype(int)
        for index in np.argwhere(np.ones(crop.shape)):
            there = index + shift
            inside = (there >= 0).all() and (there < whole.shape).all()
            assert values[tuple(index)] == (original[tuple(there)] if inside else 0)
    assert values.sum() == original.sum()  # the whole tumour is in the box
    edges = [np.flatnonzero(values.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    for edge, size in zip(edges, values.shape, strict=True):
        assert abs(edge[0] - (size - 1 - edge[-1])) <= 1  # in the middle


def test_a_case_that_cannot_be_converted_is_left_out_with_its_reason(tmp_path, script, capsys):
    save_patient(tmp_path / "in", 1)
    save_patient(tmp_path / "in", 2, name="Cochlea")
    save_patient(tmp_path / "in", 3, skip=(4,))
    folder, _ = save_patient(tmp_path / "in", 4)
    for path in folder.glob("RTSTRUCT*/*.dcm"):
        path.unlink()
    folder, _ = save_patient(tmp_path / "in", 5)
    for path in folder.glob("t2_*/*.dcm"):
        path.unlink()
    (tmp_path / "in/VS-SEG-006").mkdir()
    main = script("prepare_vestibular_schwannoma").main
    main([str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert "training          1" in said.out
    for number, reason in {
        2: "no structure matches",
        3: "11 slices of the series are not evenly spaced",
        4: "found 0 RTSTRUCT files",
        5: "found 0 MR series",
        6: "holds no .dcm files",
    }.items():
        (line,) = [line for line in said.err.splitlines() if line.startswith(f"VS-SEG-{number:03d}")]
        assert reason in line
    assert "Skull, Cochlea" in said.err
    main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--roi", "^cochlea$"])
    assert "VS-SEG-002" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="VS-SEG-<number>"):
        main([str(tmp_path / "out")])


def test_default_names_of_the_tumour(script):
    pattern = script("prepare_vestibular_schwannoma").TUMOUR
    for name in ("TV", "tv1", "VS_left", "Tumour", "AN", "Left tumor", "Vestibular Schwannoma"):
        assert re.search(pattern, name, re.IGNORECASE)
    for name in ("Cochlea", "vessel", "Anterior", "Skull"):
        assert not re.search(pattern, name, re.IGNORECASE)
