# SPDX-License-Identifier: Apache-2.0
"""Behaviour attached to MONAI's trainers and evaluators."""

from monai_ext.handlers.checkpoint import ResumableCheckpoint, SaveWeights
from monai_ext.handlers.class_instance_metrics import ClassInstanceMetricHandler
from monai_ext.handlers.instance_metrics import InstanceGroups, InstanceMetricHandler
from monai_ext.handlers.mean_teacher import MeanTeacher
from monai_ext.handlers.metrics import HausdorffDistanceHandler, PooledSurfaceHandler, SurfaceDistanceHandler
from monai_ext.handlers.overlays import CaseOverlays
from monai_ext.handlers.patch_selection import PatchSelection
from monai_ext.handlers.progress import Progress
from monai_ext.handlers.provenance import run_info
from monai_ext.handlers.pseudo_label_round import PseudoLabelRound
from monai_ext.handlers.report import RunReport
from monai_ext.handlers.reseed import Reseed
from monai_ext.handlers.result_detections import ResultDetections
from monai_ext.handlers.result_instances import ResultInstances
from monai_ext.handlers.result_pictures import ResultPictures
from monai_ext.handlers.snapshot_teacher import SnapshotTeacher
from monai_ext.handlers.synthetic_pairs import SyntheticPairs
from monai_ext.handlers.term_log import TermLog
from monai_ext.handlers.turns import SaveInTurn, TurnPictures

__all__ = [
    "CaseOverlays",
    "ClassInstanceMetricHandler",
    "HausdorffDistanceHandler",
    "InstanceGroups",
    "InstanceMetricHandler",
    "MeanTeacher",
    "PatchSelection",
    "PooledSurfaceHandler",
    "Progress",
    "PseudoLabelRound",
    "Reseed",
    "ResultDetections",
    "ResultInstances",
    "ResultPictures",
    "ResumableCheckpoint",
    "RunReport",
    "SaveInTurn",
    "SaveWeights",
    "SnapshotTeacher",
    "SurfaceDistanceHandler",
    "SyntheticPairs",
    "TermLog",
    "TurnPictures",
    "run_info",
]
