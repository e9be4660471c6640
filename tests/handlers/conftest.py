# SPDX-License-Identifier: Apache-2.0
"""What the tests of result files share: pictures on the disk, and MONAI's evaluator over them."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, LoadImaged
from PIL import Image


@pytest.fixture
def evaluator_of(tmp_path):
    """Writes pictures under ``data``; gives the evaluator of a network over them, one a batch."""

    def make(pictures, network, *, transforms=(), keys=None, **options):
        for name, pixels in pictures.items():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / name)
        files = [{"image": str(tmp_path / "data" / name), **(keys(name) if keys else {})} for name in pictures]
        load = [LoadImaged("image"), EnsureChannelFirstd("image"), CopyItemsd("image", names="picture")]
        loader = DataLoader(Dataset(files, Compose([*load, *transforms])), batch_size=1)
        return SupervisedEvaluator(torch.device("cpu"), loader, network, **options)

    return make
