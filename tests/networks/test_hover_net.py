# SPDX-License-Identifier: Apache-2.0
"""HoVer-Net's first weights against MONAI's own loading, and its losses with a network of one layer."""

from __future__ import annotations

import pytest
import torch
from monai.apps.pathology.losses import HoVerNetLoss
from monai.networks.nets import HoVerNet
from torchvision.models import resnet18, resnet50

from monai_ext.networks import HoVerNetTraining, make_hover_net
from tests.bundles.thin_hover_net import ThinHoVerNet

NUCLEI, MAPS = "nucleus_prediction", "horizontal_vertical"
LOSSES = {
    "nuclei": HoVerNetLoss(lambda_hv_mse=0, lambda_hv_mse_grad=0),
    "maps": HoVerNetLoss(lambda_np_ce=0, lambda_np_dice=0, lambda_hv_mse=1, lambda_hv_mse_grad=144),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as torchvision's, in which no two tensors are equal."""
    state = {
        name: torch.rand_like(value) if value.is_floating_point() else torch.tensor(number)
        for number, (name, value) in enumerate(resnet50().state_dict().items(), start=1)
    }
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(state, path)
    yield path
    path.unlink()


def test_weights_fill_exactly_the_encoder_as_monai_does(weights, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights.parent))  # where MONAI takes a file that is there
    torch.manual_seed(0)
    theirs = HoVerNet(mode="original", pretrained_url="none", adapt_standard_resnet=True).state_dict()
    torch.manual_seed(0)
    fresh = make_hover_net().state_dict()
    torch.manual_seed(0)
    mine = make_hover_net(backbone_weights=weights).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    encoder = {name for name in mine if name.startswith(("conv0.", "res_blocks."))}
    changed = {name for name, value in mine.items() if not torch.equal(value, fresh[name])}
    assert changed == encoder


def test_weights_of_another_network_get_a_sentence(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: \d+ keys differ from torchvision's resnet50 \("):
        make_hover_net(backbone_weights=tmp_path / "other.pth")


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="mode: found 'quick', expected one of original, fast"):
        make_hover_net(mode="quick")


def test_every_parameter_has_a_part_in_the_answers():
    """On the meta device, which knows shapes and graphs and computes nothing."""
    with torch.device("meta"):
        network = make_hover_net(mode="fast")
        answers = network(torch.zeros(2, 3, 256, 256))
    sum(answer.sum() for answer in answers.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def some_targets(number=2, side=16, *, nuclei=True):
    torch.manual_seed(0)
    masks = torch.rand(number, 1, side, side) > (0.5 if nuclei else 2)
    maps = masks * (2 * torch.rand(number, 2, side, side) - 1)
    return [
        {NUCLEI: torch.cat([~mask, mask]).float(), MAPS: one.float()} for mask, one in zip(masks, maps, strict=True)
    ]


@pytest.fixture
def training():
    torch.manual_seed(0)
    return HoVerNetTraining(ThinHoVerNet(window_px=32, answer_px=16), losses=LOSSES)


def test_terms_are_monais_loss_taken_apart(training):
    image, targets = torch.randn(2, 3, 32, 32), some_targets()
    terms = training(image, targets)
    assert terms.keys() == {"nuclei", "maps"}
    assert {type(term) for term in terms.values()} == {torch.Tensor}, "without MONAI's metadata"
    batch = {name: torch.stack([target[name] for target in targets]) for name in (NUCLEI, MAPS)}
    whole = HoVerNetLoss(lambda_hv_mse=1, lambda_hv_mse_grad=144)(training.network(image), batch)
    torch.testing.assert_close(terms["nuclei"] + terms["maps"], whole)


@pytest.mark.parametrize(("term", "branch", "other"), [("nuclei", "nuclei", "maps"), ("maps", "maps", "nuclei")])
def test_each_term_teaches_its_branch_alone(training, term, branch, other):
    training(torch.randn(2, 3, 32, 32), some_targets())[term].backward()
    assert getattr(training.network, branch).weight.grad.abs().sum() > 0
    grad = getattr(training.network, other).weight.grad
    assert grad is None or not grad.any()


def test_images_without_nuclei_give_finite_losses_with_gradient(training):
    terms = training(torch.randn(2, 3, 32, 32), some_targets(nuclei=False))
    sum(terms.values()).backward()
    for parameter in training.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_losses_are_in_single_precision(training):
    image, targets = torch.randn(2, 3, 32, 32), some_targets()
    seen = []

    def look(_, arguments):
        seen.extend([torch.is_autocast_enabled("cpu"), *(answer.dtype for answer in arguments[0].values())])

    training.losses["maps"].register_forward_pre_hook(look)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert training.network(image)[MAPS].dtype == torch.bfloat16
        terms = training(image, targets)
    assert seen == [False, torch.float32, torch.float32]
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_the_losses_add_nothing_to_a_checkpoint(training):
    assert training.state_dict().keys() == {f"network.{name}" for name in training.network.state_dict()}


def test_the_loss_falls(training):
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        answers = ThinHoVerNet(window_px=32, answer_px=16)(image)
    nuclei = answers[NUCLEI][0].argmax(0)
    targets = [{NUCLEI: torch.stack([1 - nuclei, nuclei]).float(), MAPS: answers[MAPS][0]}]
    torch.nn.init.normal_(training.network.maps.weight, std=0.1)
    optimizer = torch.optim.Adam(training.parameters(), lr=0.01)
    values = []
    for _ in range(40):
        loss = sum(training(image, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 4
