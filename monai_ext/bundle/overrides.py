# SPDX-License-Identifier: Apache-2.0
"""Stops a run whose command line sets a key that its configuration does not have, or to ``false``.

MONAI accepts ``--epochz 1`` silently and trains with the old value; ``--resume false`` it takes for a text, which is
true.
"""

from __future__ import annotations

import ast
import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

RUN_ARGUMENTS = {
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file", "bundle_root",
}  # fmt: skip
"""Arguments of ``monai.bundle run`` itself."""

_NOT_PYTHON = {"false": "False", "FALSE": "False", "null": "None"}
"""Values of other languages that would arrive as texts, and how Python writes them."""


def stop_on_unknown_keys(argv: Sequence[str] | None = None) -> None:
    """Leaves with exit status 1 and one sentence where an override names no key of the given configuration files.

    Does nothing outside ``monai.bundle run`` (a Python program that makes a ``ConfigWorkflow`` sees its own mistakes).

    Args:
        argv: the command line; ``sys.argv`` by default.

    Raises:
        SystemExit: a key was not found (the sentence names the closest key that exists), or a value is ``false``
            or ``null``.
    """
    given = _arguments(sys.argv[1:] if argv is None else argv)
    if "config_file" not in given:
        return
    config = ConfigParser.load_config_files(_file_list(given["config_file"]))
    for key in unknown_keys(config, (k for k in given if k not in RUN_ARGUMENTS)):
        close = difflib.get_close_matches(key, map(str, config), n=1)
        hint = f"; did you mean --{close[0]}?" if close else f"; the keys are {', '.join(sorted(map(str, config)))}."
        raise SystemExit(f"--{key}: no such key in {given['config_file']}{hint}")
    for key, value in given.items():
        if value in _NOT_PYTHON:
            raise SystemExit(f"--{key}: found {value!r}, a text to MONAI, expected {_NOT_PYTHON[value]}.")


def unknown_keys(config: dict[str, Any], keys: Iterable[str]) -> list[str]:
    """Keys (``a``, ``a#b``, ``a::b``) whose path is not in ``config``; a new argument of a component is allowed."""
    return [key for key in keys if not _exists(config, key.replace("#", "::").split("::"))]


def _exists(node: Any, path: list[str]) -> bool:
    for depth, part in enumerate(path):
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return False
            node = node[int(part)]
        elif not isinstance(node, dict):
            return False
        elif part in node:
            node = node[part]
        else:
            return "_target_" in node and depth == len(path) - 1
    return True


def _arguments(argv: Sequence[str]) -> dict[str, str]:
    """Options of a ``fire`` command line, with those of ``--args_file`` below them."""
    given: dict[str, str] = {}
    for position, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = argv[position + 1] if position + 1 < len(argv) else ""
            given[name.replace("-", "_")] = value if equals else following
    if "args_file" in given:
        file_args = json.loads(Path(given["args_file"]).read_text(encoding="utf8"))
        given = {k: str(v) for k, v in file_args.items()} | given
    return given


def _file_list(value: str) -> list[str]:
    return list(ast.literal_eval(value)) if value.lstrip().startswith(("[", "(")) else value.split(",")
