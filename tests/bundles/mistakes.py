# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil a bundle's folder before a command runs there; its data lie in ``data``."""

from __future__ import annotations

import json

import torch

OTHER = {"a.weight": torch.zeros(1)}
"""State of a network that no bundle has."""


def change_datalist(change):
    """What ``change`` does to the datalist's content."""

    def apply(folder):
        path = folder / "data/datalist.json"
        content = json.loads(path.read_text())
        del content["phantom"]
        change(content)
        path.write_text(json.dumps(content))

    return apply


def cut_short(pattern):
    """The first image of that name ends after 200 bytes."""

    def apply(folder):
        file = next((folder / "data/images").glob(pattern))
        file.write_bytes(file.read_bytes()[:200])

    return apply


def weights(name, state):
    """A file under models/ that holds ``state``; None makes it empty."""

    def apply(folder):
        (folder / "models").mkdir()
        if state is None:
            (folder / "models" / name).touch()
        else:
            torch.save(state, folder / "models" / name)

    return apply
