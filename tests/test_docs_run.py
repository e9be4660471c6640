# SPDX-License-Identifier: Apache-2.0
"""Every fenced shell command of the documentation runs, in the order and the folder in which its page gives it.

A page runs in a copy of the working tree, on made-up data, as it is printed. Only numbers in the copy's configuration
files are smaller, those of ``SHRUNK``, and ``ADDED`` shortens a command. A further bundle's page joins by an entry in
``SHRUNK`` and one in ``DATA`` for each folder of data that it names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import (
    make_cell_phantoms,
    make_membrane_phantoms,
    make_phantoms,
    make_smear_phantoms,
    membrane_tile,
)
from tests.test_docs import PAGES, ROOT, commands_of

pytestmark = pytest.mark.slow

SHRUNK = {
    "pa_seg_3d": {
        "phantom": {"training": 2, "validation": 2, "test": 1, "shape": [32, 32, 24]},
        "patch_size": [32, 32, 16],
        "max_epochs": 1,
        "ramp_epochs": 1,
        "refresh_epochs": 1,
        "crf_radius": 2,
    },
    "eugmt": {
        "phantom": {"training": 2, "unlabeled": 4, "validation": 2, "test": 2, "size": 32},
        "patch_size": [32, 32],
        "max_epochs": 1,
        "batch_size": 2,
        "mix_grid": 4,
    },
    "cks": {
        "phantom": {"training": 2, "validation": 2, "test": 2, "size": 64, "diameter_px": 12},
        "backbone_size": "micro",
        "channels": 8,
        "mask_channels": 8,
        "window_px": 32,
        "crop_px": [48, 48],
        "max_epochs": 1,
        "epoch_iterations": 2,
        "finetune_epochs": 1,
        "warm_up_iterations": 1,
    },
    "mmt_psm": {
        "phantom": {
            "training": 2,
            "unlabeled": 2,
            "validation": 2,
            "test": 2,
            "size": 64,
            "diameter_px": 24,
            "spread": 1,
        },
        "backbone": "resnet18",
        "channels": 16,
        "hidden": 16,
        "proposals": 20,
        "box_samples": 16,
        "crop_px": [64, 64],
        "max_epochs": 2,
        "epoch_iterations": 2,
        "start_iteration": 2,
        "teacher_start": 2,
    },
    "cps_csingan": {
        "phantom": {"training": 3, "validation": 2, "test": 1, "size": 128, "diameter_px": 14},
        "patch_px": 64,
        "patches": 2,
        "smallest_px": 48,
        "scale_epochs": 2,
        "passes": 1,
        "masks": 2,
        "pairs": 2,
        "backbone": "resnet18",
        "pyramid_channels": 16,
        "hidden": 16,
        "proposals": 20,
        "box_samples": 16,
        "round_epochs": 1,
        "rounds": 1,
        "epoch_iterations": 1,
        "val_interval": 1,
        "pseudo_labels": 4,
        "channels": 4,
        "batch_size": 1,
        "hover_mode": "fast",
    },
}
"""Bundle to key to value, wherever the key has a plain value in its configurations and in its tables' values."""

ADDED = {"scripts/compare_rows.py": ["--seeds", "0"]}
"""Script to what is appended to its command. Of a table, one row stays beside those that it starts from."""

EXCEPTED = {
    "pip install": "installs several GB; scripts/test.sh installs from the same setup.cfg",
    "bash scripts/test.sh": "runs this very test",
}
"""Beginning of a command that is not run, and why."""

PROGRAMS = {
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}
"""Program to what starts it in the environment that the tests run in."""

WITH_COMMANDS = [page for page in PAGES if commands_of(page.read_text(encoding="utf8"))]
TIMEOUT_S = 300


def phantoms(folder: Path, bundle: str = "pa_seg_3d") -> None:
    """A data set in the project's layout, as small as the bundle's own phantoms."""
    make_phantoms(folder, **SHRUNK[bundle]["phantom"])


def hippocampus(folder: Path) -> None:
    """The Decathlon's layout: one phantom under all the names that the committed splits give."""
    phantoms(folder / "phantom")
    splits = sorted((ROOT / "scripts/splits").glob("msd_hippocampus*.json"))
    names = {name for split in splits for name in re.findall(r"[\w.-]+\.nii\.gz", split.read_text(encoding="utf8"))}
    for kind in ("images", "labels"):
        (folder / f"{kind}Tr").mkdir()
        for name in names:
            (folder / f"{kind}Tr" / name).symlink_to(folder / "phantom" / kind / "phantom_training_000.nii.gz")


def tiles(folder: Path) -> None:
    """A set of tiles in the project's layout."""
    make_membrane_phantoms(folder, **SHRUNK["eugmt"]["phantom"])


def cells(folder: Path) -> None:
    """A set of cells in the project's layout."""
    make_cell_phantoms(folder, **SHRUNK["cks"]["phantom"])


