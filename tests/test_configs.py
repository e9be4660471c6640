# SPDX-License-Identifier: Apache-2.0
"""What every bundle's configuration files promise, read without running them."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest

from monai_ext.bundle.overrides import unknown_keys

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(path.parent for path in ROOT.glob("bundles/*/configs"))
FILES = [path for bundle in BUNDLES for path in sorted(bundle.glob("configs/**/*.json"))]
STAGES = {"select", "train_gan", "synthesize"}
"""Configurations that stand by themselves, beside ``train.json``."""
WHOLE = {"train", "inference", "metadata"} | STAGES
OF_STAGE = {
    "k_means": "select", "random_crop": "select", "random_centre_crop": "select", "without_second_term": "select",
    "without_third_term": "select", "without_component_critics": "train_gan", "small_gan": "train_gan",
}  # fmt: skip
"""Overlay of a stage, by name, to what it overlays."""
EVERYWHERE = {"hover_net"}
"""Overlays of training, evaluation and inference alike."""
STAGE_TWO = re.compile(r"cross_pseudo_supervision|co_teaching|.*scm.*")
ADDED = {"initialize", "run", "finalize", "training", "evaluating", "inference"}
METADATA = {
    "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
    "required_packages_version", "task", "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
SMOKE = {
    "phantom_dir", "phantom", "patch_size", "batch_size", "max_epochs", "ramp_epochs", "refresh_epochs", "crf_radius",
    "mix_grid", "progress", "crop_px", "epoch_iterations", "finetune_epochs", "warm_up_iterations",
    "start_iteration", "teacher_start", "rise_iterations", "fall_iterations", "erased_px", "learning_rate",
    "patches_dir", "patch_px", "patches", "round_epochs", "rounds", "val_interval", "pseudo_labels", "smallest_px",
    "channels", "masks", "scale_epochs", "passes", "critic_updates", "pairs",
}  # fmt: skip
MONAI_HOMES = ("transforms", "data", "networks.nets", "engines", "handlers", "inferers", "losses", "metrics")


def name_of(path: Path) -> str:
    return "/".join((path.relative_to(ROOT / "bundles").parts[0], path.parent.name, path.stem))


@cache
def read(path: Path) -> dict[str, Any]:
    """The file's content; a doubled key, which JSON readers drop silently, is an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{path}: a key given twice among {keys}"
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf8"), object_pairs_hook=unique)


def strings(node: Any) -> list[str]:
    """All string values within a configuration, keys left out."""
    if isinstance(node, dict | list):
        return [s for child in (node.values() if isinstance(node, dict) else node) for s in strings(child)]
    return [node] if isinstance(node, str) else []


def targets(node: Any) -> list[str]:
    """All ``_target_`` of a configuration that are names, not references."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node["_target_"]] if isinstance(node, dict) and not node.get("_target_", "@").startswith("@") else []
    return own + [target for child in children for target in targets(child)]


def base_of(path: Path) -> dict[str, Any]:
    """The configuration that an overlay stands on."""
    configs = next(folder for folder in path.parents if folder.name == "configs")
    if path.stem.startswith("inference"):
        return read(configs / "inference.json")
    if path.stem in EVERYWHERE:
        return read(configs / "inference.json") | read(configs / "train.json")
    if path.stem in OF_STAGE:
        return read(configs / f"{OF_STAGE[path.stem]}.json")
    if path.stem in ("smoke", "demo") or path.parent.name == "datasets":
        return stages_of(configs.parent)
    second = configs / "train_scm.json"
    return read(configs / "train.json") | (read(second) if STAGE_TWO.fullmatch(path.stem) and second.exists() else {})


def stages_of(bundle: Path) -> dict[str, Any]:
    """Keys of all stages, those of ``train.json`` over the others'."""
    others = sorted(path for path in bundle.glob("configs/*.json") if path.stem in STAGES or "train_" in path.stem)
    return {k: v for path in others for k, v in read(path).items()} | read(bundle / "configs/train.json")


