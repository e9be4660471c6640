# SPDX-License-Identifier: Apache-2.0
"""Every function, config key and test that a bundle's paper map names exists."""

from __future__ import annotations

import ast
import inspect
import json
import re
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import pytest
from monai.bundle import ConfigParser

from monai_ext.bundle.overrides import unknown_keys
from monai_ext.losses import MultiViewCRFLoss

ROOT = Path(__file__).parents[1]
MAPS = sorted(ROOT.glob("bundles/*/docs/paper_map.md"))
CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    line: int
    cells: dict[str, str]  # by column title in lower case


def table_rows(text: str) -> list[Row]:
    """Rows of every table of a Markdown text; its first row holds the titles."""
    rows: list[Row] = []
    titles: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("|"):
            titles = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if titles is None:
            titles = [cell.lower() for cell in cells]
        elif any(cell.strip("-: ") for cell in cells):
            assert len(cells) == len(titles), f"line {number}: found {len(cells)} cells, expected {len(titles)}"
            rows.append(Row(number, dict(zip(titles, cells, strict=True))))
    return rows


@cache
def defined(path: Path) -> frozenset[str]:
    """Functions, classes and ``Class.method`` of a Python file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(names)


def missing_names(text: str) -> list[str]:
    """Names ``file.py:function`` and ``tests/file.py::test`` within backticks that do not exist."""
    wrong = []
    for code in CODE.findall(text):
        match = re.fullmatch(r"([\w/.]+\.py)(::?)([\w.]+)", code)
        if match is None:
            wrong += [code] if ".py:" in code or (code.endswith(".py") and not (ROOT / code).exists()) else []
            continue
        file, colons, name = match.groups()
        exists = (ROOT / file).exists() and name in defined(ROOT / file)
        wrong += [] if exists and (colons == "::") == name.startswith("test_") else [code]
    return wrong


@cache
def config_of(bundle: Path) -> dict:
    """Keys of every stage in one dictionary."""
    merged: dict = {}
    # train.json comes last: it holds the components whose arguments the stages change.
    others = [bundle / f"configs/{name}.json" for name in ("inference", "synthesize", "select", "hover_net")]
    for path in [*filter(Path.exists, others), *sorted(bundle.glob("configs/train*.json"), reverse=True)]:
        merged |= {k: v for k, v in json.loads(path.read_text(encoding="utf8")).items() if "#" not in k}
    return merged


def missing_keys(text: str, config: dict) -> list[str]:
    """Config keys within backticks that do not exist, or name an argument that their component does not take."""
    return [key for key in CODE.findall(text) if unknown_keys(config, [key]) or not _is_argument(config, key)]


def _is_argument(config: dict, key: str) -> bool:
    *parents, argument = key.split("#")
    node = config
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    target = node.get("_target_", "") if isinstance(node, dict) and parents else ""
    return not target.startswith("monai_ext.") or argument in inspect.signature(locate(target)).parameters


ROWS = [
    pytest.param(path, row, id=f"{path.parts[-3]}-{row.line}")
    for path in MAPS
    for row in table_rows(path.read_text(encoding="utf8"))
]


@pytest.mark.parametrize(("path", "row"), ROWS)
def test_a_row_names_what_exists(path, row):
    place = f"{path.relative_to(ROOT)}, line {row.line}: {row.cells}"
    assert all(row.cells.values()), f"empty cell; {place}"
    wrong = missing_names(" ".join(row.cells.values()))
    wrong += missing_keys(row.cells["config key"], config_of(path.parents[1]))
    assert not wrong, f"{wrong} not found; {place}"
    if "test" in row.cells:
        assert CODE.search(row.cells["test"]), f"no test; {place}"
        assert CODE.search(row.cells["file:function"]), f"no function; {place}"


def test_every_bundle_has_a_map():
    assert {path.parents[1] for path in MAPS} == {path.parent for path in ROOT.glob("bundles/*/configs")}


def test_pa_seg_has_every_equation():
    rows = table_rows((ROOT / "bundles/pa_seg_3d/docs/paper_map.md").read_text(encoding="utf8"))
    titles = [row.cells.get("equation or section", "") for row in rows]
    assert [title for title in titles if title.startswith("Eq.")] == [f"Eq. {n}" for n in range(1, 16)]
    assert any(row.cells.keys() >= {"what", "paper", "released code", "here", "why", "config key"} for row in rows)


@pytest.mark.parametrize(
    ("what", "file", "key"),
    [
        ("Primary network", "train", "network_def"),
        ("Auxiliary network", "train", "auxiliary_def"),
        ("2.5-D U-Net", "datasets/vestibular_schwannoma", "network_def"),
    ],
)
def test_parameter_counts_that_pa_seg_gives(what, file, key):
    bundle = ROOT / "bundles/pa_seg_3d"
    rows = table_rows((bundle / "docs/paper_map.md").read_text(encoding="utf8"))
    here = next(row.cells["here"] for row in rows if row.cells.get("what") == what)
    network = ConfigParser(json.loads((bundle / f"configs/{file}.json").read_text())[key]).get_parsed_content("")
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M" in here


def test_schwannoma_crf_is_halved_within_slices_only():
    """As released: 128 x 128 x 48 becomes 64 x 64 x 48."""
    overlay = json.loads((ROOT / "bundles/pa_seg_3d/configs/datasets/vestibular_schwannoma.json").read_text())
    loss = MultiViewCRFLoss(downsample=overlay["crf_downsample"])
    assert loss._resized(tuple(overlay["patch_size"])) == (64, 64, 48)


def test_the_checkers_see_what_they_must():
    fine, wrong = "monai_ext/losses/partial.py:PartialLoss._dice", "tests/test_paper_map.py::test_none"
    assert missing_names(f"`{fine}` `{wrong}`") == [wrong]
    assert missing_names("`monai_ext/losses/none.py:f` `monai_ext/losses/partial.py:PartialLoss.none`") != []
    config = {"loss": {"_target_": "monai_ext.losses.PartialLoss"}, "epochs": 1}
    assert missing_keys("`loss#dice`, `loss#power`, `epochs`, `epoch`", config) == ["loss#power", "epoch"]
    with pytest.raises(AssertionError):
        table_rows("| a | b |\n|---|---|\n| 1 |")
