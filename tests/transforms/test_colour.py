# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_ext.transforms import ThreeChannelsd, ToRGBd

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)


@pytest.mark.parametrize(("mode", "channels"), [("L", [0, 0, 0]), ("RGB", [0, 1, 2]), ("RGBA", [0, 1, 2])])
def test_files_of_every_kind_become_three_channels(tmp_path, mode, channels):
    pixels = {"L": PICTURE[..., 0], "RGB": PICTURE[..., :3], "RGBA": PICTURE}[mode]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ToRGBd("image")])
    image = load({"image": str(tmp_path / "a.png")})["image"]
    assert image.dtype == torch.uint8
    assert image.meta["filename_or_obj"] == str(tmp_path / "a.png")
    np.testing.assert_array_equal(image.numpy(), PICTURE.transpose(2, 1, 0)[channels])


@pytest.mark.parametrize("wrong", [torch.zeros(2, 4, 4), torch.full((3, 4, 4), 300.0), -torch.ones(1, 4, 4)])
def test_what_is_refused(wrong):
    with pytest.raises(ValueError, match="expected an 8-bit picture"):
        ToRGBd("image")({"image": wrong})
    assert ToRGBd("image", allow_missing_keys=True)({}) == {}


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 1, None]), (3, [0, 1, 2]), (4, [0, 1, 2])])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.float32])
def test_pictures_of_any_type_become_three_channels(channels, shown, dtype):
    top = 255 if dtype == torch.uint8 else 65535
    image = torch.randint(0, top + 1, (channels, 5, 7)).to(dtype)
    found = ThreeChannelsd("image")({"image": MetaTensor(image, meta={"filename_or_obj": "a.tif"})})["image"]
    assert found.dtype == dtype
    assert found.shape == (3, 5, 7)
    assert found.meta["filename_or_obj"] == "a.tif"
    for mine, channel in zip(found.as_tensor(), shown, strict=True):
        assert torch.equal(mine, torch.zeros_like(mine) if channel is None else image[channel])


def test_sixteen_bits_of_a_file_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ThreeChannelsd("image")])
    image = load({"image": str(tmp_path / "a.png")})["image"]
    np.testing.assert_array_equal(image.numpy(), np.stack([pixels.T] * 3))


@pytest.mark.parametrize("shape", [(5, 4, 4), (0, 4, 4), (4, 4), (1, 4, 4, 4)])
def test_more_channels_than_four_are_refused(shape):
    with pytest.raises(ValueError, match=r"image: found shape .*, expected a picture of 1 to 4 channels"):
        ThreeChannelsd("image")({"image": torch.zeros(shape)})
    assert ThreeChannelsd("image", allow_missing_keys=True)({}) == {}
