# SPDX-License-Identifier: Apache-2.0
"""The files, options and run IDs that the documentation's commands and links name exist.

A page's commands start at the repository's root; ``cd`` holds through the page.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from itertools import dropwhile, groupby
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_ext.bundle.overrides import RUN_ARGUMENTS, unknown_keys

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bundles/README.md") if (ROOT / name).exists()),
    *sorted(ROOT.glob("bundles/*/docs/*.md")),
]
FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def commands_of(text: str) -> list[list[str]]:
    """Words of every command in a page's fenced shell blocks; comments, prompts and variables before it left out."""
    commands = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            for joint, part in groupby(words, key=lambda word: word in ("&&", "||", "|", ";")):
                command = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), part))
                commands += [command] if command and not joint else []
    return commands


def faults_of(words: list[str], folder: Path) -> list[str]:
    """What a command names and does not exist, when it is given in ``folder``."""
    if words[0] == "bash":
        return _missing([words[1]], folder)
    if words[0] not in ("python", "python3", "torchrun"):
        return []
    if "-m" in words:
        module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        if module == "monai.bundle":
            return _bundle_faults(rest, folder)
        source = ROOT / module.replace(".", "/")
        source = source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
        return _option_faults(source, rest, folder) if module.startswith("monai_ext") else []
    rest = list(dropwhile(lambda word: not word.endswith(".py"), words))
    return _option_faults(folder / rest[0], rest, folder) if rest else []


def _missing(names: list[str], folder: Path) -> list[str]:
    return [f"{name}: no such file from {folder}" for name in names if not (folder / name).exists()]


def _options(words: list[str]) -> dict[str, str]:
    following = [*words[1:], ""]
    pairs = [(word[2:].partition("="), after) for word, after in zip(words, following, strict=True) if word[:2] == "--"]
    return {name: value if equals else after for (name, equals, value), after in pairs}


def _bundle_faults(words: list[str], folder: Path) -> list[str]:
    options = _options(words)
    value = options.get("config_file", "")
    files = list(ast.literal_eval(value)) if value.startswith("[") else [value] * bool(value)
    faults = _missing(files, folder)
    if faults or words[0] != "run":
        return faults
    config = ConfigParser.load_config_files([str(folder / file) for file in files])
    run_id = words[1] if len(words) > 1 and not words[1].startswith("--") else options.get("run_id", "run")
    faults += [] if run_id in config else [f"{run_id}: no such run ID in {files}"]
    keys = [key for key in options if key not in RUN_ARGUMENTS]
    return faults + [f"--{key}: no such key in {files}" for key in unknown_keys(config, keys)]


def _option_faults(source: Path, words: list[str], folder: Path) -> list[str]:
    if not source.exists():
        return _missing([str(source)], folder)
    known = accepted(source) | {"help"}
    return [f"--{key}: {source.name} has no such option" for key in _options(words) if key not in known]


@cache
def accepted(source: Path) -> frozenset[str]:
    """Option names that a script and the helper files beside it spell out."""
    tree = ast.parse(source.read_text(encoding="utf8"))
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    names = {text[2:] for text in constants if isinstance(text, str) and re.fullmatch(r"--[\w-]+", text)}
    helpers = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for helper in (source.with_name(f"{name}.py") for name in helpers if name.startswith("_")):
        names |= accepted(helper) if helper.exists() else set()
    return frozenset(names)


def page_faults(page: Path, text: str) -> list[str]:
    """Everything that a page's commands and relative links name and that does not exist."""
    folder, faults = ROOT, []
    for words in commands_of(text):
        if words[0] == "cd":
            folder = folder / words[1]
            faults += [] if folder.is_dir() else [f"cd {words[1]}: no such folder"]
        else:
            faults += [f"{shlex.join(words)}: {fault}" for fault in faults_of(words, folder)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in LINK.findall(prose) if not re.match(r"\w+:", link)]
    return faults + _missing([link for link in links if link], page.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_what_exists(page):
    found = page_faults(page, page.read_text(encoding="utf8"))
    assert not found, "\n".join(found)


TRAIN = (
    "cd bundles/pa_seg_3d && python -m monai.bundle run {} "
    "--config_file \"['configs/train.json','configs/smoke.json']\" --{} 1"
)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (TRAIN.format("training", "max_epochs"), False),
        (TRAIN.format("training", "epochs"), True),
        (TRAIN.format("trainig", "max_epochs"), True),
        ("A=1 torchrun --nproc_per_node=2 -m monai.bundle run --config_file configs/none.json", True),
        ("python scripts/seed_curve.py a.json --section test \\\n  --costs gradient", False),
        ("python scripts/seed_curve.py a.json --sections test", True),
        ("cd bundles && cd .. && python scripts/prepare_msd_hippocampus.py in --out data/x", False),
        ("cd bundles && python scripts/seed_curve.py a.json", True),
        ("python -m monai_ext.data check a.json --bundle pa_seg_3d  # --none", False),
        ("python -m monai_ext.data check a.json --bundel pa_seg_3d", True),
        ("bash scripts/none.sh", True),
    ],
)
def test_the_checker_sees_what_it_must(line, wrong):
    page = ROOT / "bundles/pa_seg_3d/docs/README.md"
    assert bool(page_faults(page, f"```bash\n{line}\n```\n")) is wrong


def test_links_are_followed():
    text = "[a](paper_map.md#x) [b](https://example.org) [c](#top) ![d](none.png) [e](../none.md)"
    assert len(page_faults(ROOT / "bundles/pa_seg_3d/docs/README.md", text)) == 2
