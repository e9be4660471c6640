# SPDX-License-Identifier: Apache-2.0
"""Stage one of CPS and CSinGAN: which patches are annotated, run as MONAI's ``ConfigWorkflow`` and as a command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from torchvision.models import resnet50

from monai_ext.bundle.overrides import unknown_keys
from monai_ext.data import check_datalist, make_histology_phantoms
from monai_ext.networks import PatchFeatures

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "bundles/cps_csingan/configs"
PHANTOM = {"training": 3, "validation": 1, "test": 1, "size": 128, "diameter_px": 14}
TINY = {"phantom": PHANTOM, "patch_px": 64, "stride_px": 32, "patches": 2, "progress": False}
ABLATIONS = {
    "random_crop": {"method": "random_windows", "number": 2, "seed": 21},
    "random_centre_crop": {"method": "random_centres", "number": 2, "seed": 21},
    "k_means": {"weights": [1, 0, 0]},
    "without_second_term": {"weights": [1, 0, 1]},
    "without_third_term": {"weights": [1, 1, 0]},
}
SHARES = {  # of the training pixels: images, height, width, and what is printed for it
    "dsb2018_histology": (32, 256, 320, 0.05),
    "kumar": (12, 1000, 1000, 0.0492),
    "monuseg": (30, 1000, 1000, 0.0393),
    "tnbc": (30, 500, 500, 0.0524),
}


class Select:
    """The stage on small phantoms; writes under ``root``."""

    def __init__(self, root, phantom_dir):
        self.root, self.phantom_dir = root, phantom_dir

    def workflow(self, *overlays, **overrides):
        values = {"bundle_root": str(self.root), "phantom_dir": str(self.phantom_dir), **TINY, **overrides}
        files = [str(CONFIGS / f"{name}.json") for name in ("select", *overlays)]
        return ConfigWorkflow(files, workflow_type="train", logging_file=False, **values)

    def run(self, *overlays, **overrides):
        """Gives the folder of the patches and what ``selection.json`` says."""
        workflow = self.workflow(*overlays, **overrides)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        out = self.root / "output/selection"
        return out, json.loads((out / "selection.json").read_text())

    def own_data(self, *, labels):
        """A researcher's set: the phantoms' training images with other label files, or none."""
        content = json.loads((self.phantom_dir / "datalist.json").read_text())
        entries = content["training"]
        for entry in entries:
            for key in ("image", "label"):
                file = self.root / "data" / entry[key]
                file.parent.mkdir(parents=True, exist_ok=True)
                if key == "image":
                    file.write_bytes((self.phantom_dir / entry[key]).read_bytes())
                elif labels is not None:
                    file.write_text(labels)
        (self.root / "data/datalist.json").write_text(json.dumps({"labels": content["labels"], "training": entries}))
        return {"dataset_dir": str(self.root / "data")}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histology")
    make_histology_phantoms(folder, **PHANTOM)
    return folder


@pytest.fixture
def select(tmp_path, phantoms):
    return Select(tmp_path / "bundle", phantoms)


def test_phantoms_are_chosen_from_and_annotated(select):
    out, content = select.run()
    assert content["method"] == "select_patches"
    assert (content["clusters"], content["fine_clusters"], content["weights"]) == (2, 4, [1, 1, 1])
    assert (content["candidates"], content["seeds"], content["scale"]) == ("all", [42, 500], True)
    assert (content["features"], content["mode"], content["stride_px"]) == ("stain_texture", "exact", 32)
    assert content["source"] == {"network": "none", "weights": "none"}
    assert content["windows"] == 3 * 9
    assert content["share_of_pixels"] == pytest.approx(2 * 64**2 / (3 * 128**2))
    (row,) = check_datalist(out / "datalist.json", out, needs={"training": ["image", "label"]})
    assert row.shapes == [(64, 64)] * 2
    for patch in content["patches"]:
        rows, columns = (slice(patch[side], patch[side] + 64) for side in ("row", "column"))
        for kind, folder in (("images", "patches"), ("labels", "labels")):
            whole = np.asarray(Image.open(select.phantom_dir / kind / Path(patch["image"]).name))[rows, columns]
            found = np.asarray(Image.open(out / folder / f"{patch['name']}.png"))
            if kind == "images":
                np.testing.assert_array_equal(found, whole)
            else:
                assert found.max() == len(np.unique(whole[whole > 0])) > 0
                np.testing.assert_array_equal(found > 0, whole > 0)
    assert {path.name for path in out.iterdir()} == {
        "annotate", "clusters.png", "contact_sheet.png", "datalist.json", "labels", "patches", "selection.json",
    }  # fmt: skip
    assert len(list((select.root / "output/features").iterdir())) == 3


@pytest.mark.parametrize("labels", [None, "no label map"])
def test_no_mask_is_read(select, labels):
    """With label files that are missing or garbage the same patches are chosen, and none gets a label."""
    own, content = select.run(**select.own_data(labels=labels), features="stain_texture")
    assert not (own / "labels").exists()
    _, expected = select.run()
    assert content == expected


def test_a_labelled_set_of_ones_own_is_annotated_where_asked(select):
    data = select.own_data(labels="no label map")
    workflow = select.workflow(**data, features="stain_texture", annotate=True)
    with pytest.raises(SystemExit, match=r"labels/phantom_training_000\.png \(label\): it cannot be read"):
        workflow.initialize()


def test_the_papers_features_and_where_they_are_from(select, tmp_path):
    torch.manual_seed(0)
    torch.save(resnet50(weights=None).state_dict(), tmp_path / "r50.pth")
    data = select.own_data(labels=None)
    _, content = select.run(**data, feature_weights=str(tmp_path / "r50.pth"), mode="dense")
    assert (content["features"], content["mode"], content["scale"]) == ("resnet50", "dense", False)
    digest = hashlib.sha256((tmp_path / "r50.pth").read_bytes()).hexdigest()
    assert content["source"] == {"network": "resnet50", "weights": "r50.pth", "sha256": digest}
    assert len(content["patches"]) == 2


def test_dense_picks_are_judged_by_the_exact_features_of_a_short_list(select):
    """The third term of Eq. 1 is of the window alone, so that the patch's file tells it."""
    data = select.own_data(labels=None)
    network, apart = PatchFeatures(), {}
    for cheapest in (2, 0):
        options = {"features": "random", "mode": "dense", "short_list#cheapest": cheapest, "short_list#spread": 3}
        out, content = select.run(**data, **options)
        assert (content["cheapest"], content["spread"]) == (cheapest, 3)
        apart[cheapest] = []
        for patch in content["patches"]:
            pixels = np.asarray(Image.open(out / f"patches/{patch['name']}.png"))
            window = torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))
            quarters = network(window.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2).transpose(0, 1))
            apart[cheapest].append((patch["terms"][2], float(torch.cdist(quarters, quarters).max())))
    for found, expected in apart[2]:
        assert found == pytest.approx(expected, rel=1e-3)
    for found, expected in apart[0]:
        assert found != pytest.approx(expected, rel=0.1), "by the map"


