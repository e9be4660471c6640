# SPDX-License-Identifier: Apache-2.0
"""What goes first, so that two processes are busy until the end."""

from __future__ import annotations

import pytest
import torch

PAGES = "test_docs_run.py"


def pytest_collection_modifyitems(items):
    """Files that take long go first: the pages of the documentation, then whole bundle runs. ``gpu`` needs CUDA."""
    items.sort(key=lambda item: (item.path.name != PAGES, item.get_closest_marker("slow") is None))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))
