# SPDX-License-Identifier: Apache-2.0
"""Loads a network's weights, or says in one sentence why they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def load_weights(network: Network, path: str | Path, *, device: torch.device | str = "cpu") -> Network:
    """Loads a flat state dict into a network, strictly and without unpickling code.

    Args:
        network: changed in place and returned.
        path: a file that :py:class:`monai_ext.handlers.SaveWeights` or ``torch.save(net.state_dict())`` wrote.
        device: where the tensors are mapped to.

    Raises:
        SystemExit: the file is missing, empty or unreadable, or belongs to another network (which keys differ).
    """
    if not Path(path).exists():
        raise SystemExit(f"{path}: no such weights; train first, or set ckpt_dir to where they are.")
    state = _read(path, device)
    faults = _differences(network.state_dict(), state)
    if faults:
        raise SystemExit(f"{path}: the weights belong to another network than {type(network).__name__}: {faults}.")
    network.load_state_dict(state)
    return network


def check_weights(paths: Sequence[str | Path | None]) -> None:
    """Stops before the run where a file of weights to begin with is missing or unreadable; None is no file.

    Whether it fits the network shows when the network is made.

    Raises:
        SystemExit: with the sentence.
    """
    for path in paths:
        if path is not None and not Path(path).is_file():
            raise SystemExit(f"{path}: there is no such file; expected weights to begin with.")
        if path is not None:
            _read(path, "cpu")


def _read(path: str | Path, device: torch.device | str) -> dict[str, torch.Tensor]:
    if Path(path).stat().st_size == 0:
        raise SystemExit(f"{path}: the weights file has 0 bytes; expected a state dict (an interrupted copy?).")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise SystemExit(f"{path}: expected a state dict, but reading it gave {kind}.") from error
    if not isinstance(state, dict):
        raise SystemExit(f"{path}: found a {type(state).__name__}; expected a state dict.")
    return state


def _differences(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{k} is {tuple(found[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected.keys() & found.keys()
        if getattr(found[k], "shape", None) != expected[k].shape
    ]
    parts = {f"{len(missing)} keys missing": missing, f"{len(extra)} keys too many": extra, "shapes": sorted(shapes)}
    return "; ".join(f"{title} ({_first(names)})" for title, names in parts.items() if names)


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
