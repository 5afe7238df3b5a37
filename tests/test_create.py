"""create_model: no engine, the keys of checkpoints, and the logits of a config's model."""

from __future__ import annotations

import sys

import pytest
import torch

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import EqualizerSpec, create_model, equalize_fusions
from scaleeq.backbones import TimmBackbone
from scaleeq.create import DECODERS
from scaleeq.decoders import PoolingOptions, PyramidOptions
from scaleeq.engine import SafeCheckpointer, build_model, load_config
from scaleeq.layers import batch_norm
from scaleeq.training import Trainer
from tests import record_checkpoint
from tests.test_house import run
from tests.training.tiny import tiny_config


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(64, 96), (61, 97)])
def test_logits_have_the_size_of_the_images(decoder, size):
    model = create_model(decoder, "test_resnet", num_classes=3, channels=32).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).shape == (2, 3, *size)
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "sem_seg_head"}


def test_it_needs_neither_engine_nor_config():
    code = (
        "import sys, torch, scaleeq; model = scaleeq.create_model('uper', 'test_resnet', num_classes=2, channels=8);"
        "scaleeq.equalize_fusions(model, scaleeq.EqualizerSpec()); model.eval()(torch.zeros(1, 3, 32, 32));"
        "strangers = ('scaleeq.engine', 'scaleeq.config', 'detectron2', 'fvcore', 'yacs');"
        "print([name for name in sys.modules if name.startswith(strangers)])"
    )
    result = run(sys.executable, "-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_a_checkpoint_of_a_training_gives_its_logits():
    """Recorded before decoders and tasks were apart; equalizers in every Fusion."""
    backbone = TimmBackbone(name="tf_efficientnet_b0", multipliers=(0.05, 0.1))
    options = {"context": PoolingOptions(pool_scales=[1, 2])}
    model = create_model("uper", backbone, num_classes=8, channels=4, options=options)
    equalize_fusions(model, EqualizerSpec(implementation="reparametrize"), "all")
    model.load_state_dict(torch.load(record_checkpoint.CHECKPOINT, weights_only=True)["model"])
    expected = torch.load(record_checkpoint.LOGITS, weights_only=True)
    torch.testing.assert_close(record_checkpoint.logits_of(model), expected, rtol=0, atol=1e-5)


def test_the_trained_toy_model_loads_and_gives_the_same(tmp_path):
    cfg = tiny_config(tmp_path, SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=0, MODEL__TIMM__NAME="test_resnet")
    Trainer(cfg).train()
    trained = build_model(cfg).eval()
    SafeCheckpointer(trained).load_weights(str(tmp_path / "model_final.pth"))
    model = create_model("uper", "test_resnet", num_classes=8, channels=8).eval()
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("aux_heads.")})
    image = torch.randn(1, 3, 61, 97)
    with torch.no_grad():
        assert torch.equal(model.logits(image), trained.logits(image))


@pytest.mark.parametrize(
    ("decoder", "head", "options"),
    [
        ("uper", "UPerHead", {}),
        ("semantic_fpn", "SemanticFPNHead", {"norm": batch_norm}),
        ("eseg", "ESegHead", {"pyramid": PyramidOptions(name="bifpn", channels=16)}),
    ],
)
def test_a_seed_gives_the_weights_that_a_config_gets(decoder, head, options):
    keys = {"MODEL.TIMM.NAME": "test_resnet", "MODEL.SEM_SEG_HEAD.NAME": head, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16}
    keys |= {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5, "MODEL.DEVICE": "cpu"}
    keys |= {"MODEL.AUX_HEAD.IN_FEATURES": [], "MODEL.AUX_HEAD.LOSS_WEIGHTS": []}
    torch.manual_seed(0)
    expected = build_model(load_config("configs/Base.yaml", [w for pair in keys.items() for w in pair])).state_dict()
    torch.manual_seed(0)
    found = create_model(decoder, "test_resnet", num_classes=5, channels=16, options=options).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("decoder", "backbone", "options", "message"),
    [
        ("upper", "test_resnet", {}, r"decoder is 'upper'; choose one of .* \(did you mean uper\?\)"),
        ("uper", "test_resnet", {"levels": ["res9"]}, "levels is 'res9'; choose one of res2, res3, res4, res5"),
        ("uper", "resnet_18", {}, "has no model 'resnet_18'"),
        ("psp", "test_resnet", {"levels": ["res4", "res5"]}, "PSP reads 1 level"),
    ],
)
def test_what_is_refused(decoder, backbone, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(decoder, backbone, num_classes=3, **options)


def test_pretrained_weights_go_to_a_backbone_that_is_named():
    with pytest.raises(ValueError, match="the backbone is built already"):
        create_model("uper", TimmBackbone(name="test_resnet"), num_classes=3, pretrained=True)
