# SPDX-License-Identifier: Apache-2.0
"""What runs together and what goes first, so that two processes are busy until the end."""

from __future__ import annotations

import pytest

PAGES = "test_docs_run.py"
"""A page of the documentation takes minutes and shares nothing with the next."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The tests of a file share a process, for its fixtures; pages have one each. What takes long goes first."""
    for item in items:
        name = item.nodeid if item.path.name == PAGES else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name.rpartition("/")[2].strip("[]")))
    items.sort(key=lambda item: (item.path.name != PAGES, item.get_closest_marker("slow") is None))
