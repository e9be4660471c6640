# SPDX-License-Identifier: Apache-2.0
"""A volume as a DICOM series, for the tests that read one."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder, voxels, affine_ras):
    """Write (i, j, k) voxels as a DICOM series whose columns run along i, rows along j and slices along k."""
    folder.mkdir(parents=True)
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
