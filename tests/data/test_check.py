# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import runpy
import sys

import pytest

from monai_ext.data.__main__ import main
from monai_ext.data.check import DataFault, check_datalist, check_or_exit, format_table

# --- what is found -------------------------------------------------------------------------------------------------


def test_a_whole_data_set_is_summed_up(data):
    training, validation = data.check()
    assert (training.section, training.entries, training.shapes, training.points) == (
        "training",
        1,
        [data.shape],
        [(7, 1)],
    )
    assert training.spacings_mm == [(1.0, 1.0, 2.0)]
    assert training.intensities == [(data.image.min(), data.image.max())]
    assert training.label_volumes == {}
    assert validation.label_volumes == {"tumour": [pytest.approx(9 * 8 * 4 * 2 / 1000)]}
    lines = format_table([training, validation]).splitlines()
    assert [line.split()[0] for line in lines] == ["section", "-" * 10, "training", "validation"]
    assert "20 x 24 x 16" in lines[2]
    assert "1 x 1 x 2" in lines[2]
    assert "7 for 1 objects" in lines[2]
    assert "tumour 0.576 ml" in lines[3]


def test_without_needs_all_that_is_there_is_checked(data):
    assert [row.section for row in data.check(None)] == ["training", "validation"]
    data.content["unlabeled"] = [{"image": "none.nii.gz"}]
    data.check()
    data.assert_refused("none.nii.gz", "no such file", needs=None)


def test_a_key_that_the_method_does_not_use_is_not_read(data):
    data.content["training"][0]["label"] = "none.nii.gz"
    data.check()
    data.assert_refused("none.nii.gz", needs={"training": ["image", "label"]})


def test_more_classes_than_the_method_learns_are_refused(data):
    data.content["labels"]["2"] = "oedema"
    data.check()
    data.assert_refused("list.json (labels): the value 2 ('oedema')", "0 to 1 only", classes=2)
    data.check(classes=3)
    data.check({"training": ["image", "points"]}, classes=2)


def test_ranges_and_progress_over_many_cases(data, capsys):
    data.volume("b.nii.gz", data.image[:, :, :12])
    data.content["training"] = [{"image": name} for name in ["a.nii.gz"] * 40 + ["b.nii.gz"] * 11]
    table = format_table(data.check({"training": ["image"]}))
    assert "20 x 24 x 12-16" in table
    assert "51/51" in capsys.readouterr().err
    data.content["training"].pop()
    data.check({"training": ["image"]})
    assert capsys.readouterr().err == ""


def test_channels_from_several_files(data):
    data.content["training"][0]["image"] = ["a.nii.gz", "v.nii.gz"]
    assert data.check()[0].shapes == [data.shape]
    data.content["training"][0]["image"] = ["a.nii.gz", "none.nii.gz"]
    data.assert_refused("none.nii.gz", "(image)")
    data.volume("b.nii.gz", data.image[:, :, :12])
    data.content["training"][0]["image"] = ["a.nii.gz", "b.nii.gz"]
    data.assert_refused("b.nii.gz", "cannot be read")


# --- faults of the datalist ----------------------------------------------------------------------------------------


def test_malformed_json(data):
    (data.folder / "bad.json").write_text('{"training": [}')
    with pytest.raises(DataFault, match=r"bad.json .*not JSON"):
        check_datalist(data.folder / "bad.json", data.folder)


def test_missing_dataset_dir(data):
    (data.folder / "list.json").write_text(json.dumps(data.content))
    with pytest.raises(DataFault, match=r"none \(dataset_dir\): there is no such folder"):
        check_datalist(data.folder / "list.json", data.folder / "none")


@pytest.mark.parametrize("key", ["image_id", "label_name"])
def test_keys_that_crash_spacingd(data, key):
    data.content["validation"][0][key] = "x"
    data.assert_refused("list.json", repr(key), "Spacingd", needs={"training": ["image"]})


def test_a_group_in_two_sections(data):
    data.content["validation"][0]["group"] = "p1"
    data.assert_refused("list.json (group)", "'p1' is in 'training' and 'validation'")
    data.content["validation"][0]["group"] = "p2"
    data.content["training"].append(dict(data.content["training"][0]))
    data.check()


def test_a_group_may_be_a_number(data):
    data.content["training"][0]["group"], data.content["validation"][0]["group"] = 7, "7"
    data.assert_refused("'7' is in 'training' and 'validation'")


def test_a_group_leaks_into_a_section_that_is_not_used(data):
    data.content["test"] = [{"image": "t.nii.gz", "group": "p1"}]
    data.assert_refused("'p1' is in 'training' and 'test'")


def test_empty_and_missing_sections(data):
    data.content["validation"] = []
    data.assert_refused("list.json (validation)", "is empty")
    data.assert_refused("is empty", needs=None)
    data.check({"training": ["image"]})
    data.assert_refused(
        "list.json (unlabeled)", "no section 'unlabeled'", needs={"training": ["image"], "unlabeled": ["image"]}
    )
    data.content = {"labels": {}}
    data.assert_refused("no section in it", needs=None)


