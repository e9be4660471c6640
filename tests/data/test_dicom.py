# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder, voxels, affine_ras):
    """Write (i, j, k) voxels as a DICOM series whose columns run along i, rows along j and slices along k."""
    folder.mkdir()
    affine_lps = np.diag([-1.0, -1, 1, 1]) @ affine_ras
    spacing_mm = np.linalg.norm(affine_lps[:3, :3], axis=0)
    i, j, _ = (affine_lps[:3, :3] / spacing_mm).T
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.PatientID, ds.InstanceNumber, ds.SeriesNumber = "CT", "p", k + 1, 1
        ds.ImageOrientationPatient = [f"{x:.10f}" for x in (*i, *j)]
        ds.ImagePositionPatient = [f"{x:.10f}" for x in (affine_lps @ [0, 0, k, 1])[:3]]
        ds.PixelSpacing = [f"{spacing_mm[1]:.8f}", f"{spacing_mm[0]:.8f}"]
        ds.SliceThickness = f"{spacing_mm[2]:.8f}"
        ds.Rows, ds.Columns = voxels.shape[1], voxels.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleIntercept, ds.RescaleSlope = "0", "1"
        ds.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype("<i2")).tobytes()
        # The names run against the slices: the order must come from the positions.
        pydicom.dcmwrite(folder / f"{voxels.shape[2] - k:03d}.dcm", ds, enforce_file_format=True)


@pytest.mark.parametrize("affine", ["plain", "oblique", "flipped"])
def test_a_dicom_series_is_the_same_volume_in_the_world_as_its_nifti(data, affine):
    affine = data.affines[affine]
    data.write(affine)
    voxels = np.random.default_rng(1).integers(-500, 500, data.shape).astype(np.int16)
    data.volume("a.nii.gz", voxels)
    write_series(data.folder / "series", voxels, affine)
    dicom = LoadImage(image_only=True, ensure_channel_first=True)(data.folder / "series")
    nifti = LoadImage(image_only=True, ensure_channel_first=True)(data.folder / "a.nii.gz")
    index = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1).reshape(-1, 3)
    there = nib.affines.apply_affine(np.linalg.inv(dicom.affine) @ nifti.affine.numpy(), index)
    np.testing.assert_allclose(there, np.rint(there), atol=1e-3)
    i, j, k = np.rint(there).astype(int).T
    np.testing.assert_array_equal(dicom.numpy()[0, i, j, k], nifti.numpy()[0][tuple(index.T)])

    world = nib.affines.apply_affine(affine, np.array(list(data.seven.values())))
    clicks = dict(zip(data.seven, world, strict=True))
    if affine[0, 0] < 0:
        clicks["L"], clicks["R"], clicks["P"], clicks["A"] = (clicks[name] for name in "RLAP")
    data.points(clicks, "RAS")
    data.content["training"][0]["image"] = "series"
    (row,) = data.check({"training": ["image", "points"]})
    assert (row.shapes, row.points, row.intensities) == ([data.shape], [(7, 1)], [(voxels.min(), voxels.max())])


def test_broken_dicom_folders(data):
    write_series(data.folder / "series", np.ones(data.shape), data.affine)
    data.content = {"training": [{"image": "series"}]}
    slices = sorted((data.folder / "series").iterdir())
    slices[4].write_bytes(slices[4].read_bytes()[:-300])
    data.refused("series (image)", "16 DICOM files", "15 slices", needs=None)
    slices[4].unlink()
    write_series(data.folder / "other", np.ones(data.shape), data.affine)
    shutil.copy(data.folder / "other/001.dcm", data.folder / "series/other.dcm")
    data.refused("series (image)", "16 DICOM files", needs=None)
    shutil.rmtree(data.folder / "series")
    (data.folder / "series").mkdir()
    data.refused("series (image)", "the folder is empty", needs=None)
    (data.folder / "series/notes.txt").write_text("hello")
    data.refused("series (image)", "cannot be read", needs=None)
