# SPDX-License-Identifier: Apache-2.0
"""GeoJSON as QuPath reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from monai_ext.data.geojson import feature_collection, write_geojson
from monai_ext.functional.outlines import cutouts_of_labels


def draw(geometry, shape, zoom=8):
    """Pixels of a geometry by Pillow, magnified so that a pixel's centre is clear of the outline."""
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    canvas = Image.new("L", (shape[1] * zoom, shape[0] * zoom))
    pen = ImageDraw.Draw(canvas)
    for rings in parts:
        for number, ring in enumerate(rings):
            pen.polygon([(x * zoom, y * zoom) for x, y in ring], fill=int(number == 0))
    return np.asarray(canvas)[zoom // 2 :: zoom, zoom // 2 :: zoom]


def label_map():
    labels = np.zeros((12, 15), dtype=np.uint16)
    labels[0:4, 0:5], labels[1, 2] = 3, 0  # at the corner of the picture, with a hole
    labels[6:9, 6:9], labels[9:12, 9:15] = 8, 8  # two parts that touch at a corner
    labels[5, 14] = 9
    return labels


def test_outlines_drawn_again_are_the_instances(tmp_path):
    labels = label_map()
    write_geojson(tmp_path / "a" / "cells.geojson", cutouts_of_labels(labels, scores=[0.5, 0.25, 1]), name="nucleus")
    content = json.loads((tmp_path / "a" / "cells.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    features = content["features"]
    assert [feature["geometry"]["type"] for feature in features] == ["Polygon", "MultiPolygon", "Polygon"]
    for feature, number, score in zip(features, (3, 8, 9), (0.5, 0.25, 1), strict=True):
        np.testing.assert_array_equal(draw(feature["geometry"], labels.shape), labels == number)
        assert feature["type"] == "Feature"
        assert feature["properties"] == {
            "objectType": "detection",
            "classification": {"name": "nucleus"},
            "measurements": {"Number": number, "Area px": int((labels == number).sum()), "Score": score},
        }


def test_outer_rings_run_counter_clockwise_in_numbers_and_begin_where_they_end():
    rings = feature_collection(cutouts_of_labels(label_map()))["features"][0]["geometry"]["coordinates"]
    for ring, sign in zip(rings, (1, -1), strict=True):
        (x, y), (a, b) = np.array(ring[:-1]).T, np.array(ring[1:]).T
        assert np.sign((x * b - a * y).sum()) == sign
        assert ring[0] == ring[-1]


def test_no_score_no_instances_and_types():
    (feature,) = feature_collection(cutouts_of_labels(np.eye(1)), object_type="annotation")["features"]
    assert "Score" not in feature["properties"]["measurements"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature_collection([]) == {"type": "FeatureCollection", "features": []}
    with pytest.raises(ValueError, match="object_type is 'cell'"):
        feature_collection([], object_type="cell")