def test_every_ablation_is_a_row_here():
    assert ABLATIONS.keys() == {path.stem for path in (CONFIGS / "ablations").glob("*.json")} & ABLATIONS.keys()
    assert SHARES.keys() == {path.stem for path in (CONFIGS / "datasets").glob("*.json")}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_chooses_as_its_row_says(select, phantoms, name):
    store = {"store_dir": str(phantoms / "features")}  # of all rows: found again, not made again
    _, content = select.run(f"ablations/{name}", **store)
    assert ABLATIONS[name].items() <= content.items()
    assert len(content["patches"]) == 2
    if "weights" in ABLATIONS[name]:
        weights = np.array(ABLATIONS[name]["weights"])
        assert all(patch["cost"] == pytest.approx(weights @ patch["terms"]) for patch in content["patches"])
    else:
        assert content["features"] == "none"


@pytest.mark.parametrize("name", [*(f"ablations/{name}" for name in ABLATIONS), *(f"datasets/{n}" for n in SHARES)])
def test_overlay_changes_what_is_there(name):
    base, overlay = (json.loads((CONFIGS / f"{n}.json").read_text()) for n in ("select", name))
    assert unknown_keys(base, overlay) == []


@pytest.mark.parametrize("name", SHARES)
def test_share_of_the_pixels_of_each_set(name):
    base, overlay = (json.loads((CONFIGS / f"{n}.json").read_text()) for n in ("select", f"datasets/{name}"))
    images, height, width, share = SHARES[name]
    values = base | overlay
    assert values["patches"] * values["patch_px"] ** 2 / (images * height * width) == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({}, ["feature_weights: found none", "IMAGENET1K_V1"]),
        ({"feature_weights": "none.pth"}, ["none.pth", "no such file"]),
        ({"features": "textures"}, ["features: found 'textures'"]),
        ({"features": "stain_texture", "mode": "dense"}, ["mode: found 'dense'"]),
        ({"features": "stain_texture", "patch_px": 400}, ["images are smaller", "400 px or more"]),
        ({"features": "stain_texture", "datalist": "none.json"}, ["none.json", "cannot be opened"]),
    ],
)
def test_mistake_gets_one_sentence(select, overrides, parts):
    workflow = select.workflow(**select.own_data(labels=None), **overrides)
    with pytest.raises(SystemExit) as caught:
        workflow.initialize()
    assert all(part in str(caught.value) for part in parts), caught.value
    assert str(caught.value).endswith(".")


def test_a_key_that_is_not_there(select, monkeypatch):
    files = str([str(CONFIGS / "select.json")])
    monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "selecting", "--config_file", files, "--patchs", "3"])
    workflow = select.workflow()
    with pytest.raises(SystemExit, match=r"--patchs: no such key in .*; did you mean --patches\?"):
        workflow.initialize()


def test_the_command(select, command_line):
    """From the bundle's folder, with nothing given but sizes."""
    (select.root / "configs").mkdir(parents=True)
    (select.root / "configs/select.json").write_bytes((CONFIGS / "select.json").read_bytes())
    (select.root / "configs/tiny.json").write_text(json.dumps(TINY))
    status, errors = command_line("run", "selecting", *command_line.files("select", "tiny"), folder=select.root)
    assert status == 0, errors
    content = json.loads((select.root / "output/selection/datalist.json").read_text())
    assert len(content["training"]) == 2
    assert sorted(path.name for path in select.root.iterdir()) == ["configs", "output"]
