"""Models by name: the list, the table of weights, and a checkpoint of a training as a plain model."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

import scaleeq
from scaleeq.engine import SafeCheckpointer, build_model
from scaleeq.equalization.calibration import fusions_of
from scaleeq.model import Segmentation
from scaleeq.zoo import TABLE, load_model, read_table
from tests.commands.test_console_verbs import ROOT, WATCHED, loaded
from tests.commands.test_console_verbs import scaleeq as console
from tests.training.tiny import tiny_config

ENTRY = {"weights": "w.pth", "sha256": "0" * 64, "measured": {"sem_seg/mIoU": 56.2}}


def checkpoint(tmp_path, *, equalizer: bool = True):
    """A run's folder with config.yaml and model_final.pth, and its model."""
    changes = {"MODEL__TIMM__NAME": "test_resnet", "MODEL__SCALE_EQUALIZER__ENABLED": equalizer}
    cfg = tiny_config(tmp_path, MODEL__SCALE_EQUALIZER__SCOPE="all", **changes)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for fusion in fusions_of(model).values():
        for each in fusion.equalizer_of.values():
            each.set_statistics(torch.tensor(0.1), torch.tensor(2.0), 4)
    SafeCheckpointer(model, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return model


def same(one, other):
    images = torch.randn(1, 3, 61, 97)
    with torch.no_grad():
        torch.testing.assert_close(one.logits(images), other.logits(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("equalizer", [True, False])
def test_a_checkpoint_is_a_plain_model(tmp_path, equalizer):
    trained = checkpoint(tmp_path, equalizer=equalizer)
    model = scaleeq.load_model(str(tmp_path / "config.yaml"), weights=str(tmp_path / "model_final.pth"))
    assert type(model) is Segmentation and not model.training
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "sem_seg_head"}
    assert any(fusion.equalizers for fusion in fusions_of(model).values()) == equalizer
    same(model, trained)


def test_a_model_of_several_tasks(tmp_path):
    (tmp_path / "config.yaml").write_text(f"_BASE_: {ROOT / 'configs' / 'toy' / 'multitask.yaml'}\n")
    cfg = scaleeq.get_config(str(tmp_path / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    trained = build_model(cfg).eval()
    SafeCheckpointer(trained, str(tmp_path)).save("model_final")
    model = load_model(str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth"))
    assert type(model) is Segmentation
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = model(images), trained.logits(images)
    assert list(found) == ["sem_seg", "depth", "normals", "edges"] == list(expected)
    assert found["normals"].shape == (1, 3, 64, 96)
    for task, values in model.logits(images).items():
        torch.testing.assert_close(values, expected[task], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"has several tasks .sem_seg, depth, normals, edges., and an exported file"):
        scaleeq.export(model, tmp_path / "model.ts")


def test_folded_weights_without_auxiliary_heads(tmp_path):
    trained = checkpoint(tmp_path)
    model = load_model(str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth"))
    torch.save(scaleeq.fold_equalizers(model).state_dict(), tmp_path / "folded.pth")
    again = load_model(str(tmp_path / "config.yaml"), str(tmp_path / "folded.pth"))
    assert not any(fusion.equalizers for fusion in fusions_of(again).values())
    same(again, trained)


def test_other_weights_are_refused(tmp_path):
    checkpoint(tmp_path, equalizer=False)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    del content["model"]["sem_seg_head.classifier.bias"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"sem_seg_head\.classifier\.bias"):
        load_model(str(tmp_path / "config.yaml"), str(tmp_path / "less.pth"))
    with pytest.raises(ValueError, match=r"toy/fpn has no weights yet: train it \(scaleeq train toy/fpn\)"):
        load_model("toy/fpn")
    with pytest.raises(FileNotFoundError, match="did you mean toy/fpn"):
        load_model("toy/fpm")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_model("toy/fpn", weights=str(tmp_path / "none.pth"))


def test_weights_of_the_table(tmp_path):
    trained = checkpoint(tmp_path)
    name, table = str(tmp_path / "config.yaml"), tmp_path / "zoo.json"
    digits = hashlib.sha256((tmp_path / "model_final.pth").read_bytes()).hexdigest()
    table.write_text(json.dumps({name: ENTRY | {"weights": "model_final.pth", "sha256": digits}}))
    assert read_table(table)[name].measured == {"sem_seg/mIoU": 56.2}
    same(load_model(name, table=table), trained)
    table.write_text(json.dumps({name: ENTRY | {"weights": "model_final.pth"}}))
    with pytest.raises(ValueError, match=f"have the sha256 {digits}, not 0000"):
        load_model(name, table=table)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no", "is no JSON"),
        ("[]", "holds a list"),
        ('{"a": 1}', "a is 1; give weights, sha256"),
        (json.dumps({"a": ENTRY | {"sha256": "12"}}), "sha256 is '12'"),
        (json.dumps({"a": ENTRY | {"measured": {"mIoU": "high"}}}), "measured is"),
        (json.dumps({"a": ENTRY | {"wieghts": ""}}), "did you mean weights"),
        (json.dumps({"a": {"sha256": "0" * 64}}), "weights is None"),
    ],
)
def test_a_wrong_table_is_told(tmp_path, content, told):
    (tmp_path / "zoo.json").write_text(content)
    with pytest.raises(ValueError, match=told):
        read_table(tmp_path / "zoo.json")


def test_the_shipped_table_and_the_list():
    assert set(read_table(TABLE)) <= set(scaleeq.list_models())
    assert "ade20k/uper_r50" in scaleeq.list_models("*uper*") and "toy/fpn" not in scaleeq.list_models("*uper*")
    done = console("models", "*uper*", code=WATCHED)
    assert done.returncode == 0 and loaded(done) == [] and "ade20k/uper_r50 " in done.stdout
    assert json.loads(console("models", "toy/fpn", "--json").stdout)["name"] == "toy/fpn"
    done = console("models", "*upper*")
    assert done.returncode == 2 and done.stderr.startswith("error: no model's name matches '*upper*'")