def test_a_needed_key_is_missing(data):
    del data.content["training"][0]["points"]
    data.assert_refused("list.json (training)", "entry 1 has no key 'points'")


def test_paths_may_not_leave_the_folder(data):
    data.content["training"][0]["image"] = "../a.nii.gz"
    data.assert_refused("list.json (image)", "goes up by '..'")


# --- the memory and the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("free_gib", "stops"), [(1.0, False), (1e-6, True), (None, False)])
def test_a_cache_that_does_not_fit_into_memory(data, monkeypatch, free_gib, stops):
    datalist = data.folder / "list.json"
    datalist.write_text(json.dumps(data.content))
    free = None if free_gib is None else int(free_gib * 2**30)
    monkeypatch.setattr("monai_ext.data.run_faults.free_memory_bytes", lambda: free)
    assert check_or_exit(datalist, data.folder, needs=data.needs, cache_rate=0.0)
    if stops:
        with pytest.raises(SystemExit, match=r"\(cache_rate\): its volumes need .* GiB of memory when cached"):
            check_or_exit(datalist, data.folder, needs=data.needs, cache_rate=1.0)
    else:
        assert check_or_exit(datalist, data.folder, needs=data.needs, cache_rate=1.0)


def test_fewer_cases_than_processes(data):
    (data.folder / "list.json").write_text(json.dumps(data.content))
    with pytest.raises(SystemExit, match=r"\(training\): it has 1 case, expected at least 2, one for each process"):
        check_or_exit(data.folder / "list.json", data.folder, needs=data.needs, fewest=2)


def test_images_smaller_than_a_patch(data):
    (data.folder / "list.json").write_text(json.dumps(data.content))
    least = min(min(row.shapes[0]) for row in check_or_exit(data.folder / "list.json", data.folder, needs=data.needs))
    check_or_exit(data.folder / "list.json", data.folder, needs=data.needs, smallest_px=least)
    with pytest.raises(SystemExit, match=rf"1 of 1 images are smaller, .* expected {least + 1} px or more on each"):
        check_or_exit(data.folder / "list.json", data.folder, needs=data.needs, smallest_px=least + 1)


def test_a_bundle_exits_with_the_sentence(data):
    (data.folder / "list.json").write_text(json.dumps(data.content))
    assert len(check_or_exit(data.folder / "list.json", data.folder, needs=data.needs)) == 2
    (data.folder / "a.nii.gz").unlink()
    with pytest.raises(SystemExit, match=r"a.nii.gz \(image\): there is no such file"):
        check_or_exit(data.folder / "list.json", data.folder, needs=data.needs)


def test_command_line(data, capsys, monkeypatch):
    datalist = data.folder / "list.json"
    datalist.write_text(json.dumps(data.content))
    main(["check", str(datalist)])
    assert "validation  1      20 x 24 x 16" in capsys.readouterr().out

    config = data.folder / "bundles/seven/configs/train.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"needs": {"training": ["image", "points"]}}))
    monkeypatch.chdir(data.folder)
    main(["check", "list.json", "--bundle", "seven"])
    out = capsys.readouterr().out
    assert "training" in out
    assert "validation" not in out
    config.write_text(json.dumps({"needs": {"training": ["image", "points"], "test": ["image"]}, "classes": 2}))
    main(["check", "list.json", "--bundle", "seven", "--sections", "training"])
    assert "7 for 1 objects" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="'test'"):
        main(["check", "list.json", "--bundle", "seven"])
    with pytest.raises(SystemExit):
        main(["check", "list.json", "--sections", "training"])
    with pytest.raises(SystemExit, match=r"there is no bundle 'eight', expected one of .*seven"):
        main(["check", "list.json", "--bundle", "eight"])
    config.write_text("{}")
    with pytest.raises(SystemExit, match=r"train.json \(needs\): None, expected an object"):
        main(["check", "list.json", "--bundle", "seven"])


def test_python_m_ends_with_the_sentence(data, monkeypatch):
    """Python prints a SystemExit's text to stderr and exits with status 1; a number would be the status itself."""
    (data.folder / "elsewhere").mkdir()
    (data.folder / "elsewhere/list.json").write_text(json.dumps({"training": [{"image": "none.nii.gz"}]}))
    words = ["check", str(data.folder / "elsewhere/list.json"), "--dataset_dir", str(data.folder)]
    monkeypatch.setattr(sys, "argv", ["monai_ext.data", *words])
    monkeypatch.delitem(sys.modules, "monai_ext.data.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("monai_ext.data", run_name="__main__")
    missing = data.folder / "none.nii.gz"
    assert caught.value.code == f"{missing} (image): there is no such file, expected a file in dataset_dir."
