# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage


@pytest.mark.parametrize("affine", ["plain", "oblique", "flipped"])
def test_a_dicom_series_is_the_same_volume_in_the_world_as_its_nifti(data, affine):
    affine = data.affines[affine]
    data.write(affine)
    voxels = np.random.default_rng(1).integers(-500, 500, data.shape).astype(np.int16)
    data.volume("a.nii.gz", voxels)
    data.series("series", voxels)
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
    data.series("series", np.ones(data.shape))
    data.content = {"training": [{"image": "series"}]}
    slices = sorted((data.folder / "series").iterdir())
    slices[4].write_bytes(slices[4].read_bytes()[:-300])
    data.assert_refused("series (image)", "16 DICOM files", "15 slices", needs=None)
    slices[4].unlink()
    data.series("other", np.ones(data.shape))
    shutil.copy(data.folder / "other/001.dcm", data.folder / "series/other.dcm")
    data.assert_refused("series (image)", "16 DICOM files", needs=None)
    shutil.rmtree(data.folder / "series")
    (data.folder / "series").mkdir()
    data.assert_refused("series (image)", "the folder is empty", needs=None)
    (data.folder / "series/notes.txt").write_text("hello")
    data.assert_refused("series (image)", "cannot be read", needs=None)