def stained_nuclei(folder: Path) -> None:
    """Pictures of nuclei alone."""
    cells(folder / "phantom")
    for path in (folder / "phantom/images").glob("*.png"):
        shutil.move(path, folder / path.name)
    shutil.rmtree(folder / "phantom")


def fluorescence(folder: Path) -> None:
    """The Data Science Bowl's files: one picture under all the names that the committed split gives."""
    cells(folder / "phantom")
    split = (ROOT / "scripts/splits/dsb2018_fluorescence.json").read_text(encoding="utf8")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for name in set(re.findall(r"\b[0-9a-f]{16}\b", split)):
            shutil.copy(folder / "phantom" / kind / "phantom_training_000.png", folder / kind / f"{name}.png")


def fields(folder: Path) -> None:
    """Four fields of tissue and, beside them, masks of three."""
    masks = folder.with_name("masks")
    for path in (folder, masks):
        path.mkdir(parents=True)
    for number in range(4):
        image, mask = membrane_tile(256, rng=np.random.default_rng(number))
        Image.fromarray(image).save(folder / f"field_{number}.png")
        if number:
            Image.fromarray(mask * 255).save(masks / f"field_{number}.png")


def histology(folder: Path) -> None:
    """The Data Science Bowl's files: one picture under all the names that the committed split gives."""
    image, mask = membrane_tile(64, rng=np.random.default_rng(0))
    split = json.loads((ROOT / "scripts/splits/dsb2018_histology.json").read_text(encoding="utf8"))
    for kind, pixels in (("images", image), ("labels", mask.astype(np.uint16))):
        (folder / kind).mkdir(parents=True)
        for name in (name for groups in split.values() for names in groups.values() for name in names):
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def smears(folder: Path) -> None:
    """A set of smears in the project's layout, and label maps of its pictures beside it."""
    make_smear_phantoms(folder, **SHRUNK["mmt_psm"]["phantom"])
    for kind in ("cytoplasm", "nuclei"):
        (folder / kind).mkdir()
        for path in (folder / "images").glob("*.png"):
            Image.fromarray((np.asarray(Image.open(path))[..., 0] < 100).astype(np.uint16)).save(
                folder / kind / path.name
            )


def cervical(folder: Path) -> None:
    """The Data Science Bowl's fields: a made-up one under all the names that the committed split gives."""
    rng = np.random.default_rng(0)
    label = np.zeros((256, 256), dtype=np.uint16)
    label[20:40, 30:50] = 1
    split = (ROOT / "scripts/splits/dsb2018_cervical.json").read_text(encoding="utf8")
    for kind, pixels in (("images", rng.integers(0, 255, label.shape, dtype=np.uint8)), ("labels", label)):
        (folder / kind).mkdir(parents=True)
        for name in set(re.findall(r"edf_\d+", split)):
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")


DATA = {
    "data/my_tumours": phantoms,
    "data/mine": phantoms,
    "data/msd_hippocampus": phantoms,
    "data/brats2019": phantoms,
    "Task04_Hippocampus": hippocampus,
    "data/fields": fields,
    "data/dsb2018_histology": tiles,
    "data/her2": tiles,
    "data/cnseg": tiles,
    "dsb2018_histology": histology,
    "data/dsb2018_fluorescence": cells,
    "data/livecell": cells,
    "data/a431": cells,
    "data/tissuenet": cells,
    "data/nuclei": stained_nuclei,
    "data/my_cells": cells,
    "dsb2018_fluorescence": fluorescence,
    "data/smears": smears,
    "dsb2018_cervical_cytology": cervical,
}
"""Folder that the pages or the data set overlays name, and what makes it."""


