# SPDX-License-Identifier: Apache-2.0
"""Imports go down only: functional; losses to inferers (MIDDLE); data, bundle; handlers, engines."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "monai_ext"
MIDDLE = {"losses", "networks", "transforms", "metrics", "inferers"}
BELOW_DATA = MIDDLE | {"functional"}
ALLOWED = {
    "": set(),
    "functional": set(),
    **{room: {"functional"} for room in MIDDLE},
    "data": BELOW_DATA,
    "bundle": BELOW_DATA | {"data"},
    "handlers": BELOW_DATA | {"data", "bundle"},
    "engines": BELOW_DATA | {"data", "bundle"},
}
"""Rooms that a room may import besides itself; the package's own file is the room with an empty name."""
GROUND = set(sys.stdlib_module_names) | {"torch", "numpy", "scipy", "skimage", "sklearn"}
"""What functional may import besides itself."""
OUTSIDE = {"scripts", "benchmarks", "tests", "bundles"}
"""Folders that nothing imports."""


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Dotted names that a module's source imports, at any depth; of the package also those reached as attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE:
            yield f"{PACKAGE}.{node.attr}"
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room_of(name: str) -> str:
    """Room of a dotted name of the package; what is no folder of it belongs to the package's own file."""
    part = name.split(".")[1] if "." in name else ""
    return part if part in ALLOWED else ""


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """One sentence for each import that goes up, sideways or outside."""
    room, found = room_of(module), []
    for name in imported(source, module, is_package=is_package):
        top = name.split(".")[0]
        if top in OUTSIDE:
            found.append(f"{module} imports {name}; nothing imports {top}.")
        elif top == PACKAGE:
            other = room_of(name)
            # The package's own file holds the version only, so all but functional may read it.
            if other != room and other not in ALLOWED[room] and (other or room == "functional"):
                found.append(f"{module} imports {name}; {room or PACKAGE} may not know {other or PACKAGE}.")
        elif room == "functional" and top not in GROUND:
            found.append(f"{module} imports {name}; functional knows no {top}.")
        elif top == "ignite" and room not in ("handlers", "engines"):
            found.append(f"{module} imports {name}; only handlers and engines know ignite.")
    return found


def module_of(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    found = violations(path.read_text(encoding="utf8"), module_of(path), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_folder_is_a_room():
    folders = {path.parent.name for path in FILES if path.parent != ROOT / PACKAGE}
    assert folders
    assert folders <= ALLOWED.keys(), f"give {folders - ALLOWED.keys()} a place in ALLOWED"


@pytest.mark.parametrize("room", sorted(ALLOWED.keys() - {""}))
def test_no_name_of_a_room_is_a_module_too(room):
    """From Python 3.12 on a ``_target_`` with such a name gives the module, which cannot be called."""
    public = {name for name, value in vars(importlib.import_module(f"{PACKAGE}.{room}")).items() if callable(value)}
    assert not public & {path.stem for path in (ROOT / PACKAGE / room).glob("*.py")}


def test_bundles_hold_no_python():
    assert not list((ROOT / "bundles").rglob("*.py"))


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("monai_ext.functional.a", "import monai", True),
        ("monai_ext.functional.a", "from skimage.measure import label\nimport math", False),
        ("monai_ext.functional.a", "def f():\n    import ignite", True),
        ("monai_ext.functional.a", "from monai_ext import __version__", True),
        ("monai_ext.functional.a", "from monai_ext.functional.b import c", False),
        ("monai_ext.losses.a", "from monai_ext.functional import b", False),
        ("monai_ext.losses.a", "from monai_ext.networks.b import c", True),
        ("monai_ext.losses.a", "from monai_ext import transforms", True),
        ("monai_ext.losses.a", "from ..metrics import b", True),
        ("monai_ext.losses.a", "from . import b", False),
        ("monai_ext.metrics.a", "from ignite.metrics import Metric", True),
        ("monai_ext.data.a", "from monai_ext.transforms.b import c", False),
        ("monai_ext.data.a", "import monai_ext.engines.step", True),
        ("monai_ext.data.a", "import monai_ext\nmonai_ext.handlers.Reseed", True),
        ("monai_ext.data.a", "from monai_ext.bundle import b", True),
        ("monai_ext.bundle.a", "from monai_ext.data import b", False),
        ("monai_ext.handlers.a", "import monai_ext\nfrom monai_ext.metrics import b", False),
        ("monai_ext.handlers.a", "from monai_ext.engines import b", True),
        ("monai_ext.engines.a", "from importlib import import_module\nimport_module('monai_ext.handlers')", True),
        ("monai_ext.engines.a", "from scripts.seed_curve import parse", True),
        ("monai_ext", "from monai_ext.data import b", True),
    ],
)
def test_the_checker_sees_what_it_must(module, source, wrong):
    assert bool(violations(source, module)) is wrong


def test_relative_imports_of_a_package_file():
    source = "from . import b\nfrom .b import c\nfrom .. import losses"
    assert list(imported(source, "monai_ext.data", is_package=True)) == [
        "monai_ext.data.b",
        "monai_ext.data.b.c",
        "monai_ext.losses",
    ]
