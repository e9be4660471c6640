# SPDX-License-Identifier: Apache-2.0
"""A small whole data set on the disk, to be damaged by a test."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_ext.data.check import check_datalist
from monai_ext.data.errors import DataFault
from monai_ext.data.points_io import PointSet, write_points
from tests.dicom_series import write_series

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -25, 15], degrees=True).as_matrix() @ np.diag([0.8, 1.1, 2.5])
OBLIQUE[:3, 3] = [40, -60, 15]
AFFINES = {"plain": np.diag([1.0, 1, 2, 1]), "flipped": np.diag([-1.0, -1, 2, 1]), "oblique": OBLIQUE}
NEEDS = {"training": ["image", "points"], "validation": ["image", "label"]}
SEVEN = {
    "F": (10, 11, 6),
    "L": (4, 10, 6),
    "R": (16, 12, 7),
    "P": (9, 5, 6),
    "A": (10, 17, 5),
    "I": (11, 11, 2),
    "S": (10, 10, 9),
}


class Data:
    """One case with seven clicks for training, one with a mask for validation."""

    needs, shape, affines, seven = NEEDS, (20, 24, 16), AFFINES, SEVEN

    def __init__(self, folder):
        self.folder = folder
        self.affine = self.affines["plain"]
        rng = np.random.default_rng(0)
        self.image = rng.normal(100, 10, self.shape).astype(np.float32)
        self.mask = np.zeros(self.shape, np.uint8)
        self.mask[6:15, 7:15, 4:8] = 1
        self.content = {
            "labels": {"0": "background", "1": "tumour"},
            "training": [{"image": "a.nii.gz", "points": "a.json", "group": "p1"}],
            "validation": [{"image": "v.nii.gz", "label": "v_mask.nii.gz", "group": "p2"}],
        }
        self.write()

    def write(self, affine=None):
        self.affine = self.affine if affine is None else affine
        self.volume("a.nii.gz", self.image)
        self.volume("v.nii.gz", self.image)
        self.volume("v_mask.nii.gz", self.mask)
        self.points(self.seven)

    def volume(self, name, array, affine=None):
        nib.save(nib.Nifti1Image(array, self.affine if affine is None else affine), self.folder / name)

    def points(self, clicks, space="voxel", name="a.json"):
        positions = np.array(list(clicks.values()), dtype=float)
        write_points(self.folder / name, PointSet(tuple(clicks), positions, space))

    def series(self, name, voxels, affine=None):
        write_series(self.folder / name, voxels, self.affine if affine is None else affine)
        return self.folder / name

    def check(self, needs=NEEDS, **options):
        (self.folder / "list.json").write_text(json.dumps(self.content))
        return check_datalist(self.folder / "list.json", self.folder, needs=needs, **options)

    def assert_refused(self, *parts, needs=NEEDS, **options):
        """The check stops with one sentence that holds all ``parts``."""
        with pytest.raises(DataFault) as caught:
            self.check(needs, **options)
        sentence = str(caught.value)
        assert all(part in sentence for part in parts), sentence
        assert ", expected " in sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)
