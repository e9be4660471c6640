# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_ext.transforms import ToRGBd

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
