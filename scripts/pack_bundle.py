# SPDX-License-Identifier: Apache-2.0
"""Pack a bundle so that it runs where ``monai_ext`` is not installed, as MONAI Label and MONAI Deploy take it.

    python scripts/pack_bundle.py bundles/cks --overlays small datasets/dsb2018_fluorescence --out packed --zip

``<out>/<name>`` is the bundle with its weights (``models/model.pt``, or ``--weights``) and a copy of ``monai_ext`` as
its package ``scripts``, the name that these applications keep apart from other bundles'; the configurations name it so.
It is run from its own folder. ``--overlays`` are what training put after ``train.json``: of each, the keys that
``inference.json`` has are written into it, so that it needs no other file. ``--zip`` makes ``<name>_v<version>.zip``
besides.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "monai_ext"
NAME = re.compile(r"\bmonai_ext(?=\.)|(?<=^import )monai_ext\b|(?<=^from )monai_ext\b", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and pack."""
    options = _parser().parse_args(arguments)
    source = options.bundle.resolve()
    target = options.out.resolve() / source.name
    if not (source / "configs/inference.json").is_file():
        raise SystemExit(f"{options.bundle}: found no configs/inference.json in it, expected a bundle's folder.")
    weights = options.weights or source / "models/model.pt"
    if not weights.is_file():
        raise SystemExit(f"{weights}: there is no such file; train first, or give --weights.")
    if target.exists():
        raise SystemExit(f"{target}: is there already; remove it, or give another --out.")
    overlays = [source / f"configs/{name}.json" for name in options.overlays]
    for file in overlays:
        if not file.is_file():
            raise SystemExit(f"{file}: there is no such overlay.")
    _copy(source, target, overlays)
    (target / "models").mkdir()
    shutil.copy(weights, target / "models/model.pt")
    print(f"packed: {target}")
    if options.zip:
        version = json.loads((target / "configs/metadata.json").read_text(encoding="utf8"))["version"]
        archive = target.parent / f"{target.name}_v{version}"
        print(f"packed: {shutil.make_archive(str(archive), 'zip', target.parent, target.name)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--overlays", nargs="*", default=[], help="names under configs/, without .json")
    parser.add_argument("--weights", type=Path, help="default: models/model.pt in the bundle's folder")
    parser.add_argument("--out", type=Path, default=Path("packed"), help="folder to write to")
    parser.add_argument("--zip", action="store_true", help="make an archive besides")
    return parser


def _copy(source: Path, target: Path, overlays: Sequence[Path]) -> None:
    """Configurations and papers of the bundle, and the package under its new name."""
    for name in ("configs", "docs"):
        shutil.copytree(source / name, target / name)
    shutil.copy(source / "LICENSE", target / "LICENSE")
    shutil.copytree(PACKAGE, target / "scripts", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    inference = target / "configs/inference.json"
    merged = json.loads(inference.read_text(encoding="utf8"))
    for overlay in overlays:
        _merge(merged, json.loads(overlay.read_text(encoding="utf8")))
    inference.write_text(json.dumps(merged, indent=4) + "\n", encoding="utf8")
    for file in [*(target / "configs").rglob("*.json"), *(target / "scripts").rglob("*.py")]:
        file.write_text(NAME.sub("scripts", file.read_text(encoding="utf8")), encoding="utf8")


def _merge(config: dict[str, Any], overlay: dict[str, Any]) -> None:
    """Set the keys that ``config`` has, ``a#b`` within ``a``; others are training's."""
    for key, value in overlay.items():
        place, names = config, re.split("#|::", key)
        while len(names) > 1 and isinstance(place.get(names[0]), dict):
            place = place[names.pop(0)]
        if len(names) == 1 and names[0] in place:
            place[names[0]] = value


if __name__ == "__main__":
    main()
