# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torchvision.models import resnet18, resnet34, resnet50

from monai_ext.networks import DeepLabV3Plus
from monai_ext.networks.deeplabv3plus import _replace_stride


def small(**kwargs):
    torch.manual_seed(0)
    return DeepLabV3Plus(**({"backbone": "resnet18", "aspp_channels": 16} | kwargs))


def with_statistics(network):
    """Running statistics that are not 0 and 1, so that a normalisation left out would show."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("backbone", [resnet18, resnet34, resnet50])
def test_a_stage_without_its_stride_agrees_at_every_second_pixel(backbone):
    torch.manual_seed(0)
    strided = with_statistics(backbone(weights=None)).double()
    dilated = deepcopy(strided)
    _replace_stride(dilated.layer3, before=1)
    _replace_stride(dilated.layer4, before=2)
    image = torch.randn(1, strided.layer3[0].conv1.in_channels, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        three, four = strided.layer3(image), strided.layer4(strided.layer3(image))
        fine_three, fine_four = dilated.layer3(image), dilated.layer4(dilated.layer3(image))
    assert fine_three.shape[2:] == fine_four.shape[2:] == (16, 24)
    torch.testing.assert_close(fine_three[..., ::2, ::2], three)
    torch.testing.assert_close(fine_four[..., ::4, ::4], four)


@pytest.mark.parametrize(("stride", "option"), [(8, [False, True, True]), (16, [False, False, True])])
def test_bottlenecks_are_dilated_as_torchvision_does(stride, option):
    expected = resnet50(weights=None, replace_stride_with_dilation=option)
    found = DeepLabV3Plus(output_stride=stride)
    for name in ("layer3", "layer4"):
        pairs = zip(getattr(expected, name).modules(), getattr(found, name).modules(), strict=True)
        for theirs, mine in pairs:
            if isinstance(theirs, torch.nn.Conv2d):
                assert (mine.stride, mine.dilation, mine.padding) == (theirs.stride, theirs.dilation, theirs.padding)


@pytest.mark.parametrize("size", [(64, 64), (65, 47), (32, 96)])
@pytest.mark.parametrize("stride", [8, 16])
def test_any_size_comes_back(size, stride):
    network = small(output_stride=stride, out_channels=3).eval()
    seen = []
    network.layer4.register_forward_hook(lambda _, __, out: seen.append(out.shape[2:]))
    with torch.no_grad():
        assert network(torch.randn(1, 3, *size)).shape == (1, 3, *size)
    assert seen[0] == tuple(-(-side // stride) for side in size)


def test_parameters_are_those_that_the_docs_name():
    for backbone, parameters in (("resnet18", 16_012_962), ("resnet34", 26_121_122), ("resnet50", 39_756_962)):
        assert sum(p.numel() for p in DeepLabV3Plus(backbone=backbone).parameters()) == parameters


def test_every_parameter_learns():
    network = small()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_one_image_while_training_gets_a_sentence():
    with pytest.raises(ValueError, match="at least two"):
        small()(torch.randn(1, 3, 32, 32))


def test_scripted_equals_eager():
    network = with_statistics(small())
    image = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_backbone_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    pretrained = resnet18(weights=None)
    torch.save(pretrained.state_dict(), tmp_path / "r18.pth")
    torch.manual_seed(2)
    students = [DeepLabV3Plus(backbone="resnet18", backbone_weights=tmp_path / "r18.pth") for _ in range(2)]
    for student in students:
        assert torch.equal(student.stem[0].weight, pretrained.conv1.weight)
        assert torch.equal(student.layer4[1].bn2.running_var, pretrained.layer4[1].bn2.running_var)
        assert torch.equal(student.layer4[1].conv2.weight, pretrained.layer4[1].conv2.weight)
    assert not torch.equal(students[0].decoder[1].weight, students[1].decoder[1].weight)
    assert not torch.equal(students[0].aspp.project[0].weight, students[1].aspp.project[0].weight)


def test_weights_that_do_not_fit(tmp_path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18.pth: \d+ keys differ from torchvision's resnet50 \(layer"):
        DeepLabV3Plus(backbone_weights=tmp_path / "r18.pth")
    with pytest.raises(ValueError, match="5 image channels"):
        small(in_channels=5, backbone_weights=tmp_path / "r18.pth")
    assert small(in_channels=5).eval()(torch.randn(1, 5, 32, 32)).shape == (1, 2, 32, 32)


def test_options_out_of_range():
    with pytest.raises(ValueError, match="backbone"):
        small(backbone="vgg")
    with pytest.raises(ValueError, match="output_stride"):
        small(output_stride=32)
