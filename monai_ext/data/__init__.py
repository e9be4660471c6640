# SPDX-License-Identifier: Apache-2.0
"""Datalists, points, phantoms: what is read before training starts."""

from monai_ext.data.check import check_datalist, check_or_exit
from monai_ext.data.datalist import labels_of, load_datalist
from monai_ext.data.errors import DataFault
from monai_ext.data.phantoms import make_phantoms
from monai_ext.data.points_io import LoadPointsd, PointSet, read_points, write_points

__all__ = [
    "DataFault",
    "LoadPointsd",
    "PointSet",
    "check_datalist",
    "check_or_exit",
    "labels_of",
    "load_datalist",
    "make_phantoms",
    "read_points",
    "write_points",
]
