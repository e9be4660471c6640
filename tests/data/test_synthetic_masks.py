# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.morphology import disk

from monai_ext.data import SyntheticMaskDataset, check_patches_or_exit, patches_with_nuclei, trained_patches
from monai_ext.data.datalist import load_datalist
from monai_ext.functional.mask_synthesis import synthesize_masks


def nuclei(shift=0):
    numbers = np.zeros((1, 32, 40), np.int32)
    for number, (row, column) in enumerate([(6, 6 + shift), (15, 18), (24, 30)], start=1):
        numbers[0, row - 3 : row + 4, column - 3 : column + 4][disk(3) > 0] = 2 * number
    return numbers


def read(entry):
    return {"image": torch.full((3, 32, 40), entry["label"] / 10.0), "label": torch.from_numpy(nuclei(entry["label"]))}


def make(*names, **options):
    data = [{"image": f"patches/{name}.png", "label": shift, "group": name} for shift, name in enumerate(names)]
    return SyntheticMaskDataset(data, read, number=3, margin_px=6, **options)


def test_items_hold_the_patch_and_a_synthetic_mask():
    dataset = make("a", "b")
    assert len(dataset) == 6
    assert dataset.parts == [0, 0, 0, 1, 1, 1]
    assert dataset.sizes == [(32, 40)] * 2
    for index, item in enumerate(dataset[n] for n in range(6)):
        assert (item["part"], item["number"]) == divmod(index, 3)
        assert torch.equal(item["real_mask"], torch.from_numpy(nuclei(index // 3) > 0).float())
        assert torch.equal(item["mask"], (item["instances"] > 0).float())
        assert item["mask"].shape == item["real_mask"].shape
        assert item["image"].unique().item() == pytest.approx(index // 3 / 10)
    assert len({dataset[n]["seed"] for n in range(6)}) == 6
    assert len({dataset[n]["mask"].numpy().tobytes() for n in range(6)}) == 6


def test_a_patchs_masks_depend_on_its_name_and_the_seed_alone():
    both, alone = make("a", "b"), SyntheticMaskDataset([{"image": "x/b.png", "label": 1}], read, number=2, margin_px=6)
    for number in range(2):
        assert torch.equal(both[3 + number]["instances"], alone[number]["instances"])
        assert both[3 + number]["seed"] == alone[number]["seed"]
    for other in (make("a", seed=1), make("a", fresh=True), make("c")):
        assert not torch.equal(other[0]["instances"], both[0]["instances"])
        assert other[0]["seed"] != both[0]["seed"]


def test_masks_are_those_of_the_function():
    dataset = make("a")
    rng = np.random.default_rng(dataset.seeds[0])
    expected = synthesize_masks(nuclei()[0], number=3, margin_px=6, rng=rng)
    assert all(np.array_equal(dataset[n]["instances"][0], one.instances) for n, one in enumerate(expected))


def test_saturation_in_words():
    placed, wanted = (sum(getattr(mask, key) for mask in make("a").masks[0]) for key in ("placed", "wanted"))
    assert make("a").saturation == {"a": f"{placed} of {wanted} nuclei found room in 3 masks"}
    crowded = make("a", density=(50.0, 50.0))
    placed, wanted = (int(word) for word in crowded.saturation["a"].split() if word.isdigit() and word != "3")
    assert placed < wanted / 2


def write(folder, labels):
    """A list of patches of these label maps by name."""
    entries = []
    for name, label in labels.items():
        Image.fromarray(label.astype(np.uint16)).save(folder / f"{name}_label.png")
        entries.append({"image": f"{name}.png", "label": f"{name}_label.png"})
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    return {"datalist": folder / "datalist.json", "dataset_dir": folder}


def test_patches_that_masks_can_be_made_of(tmp_path):
    one_alone = np.where(nuclei()[0] == 4, 1, 0)
    check_patches_or_exit(**write(tmp_path, {"a": nuclei()[0], "b": one_alone}), smallest_px=32)


CUT = np.where(np.arange(32)[:, None] < 3, nuclei(0)[0] * 0 + 1, 0)


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (np.minimum(nuclei()[0], 1), {}, "b_label.png.*one number in 3 places, which is a mask"),
        (CUT, {"fewest": 2}, "1 of 2 patches have a nucleus farther than 1 px from the border, expected 2 or more"),
        (nuclei()[0], {"smallest_px": 33}, "a_label.png.*40 x 32 pixels, expected 33 or more"),
        (nuclei()[0], {"border_px": 13}, "0 of 2 patches have a nucleus farther than 13 px"),
    ],
)
def test_patches_of_which_no_masks_can_be_made(tmp_path, label, options, message):
    with pytest.raises(SystemExit, match=message):
        check_patches_or_exit(**write(tmp_path, {"a": nuclei()[0], "b": label}), **options)


def test_patches_without_a_whole_nucleus_are_left_out(tmp_path, caplog):
    files = write(tmp_path, {"a": CUT, "b": nuclei()[0], "c": CUT * 0})
    check_patches_or_exit(**files)
    data = load_datalist(**files, section="training")
    with caplog.at_level(logging.WARNING):
        assert patches_with_nuclei(data) == [data[1]]
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("a: left out")
    assert second.startswith("c: left out")


def test_two_patches_of_a_name(tmp_path):
    files = write(tmp_path, {"a": nuclei()[0]})
    content = json.loads(files["datalist"].read_text())
    content["training"].append({"image": "other/a.png", "label": "a_label.png"})
    files["datalist"].write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="two patches are named 'a'"):
        check_patches_or_exit(**files)


def test_patches_without_generators_are_left_out(tmp_path, caplog):
    data = [{"image": f"patches/{name}.png"} for name in "abc"]
    with pytest.raises(SystemExit, match="found no weights of the 3 patches"):
        trained_patches(data, tmp_path)
    for name in "ac":
        (tmp_path / f"{name}.pt").touch()
    with caplog.at_level(logging.WARNING):
        assert trained_patches(data, tmp_path) == [data[0], data[2]]
    (record,) = caplog.records
    assert record.getMessage().startswith("b: left out")
