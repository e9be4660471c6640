# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.bundle.weights import check_weights, load_weights


def test_loads_what_was_saved(tmp_path):
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    assert load_weights(target, tmp_path / "model.pt") is target
    assert torch.equal(source.weight, target.weight)


def test_missing_empty_and_broken_files(tmp_path):
    network = torch.nn.Linear(1, 1)
    with pytest.raises(SystemExit, match=r"none\.pt: no such weights"):
        load_weights(network, tmp_path / "none.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(SystemExit, match=r"empty\.pt: the weights file has 0 bytes"):
        load_weights(network, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(SystemExit, match=r"text\.pt: expected a state dict"):
        load_weights(network, tmp_path / "text.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(SystemExit, match=r"list\.pt: found a list"):
        load_weights(network, tmp_path / "list.pt")


def test_pickled_code_is_refused(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    with pytest.raises(SystemExit, match="reading it gave UnpicklingError"):
        load_weights(torch.nn.Linear(1, 1), tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.nn.Linear(2, 2), r"shapes \(bias is \(2,\), expected \(3,\)"),
        (torch.nn.Linear(2, 3, bias=False), r"1 keys missing \(bias\)"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3)), r"keys missing .* 2 keys too many \(0\.bias, 0\.weight\)"),
    ],
)
def test_another_network_names_the_keys(tmp_path, other, words):
    torch.save(other.state_dict(), tmp_path / "model.pt")
    with pytest.raises(SystemExit, match=words):
        load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt")


def test_files_to_begin_with(tmp_path):
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "model.pt")
    check_weights([None, tmp_path / "model.pt"])
    with pytest.raises(SystemExit, match=r"none\.pt: there is no such file"):
        check_weights([None, tmp_path / "model.pt", tmp_path / "none.pt"])
    (tmp_path / "empty.pt").touch()
    with pytest.raises(SystemExit, match="0 bytes"):
        check_weights([tmp_path / "empty.pt"])
