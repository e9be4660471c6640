# SPDX-License-Identifier: Apache-2.0
"""What ``inference.json`` of PA-Seg's bundle writes, against the same steps done by hand."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import label

from tests.dicom_series import write_series

pytestmark = pytest.mark.slow

SHAPE, PATCH = (26, 20, 18), [16, 16, 16]
AFFINE = np.array([[0.9, 0, 0, -12], [0, 1.1, 0, 30], [0, 0, 2.5, 7], [0, 0, 0, 1]])


class Case:
    """A folder with images and a network without training, whose speckled masks make every option visible."""

    def __init__(self, bundle, folder):
        self.bundle, self.folder = bundle, folder
        self.voxels = np.random.default_rng(3).normal(100, 20, SHAPE).round().astype(np.int16)
        torch.manual_seed(0)
        self.network = ConfigParser(bundle.network).get_parsed_content().eval()
        (bundle.root / "models").mkdir(parents=True)
        torch.save(self.network.state_dict(), bundle.root / "models/model.pt")

    def write(self, name, image):
        (self.folder / name).parent.mkdir(exist_ok=True, parents=True)
        nib.save(image, self.folder / name)

    def masks(self, *names, **options):
        """The masks of the images ``names`` by the path of their file under the output folder."""
        (self.folder / "list.json").write_text(json.dumps({"test": [{"image": name} for name in names]}))
        output = self.bundle.root / "output/inference"
        values = {"dataset_dir": str(self.folder), "datalist": str(self.folder / "list.json"), "patch_size": PATCH}
        self.bundle.run("inference", workflow_type="infer", **values, **options)
        return {str(path.relative_to(output)): nib.load(path) for path in output.rglob("*.nii.gz")}

    def mask(self, name, **options):
        (mask,) = self.masks(name, **options).values()
        return mask

    def probability(self):
        """Of the object, for the voxels on RAS axes."""
        image = torch.from_numpy(self.voxels).float()[None, None]
        image = (image - image.mean()) / image.std(unbiased=False)
        inferer = SlidingWindowInferer(roi_size=PATCH, overlap=0.25, mode="gaussian")
        with torch.no_grad():
            return inferer(image, self.network).softmax(1)[0, 1].numpy()


@pytest.fixture
def case(bundle, tmp_path):
    return Case(bundle, tmp_path / "data")


def voxels_of(mask):
    return np.asarray(mask.dataobj)


def test_mask_is_the_thresholded_probability_on_the_grid_of_the_input(case, on_the_cpu):
    case.write("a.nii.gz", nib.Nifti1Image(case.voxels, AFFINE))
    probability = case.probability()
    threshold = float(np.quantile(probability, 0.93).round(3))
    sizes = []
    for options in ({}, {"threshold": threshold}, {"threshold": threshold, "largest_component": True}):
        mask = case.mask("a.nii.gz", **options)
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
        expected = probability >= options.get("threshold", 0.5)
        clear = np.abs(probability - options.get("threshold", 0.5)) > 1e-5
        if "largest_component" in options:
            components, _ = label(expected, np.ones((3, 3, 3)))
            expected = components == np.bincount(components.ravel())[1:].argmax() + 1
        assert voxels_of(mask).dtype == np.uint8
        np.testing.assert_array_equal(voxels_of(mask)[clear], expected[clear])
        sizes.append(voxels_of(mask).sum())
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_mask_follows_the_axes_of_the_input(case):
    ras = nib.Nifti1Image(case.voxels, AFFINE)
    turned = ras.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt("PIL")))
    case.write("ras.nii.gz", ras)
    case.write("turned.nii.gz", turned)
    masks = case.masks("ras.nii.gz", "turned.nii.gz")
    found = masks["turned_seg.nii.gz"]
    np.testing.assert_allclose(found.affine, turned.affine, atol=1e-5)
    assert found.shape == turned.shape != ras.shape
    back = found.as_reoriented(io_orientation(found.affine))
    np.testing.assert_array_equal(voxels_of(back), voxels_of(masks["ras_seg.nii.gz"]))


def test_resampling_is_undone(case):
    case.write("a.nii.gz", nib.Nifti1Image(case.voxels, AFFINE))
    mask = case.mask("a.nii.gz", spacing=[1.5, 1.5, 1.5])
    assert mask.shape == SHAPE
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    assert set(np.unique(voxels_of(mask))) == {0, 1}


def test_files_of_one_name_in_two_folders_stay_apart(case):
    for folder in ("patient-1", "patient-2"):
        case.write(f"{folder}/image.nii.gz", nib.Nifti1Image(case.voxels, AFFINE))
    masks = case.masks("patient-1/image.nii.gz", "patient-2/image.nii.gz")
    assert masks.keys() == {"patient-1/image_seg.nii.gz", "patient-2/image_seg.nii.gz"}


def test_dicom_series_goes_in(case):
    """The mask lies where that of the same volume as NIfTI does; folders named by UIDs keep their names apart."""
    affine = np.array([[-0.9, 0, 0, 20], [0, -1.1, 0, -14], [0, 0, 2.5, -9], [0, 0, 0, 1]])
    names = ["1.2.840.1", "1.2.840.2"]
    for name in names:
        write_series(case.folder / name, case.voxels, affine)
    case.write("same.nii.gz", nib.Nifti1Image(case.voxels, affine))
    masks = case.masks(*names, "same.nii.gz")
    assert masks.keys() == {"1.2.840.1_seg.nii.gz", "1.2.840.2_seg.nii.gz", "same_seg.nii.gz"}
    expected = masks["same_seg.nii.gz"].as_reoriented(io_orientation(affine))
    for name in names:
        found = masks[f"{name}_seg.nii.gz"]
        found = found.as_reoriented(io_orientation(found.affine))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(voxels_of(found), voxels_of(expected))


@pytest.mark.parametrize("spacing", [None, [1.5, 1.5, 1.5]])
def test_an_application_needs_the_pipeline_only(case, spacing):
    """MONAI Label and Deploy take these parts alone, without data set; Label adds the image's path as text."""
    case.write("a.nii.gz", nib.Nifti1Image(case.voxels, AFFINE))
    path = str(case.folder / "a.nii.gz")
    workflow = case.bundle.workflow(
        "inference", workflow_type="infer", spacing=spacing, patch_size=PATCH, phantom_dir=str(case.folder / "none")
    )
    before, after = (workflow.parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    inferer, network = workflow.parser.get_parsed_content("inferer"), case.network
    data = before({"image": path, "image_path": path})
    assert data["image_path"] == path
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], network)[0]
    del data["image"].meta["filename_or_obj"], data["pred"].meta["filename_or_obj"]
    for step in after.transforms:
        data = data if type(step).__name__ == "SaveImaged" else step(data)
    assert data["pred"].shape == (1, *SHAPE)
    np.testing.assert_allclose(data["pred"].affine, AFFINE, atol=1e-5)
    assert set(data["pred"].unique().tolist()) == {0, 1}
