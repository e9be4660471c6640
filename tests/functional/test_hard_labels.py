# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_ext.functional.hard_labels import hard_labels


@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 2, 7, 9), (2, 4, 5, 6, 3)])
def test_equals_argmax(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hard_labels(scores), scores.argmax(1))


def test_the_first_of_equals_and_no_gradient():
    scores = torch.tensor([[[0.5, 1.0], [0.5, 2.0], [0.5, 2.0]]], requires_grad=True)
    labels = hard_labels(scores)
    assert labels.tolist() == [[0, 1]]
    assert labels.dtype == torch.int64
    assert not labels.requires_grad
