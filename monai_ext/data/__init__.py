# SPDX-License-Identifier: Apache-2.0
"""Datalists, points, phantoms: what is read before training starts; results as files that others open."""

from monai_ext.data.cell_phantom import Exposure, cell_picture, draw_exposure
from monai_ext.data.check import check_datalist, check_or_exit, format_table
from monai_ext.data.coco import CocoReader, CocoWriter
from monai_ext.data.coco_instances import LoadInstanceRunsd, LoadInstancesd, collate_instances
from monai_ext.data.collate import collate_cells
from monai_ext.data.datalist import labels_of, load_datalist
from monai_ext.data.errors import DataFault
from monai_ext.data.geojson import write_geojson
from monai_ext.data.histology_phantom import TissueStain, draw_tissue_stain, tissue_field
from monai_ext.data.histology_set import make_histology_phantoms
from monai_ext.data.membrane_phantom import Stain, draw_stain, membrane_tile
from monai_ext.data.mr_phantom import PhantomSpec, phantom_volume
from monai_ext.data.patches import annotate_patches, make_random_patches
from monai_ext.data.phantoms import make_cell_phantoms, make_membrane_phantoms, make_phantoms
from monai_ext.data.points_io import LoadPointsd, PointSet, read_points, to_voxels, write_points
from monai_ext.data.pseudo_labels import PseudoLabels
from monai_ext.data.results_io import SaveDicomSegd
from monai_ext.data.smear_phantom import SmearStain, draw_smear_stain, smear_field
from monai_ext.data.smear_set import make_smear_phantoms
from monai_ext.data.synthetic_masks import (
    SyntheticMaskDataset,
    check_patches_or_exit,
    patches_with_nuclei,
    trained_patches,
)
from monai_ext.data.turn_sampler import TurnSampler
from monai_ext.data.two_stream import TwoStreamDataset, draw_labeled, draw_or_exit, labeled_fraction

__all__ = [
    "CocoReader",
    "CocoWriter",
    "DataFault",
    "Exposure",
    "LoadInstanceRunsd",
    "LoadInstancesd",
    "LoadPointsd",
    "PhantomSpec",
    "PointSet",
    "PseudoLabels",
    "SaveDicomSegd",
    "SmearStain",
    "Stain",
    "SyntheticMaskDataset",
    "TissueStain",
    "TurnSampler",
    "TwoStreamDataset",
    "annotate_patches",
    "cell_picture",
    "check_datalist",
    "check_or_exit",
    "check_patches_or_exit",
    "collate_cells",
    "collate_instances",
    "draw_exposure",
    "draw_labeled",
    "draw_or_exit",
    "draw_smear_stain",
    "draw_stain",
    "draw_tissue_stain",
    "format_table",
    "labeled_fraction",
    "labels_of",
    "load_datalist",
    "make_cell_phantoms",
    "make_histology_phantoms",
    "make_membrane_phantoms",
    "make_phantoms",
    "make_random_patches",
    "make_smear_phantoms",
    "membrane_tile",
    "patches_with_nuclei",
    "phantom_volume",
    "read_points",
    "smear_field",
    "tissue_field",
    "to_voxels",
    "trained_patches",
    "write_geojson",
    "write_points",
]