def copy_working_tree(tree: Path) -> None:
    """Copies what git does not ignore, committed or not: to an empty repository every file is new."""
    empty = tree.with_name("empty.git")
    git = ["git", f"--git-dir={empty}", f"--work-tree={ROOT}"]
    subprocess.run(["git", "init", "--quiet", "--bare", empty], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    (tree / "scripts/_environment.sh").write_text(f"cd {shlex.quote(str(tree))}  # installs nothing\n")


def shrink_configs(tree: Path) -> None:
    """Writes the values of ``SHRUNK`` into the copy; a key that stands nowhere is an error."""
    for bundle, values in SHRUNK.items():
        found: set[str] = set()
        configs = (tree / "bundles" / bundle / "configs").rglob("*.json")
        for path in [*configs, *(tree / "scripts/tables").glob(f"{bundle}_*.json")]:
            content = json.loads(path.read_text(encoding="utf8"))
            if "rows" in content:
                content["rows"] = one_chain(content["rows"])
            content = shrunk(content, values, found)
            for row in content.get("rows", {}).values():
                if "supervised_dir" in row.get("after", {}):  # goes on from another, which has to end before it
                    content["rows"][row["after"]["supervised_dir"]]["values"]["max_epochs"] = 1
            path.write_text(json.dumps(content), encoding="utf8")
        assert found == values.keys(), f"{bundle} has no {values.keys() - found}"


def shrunk(node: dict[str, Any], values: dict[str, Any], found: set[str]) -> dict[str, Any]:
    """``node`` with ``values`` in place of values of the same type, at any depth of dictionaries."""
    changed = {}
    for key, value in node.items():
        if key in values and type(value) is type(values[key]):
            found.add(key)
            changed[key] = values[key]
        else:
            changed[key] = shrunk(value, values, found) if isinstance(value, dict) else value
    return changed


def one_chain(rows: dict[str, Any]) -> dict[str, Any]:
    """The first row that starts from others and these others; without such a row, the first."""
    last = next((name for name, row in rows.items() if row.get("after")), next(iter(rows)))
    sources = [source for source in rows[last].get("after", {}).values() if isinstance(source, str)]  # no stages
    return {name: rows[name] for name in [*sources, last]}


@pytest.fixture
def tree(tmp_path):
    """Copy of the working tree, made small, with the data that the pages name."""
    tree = tmp_path / "frugal"
    copy_working_tree(tree)
    shrink_configs(tree)
    for folder, make in DATA.items():
        make(tree / folder)
    yield tree
    shutil.rmtree(tree)  # the weights of every command, hundreds of megabytes


def environment(tree: Path) -> dict[str, str]:
    """One thread, no GPU, this Python for scripts too, and the copy's package before the installed one."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return os.environ | {"PATH": path, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(words: list[str], folder: Path, tree: Path) -> str | None:
    """Runs one command; what went wrong, with the end of what it printed, or None."""
    added = [option for script, options in ADDED.items() if script in words for option in options]
    command = [*PROGRAMS.get(words[0], words[:1]), *words[1:], *added]
    # A file, not a pipe: a pipe held open by a process's child would outlast the timeout.
    log, started = tree.with_name("log.txt"), time.monotonic()
    try:
        with log.open("w") as out:
            done = subprocess.run(
                command, cwd=folder, env=environment(tree), stdout=out, stderr=out, timeout=TIMEOUT_S, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}\n{log.read_text()[-8000:]}"
    printed = log.read_text(encoding="utf8", errors="replace")
    print(f"{time.monotonic() - started:6.1f} s  {shlex.join(words)}")
    if done.returncode == 0 and "Traceback (most recent call last)" not in printed:
        return None
    return f"exit status {done.returncode}\n{printed[-8000:]}"


def run_page(page: Path, text: str, tree: Path) -> str | None:
    """Runs a page's commands up to the first that fails; that one and what went wrong, or None."""
    folder = tree
    for words in commands_of(text):
        line, wrong = shlex.join(words), None
        if words[0] == "cd":
            folder = folder / words[1]
            wrong = None if folder.is_dir() else "no such folder"
        elif not line.startswith(tuple(EXCEPTED)):
            wrong = run(words, folder, tree)
        if wrong is not None:
            return f"{line}\nin {folder}: {wrong}"
    return None


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(page, tree):
    where = [sys.executable, "-c", "import monai_ext; print(monai_ext.__file__)"]
    imported = subprocess.run(where, env=environment(tree), cwd=tree.parent, check=True, capture_output=True, text=True)
    assert Path(imported.stdout.strip()) == tree / "monai_ext/__init__.py", "the commands would test another copy"
    failed = run_page(tree / page.relative_to(ROOT), page.read_text(encoding="utf8"), tree)
    assert failed is None, failed


def test_readme_and_every_bundle_have_commands():
    expected = {ROOT / "README.md", *ROOT.glob("bundles/*/docs/README.md")}
    assert expected <= set(WITH_COMMANDS)


@pytest.mark.parametrize("beginning", EXCEPTED)
def test_exception_is_needed(beginning):
    lines = [shlex.join(words) for page in PAGES for words in commands_of(page.read_text(encoding="utf8"))]
    assert any(line.startswith(beginning) for line in lines), f"no page gives {beginning!r} any more"


MADE_UP = {
    "exit status": "python -c 'raise SystemExit(3)'",
    "traceback": "python -c 'print(\"Traceback (most recent call last):\")'",
    "no such script": "python scripts/none.py",
    "no such program": "no-such-program --help",
    "no such folder": "cd nowhere",
    "wrong folder": "cd deep && python scripts/good.py",
}


@pytest.mark.parametrize("wrong", MADE_UP)
def test_wrong_command_is_reported(wrong, tmp_path):
    tree = tmp_path / "tree"
    (tree / "scripts").mkdir(parents=True)
    (tree / "deep").mkdir()
    (tree / "scripts/good.py").write_text("open('ran.txt', 'a').write('x')\n")
    page = "Text.\n\n```bash\npython scripts/good.py  # runs\n{}\npython scripts/good.py\n```\n"
    assert run_page(tree / "README.md", page.format("cd deep && cd .."), tree) is None
    assert (tree / "ran.txt").read_text() == "xx"
    failed = run_page(tree / "README.md", page.format(MADE_UP[wrong]), tree)
    assert failed is not None
    assert failed.startswith(shlex.join(commands_of(page.format(MADE_UP[wrong]))[-2])), failed
    assert (tree / "ran.txt").read_text() == "xxx", "went on after the fault"
