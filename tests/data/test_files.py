# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.data.files import path_in


@pytest.mark.parametrize(
    ("folder", "file", "expected"),
    [
        ("data", "data/images/a.png", "images/a.png"),
        ("bundles/x/../../data", "data/images/a.png", "images/a.png"),
        ("./data/", "bundles/../data/images/a.png", "images/a.png"),
        ("data", "other/images/a.png", "a.png"),
        ("data", "data_2/a.png", "a.png"),
        ("", "data/images/a.png", "a.png"),
    ],
)
def test_path_from_a_folder_however_both_are_written(tmp_path, monkeypatch, folder, file, expected):
    monkeypatch.chdir(tmp_path)
    assert path_in(folder, file) == Path(expected)
    assert path_in(folder, tmp_path / file) == Path(expected)


def test_links_are_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "data/a.png").symlink_to(tmp_path / "a.png")
    assert path_in(tmp_path / "data", tmp_path / "data/a.png") == Path("a.png")
    assert path_in(tmp_path, tmp_path / "data/a.png") == Path("data/a.png")
