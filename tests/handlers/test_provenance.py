# SPDX-License-Identifier: Apache-2.0
"""Facts about a run."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace

import monai
import pytest
import torch

import monai_ext
from monai_ext.handlers.provenance import run_info


def test_values_are_json_and_true():
    info = run_info(7)
    assert json.loads(json.dumps(info)) == info
    assert info["seed"] == 7
    assert (info["monai"], info["torch"]) == (monai.__version__, torch.__version__)
    assert info["monai_ext"] == monai_ext.__version__
    assert info["cpu_threads"] == torch.get_num_threads()
    assert (info["device"] == "CPU") == (not torch.cuda.is_available())
    made = datetime.fromisoformat(info["time"])
    assert timedelta(0) <= datetime.now().astimezone() - made < timedelta(hours=1)


def test_seed_is_optional():
    assert run_info()["seed"] is None


def test_command_of_a_script_quotes_its_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/train.py", "--name", "two words"])
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=None))
    assert run_info()["command"] == "train.py --name 'two words'"


@pytest.mark.parametrize(("module", "shown"), [("monai.bundle.__main__", "monai.bundle"), ("tool.make", "tool.make")])
def test_command_of_a_module(monkeypatch, module, shown):
    monkeypatch.setattr(sys, "argv", ["/some/where/__main__.py", "run"])
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=SimpleNamespace(name=module)))
    assert run_info()["command"] == f"python -m {shown} run"
