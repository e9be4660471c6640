# SPDX-License-Identifier: Apache-2.0
"""MONAI's own verifications and its TorchScript export, through the functions behind its command line."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out

pytestmark = pytest.mark.slow

VALUE = {"type": ["object"], "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]}
SCHEMA = {
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
    "properties": {
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authors": {"type": "string"},
        "references": {"type": "array", "items": {"type": "string"}},
        "required_packages_version": {"type": "object"},
        "supported_apps": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {"type": "object", "required": ["image"], "properties": {"image": VALUE}},
                "outputs": {"type": "object", "required": ["pred"], "properties": {"pred": VALUE}},
            },
        },
    },
}  # fmt: skip
"""What version 20240725 of MONAI's schema asks for; its file is not fetched here."""


IMAGES = {
    "PA-Seg 3D": (2, 1, 32, 16, 48),
    "EUGMT": (2, 3, 32, 48),
    "CKS": (2, 3, 40, 72),
    "MMT-PSM": (2, 3, 40, 72),
    "CPS and CSinGAN": (2, 3, 40, 72),
}
MAKERS = {
    "PA-Seg 3D": "make_bundle",
    "EUGMT": "make_eugmt",
    "CKS": "make_cks",
    "MMT-PSM": "make_mmt_psm",
    "CPS and CSinGAN": "make_cps_csingan",
}


@pytest.fixture(params=IMAGES)
def case(request, tmp_path):
    """A bundle's name in its metadata, its folder of configurations, and an image for its network."""
    make = request.getfixturevalue(MAKERS[request.param])
    return request.param, make(tmp_path / "bundle").configs, torch.randn(IMAGES[request.param])


def test_metadata_fits_the_schema(case, tmp_path):
    metadata = str(case[1] / "metadata.json")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    verify_metadata(meta_file=metadata, filepath=str(tmp_path / "schema.json"))
    damaged = json.loads((tmp_path / "schema.json").read_text()) | {"required": ["nothing"]}
    (tmp_path / "schema.json").write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match="nothing"):
        verify_metadata(meta_file=metadata, filepath=str(tmp_path / "schema.json"))


def test_network_gives_what_the_metadata_says(case, tmp_path):
    """MONAI's verification raises where channels differ."""
    inference, metadata = (str(case[1] / f"{name}.json") for name in ("inference", "metadata"))
    verify = partial(verify_net_in_out, "network_def", config_file=inference, device="cpu", p=1, n=1, any=1)
    verify(meta_file=metadata)
    content = json.loads((case[1] / "metadata.json").read_text())
    content["network_data_format"]["outputs"]["pred"]["num_channels"] += 1
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="channel"):
        verify(meta_file=str(tmp_path / "damaged.json"))


def test_torchscript_computes_what_the_network_computes(case, tmp_path):
    name, configs, image = case
    inference, metadata = (str(configs / f"{file}.json") for file in ("inference", "metadata"))
    parser = ConfigParser()
    parser.read_config(inference)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=metadata,
        config_file=inference,
    )
    files = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(tmp_path / "model.ts", _extra_files=files)
    assert json.loads(files["metadata.json"])["name"] == name
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))
