"""UPerNet of segmentation_models_pytorch with its own weights: logits. Oracle: the library as installed."""

from __future__ import annotations

import pytest
import torch

from scaleeq import create_model
from scaleeq.backbones import TimmBackbone
from scaleeq.converters import convert_smp_upernet

smp = pytest.importorskip("segmentation_models_pytorch", reason="pip install 'scaleeq[models]' brings it")
if not hasattr(smp, "UPerNet"):
    pytest.skip("this segmentation_models_pytorch has no UPerNet", allow_module_level=True)


def upernet(encoder: str) -> torch.nn.Module:
    torch.manual_seed(0)
    theirs = smp.UPerNet(encoder, encoder_weights=None, classes=5, decoder_channels=16).eval()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name.endswith(("running_mean", "feature_norms.1.bias")):
                value.normal_(0, 0.1)
    return theirs


def ours(name: str = "resnet18", *, level_norm: bool = True):
    return create_model("uper", TimmBackbone(name=name, level_norm=level_norm), num_classes=5, channels=16).eval()


# timm's model inside, and their own one, whose names are the same.
@pytest.mark.parametrize("encoder", ["tu-resnet18", "resnet18"])
def test_logits_are_theirs(encoder):
    theirs, model = upernet(encoder), ours()
    model.load_state_dict(convert_smp_upernet(model, theirs.state_dict()))
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.segmentation_head[0](theirs.decoder(theirs.encoder(image)))
        found = model.logits(image)
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_has_no_counterpart_is_named():
    file = upernet("tu-resnet18").state_dict()
    with pytest.raises(ValueError, match=r"has a layer norm on each level; build .*level_norm=True"):
        convert_smp_upernet(ours(level_norm=False), file)
    with pytest.raises(ValueError, match=r"encoder\.model\.layer1\.2\.conv1\.weight is not in the file"):
        convert_smp_upernet(ours("resnet34"), file)
    with pytest.raises(ValueError, match=r"classification_head\.3\.weight has no counterpart in this model"):
        convert_smp_upernet(ours(), file | {"classification_head.3.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="the model is not segmentation_models_pytorch's UPerNet"):
        convert_smp_upernet(create_model("psp", "test_resnet", num_classes=5, channels=8), file)


def test_their_fpn_is_refused_with_the_layers_that_differ():
    file = smp.FPN("resnet18", encoder_weights=None).state_dict()
    with pytest.raises(
        ValueError, match=r"FPN, .*after decoder\.seg_blocks\.0\.block\.0, .*align_corners True"
    ) as error:
        convert_smp_upernet(ours(), file)
    assert "decoder.seg_blocks.2.block.0" in str(error.value) and "seg_blocks.3" not in str(error.value)
