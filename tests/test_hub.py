"""HubModel: a trained model to a folder in the hub's layout and back; the hub itself is out of a test's reach."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import scaleeq
from scaleeq.engine import SafeCheckpointer, build_model
from scaleeq.hub import HubModel
from tests.commands.test_console_verbs import ROOT
from tests.test_zoo import checkpoint, same


@pytest.mark.parametrize("folded", [True, False])
def test_a_trained_model_to_a_folder_and_back(tmp_path, folded):
    trained = checkpoint(tmp_path)
    name, weights = str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth")
    if folded:
        weights = str(tmp_path / "folded.pth")
        torch.save(
            scaleeq.fold_equalizers(scaleeq.load_model(name, str(tmp_path / "model_final.pth"))).state_dict(), weights
        )
    HubModel.load(name, weights).save_pretrained(tmp_path / "hub")
    content = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert content["folded"] == folded and content["keys"]["MODEL.TIMM.NAME"] == "test_resnet"
    assert str(tmp_path) not in json.dumps(content)
    model = HubModel.from_pretrained(tmp_path / "hub")
    assert not model.training
    assert any(".equalizers." in key for key in model.state_dict()) != folded
    same(model, trained)


def test_several_tasks(tmp_path):
    (tmp_path / "config.yaml").write_text(f"_BASE_: {ROOT / 'configs' / 'toy' / 'multitask.yaml'}\n")
    trained = build_model(scaleeq.get_config(str(tmp_path / "config.yaml"), ["MODEL.DEVICE", "cpu"])).eval()
    SafeCheckpointer(trained, str(tmp_path)).save("model_final")
    HubModel.load(str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth")).save_pretrained(tmp_path / "hub")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = HubModel.from_pretrained(tmp_path / "hub").logits(images), trained.logits(images)
    assert found.keys() == expected.keys() and len(found) == 4
    for task, values in found.items():
        torch.testing.assert_close(values, expected[task], rtol=1e-5, atol=1e-6)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path):
    checkpoint(tmp_path)
    HubModel.load(str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth")).save_pretrained(tmp_path / "hub")
    file = tmp_path / "hub" / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in tensors if name.endswith(".weight"))
    save_file({name: value for name, value in tensors.items() if name != lost}, file)
    with pytest.raises(RuntimeError, match=lost):
        HubModel.from_pretrained(tmp_path / "hub")