def data_keys(bundle: Path) -> set[str]:
    """Keys that a data set owns, from the table in the bundle's README."""
    readme = (bundle / "docs/README.md").read_text(encoding="utf8")
    section = readme.split("## Keys that a data set owns\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| *`(\w+)`", section, re.MULTILINE))


def strange_strings(config: Any) -> list[str]:
    """Strings that MONAI would change ('#' outside a reference), and absolute paths."""
    loose = (re.sub(r"[@%]#*[\w./]+(#\w+)*", "", text) for text in strings(config))
    hashes = [text for text, rest in zip(strings(config), loose, strict=True) if "#" in rest]
    absolute = re.compile(r"^[/~]|^[A-Za-z]:\\|(?<!\+ )['\"][/~]|/(home|root|tmp|work|mnt|Users)/")
    return hashes + [text for text in strings(config) if absolute.search(text)]


OVERLAYS = [path for path in FILES if path.stem not in WHOLE]
DATA_SETS = [path for path in FILES if path.parent.name == "datasets"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_is_clean_and_names_what_exists(path):
    config = read(path)
    assert path.stem == "metadata" or not strange_strings(config)
    for target in targets(config):
        if "." in target:
            assert locate(target) is not None, f"{path}: cannot locate {target}"
        else:
            assert any(hasattr(import_module(f"monai.{home}"), target) for home in MONAI_HOMES), f"{path}: {target}"


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_overlay_changes_what_is_there(path):
    overlay = {k: v for k, v in read(path).items() if path.stem != "train_scm" or "#" in k}  # a stage adds keys
    helpers = {key for key in overlay if re.search(rf"@{re.escape(key)}\b", " ".join(strings(overlay)))}  # its own
    unknown = [key for key in unknown_keys(base_of(path), overlay) if key not in ADDED | helpers]
    assert not unknown, f"{path}: {unknown} not in the configuration that it overlays"


@pytest.mark.parametrize("path", DATA_SETS, ids=name_of)
def test_data_set_overlay_is_short_and_owns_its_keys(path):
    assert len(path.read_text(encoding="utf8").splitlines()) <= 25
    assert read(path).keys() <= data_keys(path.parents[2]), f"{path}: keys that no data set owns"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_bundle(bundle):
    train, inference, smoke = (read(bundle / f"configs/{name}.json") for name in ("train", "inference", "smoke"))
    stages = stages_of(bundle)
    assert data_keys(bundle) <= stages.keys()
    for key in data_keys(bundle) & inference.keys():
        assert inference[key] == train[key], f"{key} differs between training and inference"
    assert smoke.keys() <= SMOKE
    for key in smoke.keys() - {"phantom_dir", "patches_dir", "progress"}:
        assert _shrinks(smoke[key], stages[key]), f"{key} does not shrink"
    metadata = read(bundle / "configs/metadata.json")
    assert metadata.keys() >= METADATA
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["version"] in metadata["changelog"]
    assert [list(metadata["network_data_format"][side]) for side in ("inputs", "outputs")] == [["image"], ["pred"]]


def _shrinks(small: Any, full: Any) -> bool:
    if isinstance(full, dict):
        return small.keys() == full.keys() and all(_shrinks(small[key], full[key]) for key in full)
    if isinstance(full, list):
        return len(small) == len(full) and all(map(_shrinks, small, full))
    return small <= full


def test_the_checkers_see_what_they_must(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(AssertionError, match="twice"):
        read(tmp_path / "a.json")
    for good in ("@train#step", "$@a#b + '/x'", "%train.json#a#b", "@##x", "$@phantom_dir + '/output/a'", "4 / 2"):
        assert not strange_strings([good]), good
    for bad in ("#ff0000", "colour #1", "$f('#')", "/data/x", "~/x", "$'/x'", "C:\\x"):
        assert strange_strings([bad]), bad
    assert not _shrinks({"a": [1, 3]}, {"a": [2, 2]})
    assert not _shrinks({"a": 1}, {"b": 1})
