# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_ext.data check <datalist>``: what is in the data, or what is wrong with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import monai_ext
from monai_ext.data.check import check_or_exit, format_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a fault ends it with one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m monai_ext.data", description="Look after a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="explain what is wrong with a datalist, or print what it holds")
    check.add_argument("datalist", type=Path, help="the datalist's JSON file")
    check.add_argument("--dataset_dir", type=Path, help="folder of its paths; by default the datalist's own")
    check.add_argument("--bundle", help="check only what this bundle uses, and that it is all there")
    check.add_argument("--sections", nargs="+", help="of what the bundle uses, only these: 'training' without masks")
    options = parser.parse_args(arguments)
    if options.sections and options.bundle is None:
        parser.error("--sections needs --bundle")
    needs, classes = (None, None) if options.bundle is None else needs_of(options.bundle)
    if needs is not None and options.sections:
        needs = {section: needs.get(section, ["image"]) for section in options.sections}
    dataset_dir = options.dataset_dir or options.datalist.absolute().parent
    rows = check_or_exit(options.datalist, dataset_dir, needs=needs, classes=classes)
    print(format_table(rows))


def needs_of(bundle: str) -> tuple[dict[str, list[str]], int | None]:
    """Read the sections and keys that a bundle uses, and its number of classes, from its ``train.json``.

    The bundle is looked for in a folder ``bundles`` beside the package and in the current folder.

    Raises:
        SystemExit: where there is no such bundle or it does not say what it needs.
    """
    homes = [Path(monai_ext.__file__).parents[1] / "bundles", Path.cwd() / "bundles"]
    configs = {path.parents[1].name: path for home in homes for path in sorted(home.glob("*/configs/train.json"))}
    if bundle not in configs:
        raise SystemExit(
            f"--bundle: there is no bundle {bundle!r}, expected one of {', '.join(configs) or '(none found)'}."
        )
    config = json.loads(configs[bundle].read_text(encoding="utf-8"))
    needs = config.get("needs")
    if not isinstance(needs, dict):
        raise SystemExit(
            f"{configs[bundle]} (needs): {needs!r}, expected an object that names the keys of each section."
        )
    return needs, config.get("classes")


if __name__ == "__main__":
    main()
