"""Weights that come with the package: made of a run's checkpoint, entered in the table, found by name, as measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from evidence.released_weights import MAX_BYTES, enter, file_of, rounded, write
from scaleeq.commands import demo, evaluate
from scaleeq.engine import load_config
from scaleeq.training import evaluate_only
from scaleeq.zoo import TABLE, load_model, read_table, weights_of
from tests.commands.test_console_verbs import ROOT
from tests.test_zoo import checkpoint

SHIPPED = [name for name, entry in read_table().items() if "://" not in entry.weights]
needs_shipped = pytest.mark.skipif(
    demo.DEFAULT not in SHIPPED,
    reason=f"no weights of {demo.DEFAULT} are there: evidence/released_weights.py makes them",
)


def released(tmp_path, monkeypatch, **changes):
    """A table in tmp_path with a tiny model's file, evaluated and entered; its name, a config's path."""
    trained, name, table = checkpoint(tmp_path, **changes), str(tmp_path / "config.yaml"), tmp_path / "zoo.json"
    table.write_text("{}")
    monkeypatch.setattr("evidence.released_weights.stem_of", lambda name: "tiny")
    file = write(name, tmp_path / "model_final.pth", table)
    opts = ["MODEL.WEIGHTS", str(file), "OUTPUT_DIR", str(tmp_path / "eval")]
    evaluate_only(load_config(name, opts))
    enter(name, tmp_path / "eval" / "inference" / "results.json", table=table, evidence=tmp_path)
    return trained, name, table


@pytest.mark.parametrize("equalizer", [False, True])
def test_a_checkpoint_becomes_a_file_of_half_the_size(tmp_path, monkeypatch, equalizer):
    trained, name, table = released(tmp_path, monkeypatch, equalizer=equalizer)
    entry = read_table(table)[name]
    found = json.loads((tmp_path / "eval" / "inference" / "results.json").read_text())
    assert entry.measured == {"sem_seg/mIoU": round(found["sem_seg"]["mIoU"], 2)}
    assert json.loads((tmp_path / "tiny_released.json").read_text())["file_sha256"] == entry.sha256
    stored = torch.load(file_of(name, table), weights_only=True)["model"]
    model = load_model(name, table=table)
    own, before = model.state_dict(), trained.state_dict()
    assert own.keys() <= stored.keys() == before.keys()
    for key, value in own.items():
        half = value.is_floating_point() and value.dim() > 1
        assert stored[key].dtype == (torch.float16 if half else value.dtype) and value.dtype == before[key].dtype
        assert torch.equal(value, before[key].half().float() if half else before[key]), key
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits, expected = model(images), trained.logits(images)
    torch.testing.assert_close(logits, torch.nn.functional.interpolate(expected, (64, 96), mode="bilinear"),
                               rtol=0.05, atol=0.02 * float(expected.abs().max()))  # fmt: skip


def test_a_changed_file_or_foreign_results_are_refused(tmp_path, monkeypatch):
    _, name, table = released(tmp_path, monkeypatch, equalizer=False)
    file = file_of(name, table)
    content = torch.load(file, weights_only=True)
    content["model"]["sem_seg_head.classifier.bias"] += 1
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"have the sha256 \w+, not "):
        load_model(name, table=table)
    with pytest.raises(ValueError, match="was measured with other weights than those of"):
        enter(name, tmp_path / "eval" / "inference" / "results.json", table=table, evidence=tmp_path)


def test_numbers_that_float16_has_not_are_refused():
    with pytest.raises(FloatingPointError, match=r"w holds 70000, which float16 has not"):
        rounded({"w": torch.tensor([[7e4]])})
    weights, change = rounded(
        {"w": torch.tensor([[1 + 2**-12]]), "bias": torch.tensor([7e4]), "n": torch.tensor([[3]])}
    )
    assert change == pytest.approx(2**-12, rel=1e-3) and weights["bias"].dtype == torch.float32
    assert weights["n"].dtype == torch.int64


def test_wrong_use():
    command = [sys.executable, "-m", "evidence.released_weights", "toy/fpn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (
        2,
        1,
    ) and "give a checkpoint, or --results" in done.stderr


def test_a_name_without_weights_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"toy/fpn has no weights yet: train it \(scaleeq train toy/fpn\), or convert"):
        weights_of("toy/fpn", load_config("toy/fpn"))


def test_eval_takes_the_weights_of_a_name(tmp_path, monkeypatch):
    """Those of the table, unless others are given; names, and the words, as the console has them."""
    monkeypatch.setattr(evaluate, "read_table", lambda: {"toy/fpn": None})
    monkeypatch.setattr(evaluate, "released_weights", lambda name: f"the file of {name}")
    seen = []
    monkeypatch.setattr(evaluate.train, "run", lambda arguments: seen.append(arguments.opts))
    for words in (["toy/fpn", "SEED", "3"], ["toy/fpn", "MODEL.WEIGHTS", "w.pth"], ["toy/uper"]):
        evaluate.run(evaluate.parse(evaluate.parser(), words))
    assert seen == [["SEED", "3", "MODEL.WEIGHTS", "the file of toy/fpn"], ["MODEL.WEIGHTS", "w.pth"], []]


@needs_shipped
def test_the_shipped_file_is_small_and_loads():
    entry = read_table(TABLE)[demo.DEFAULT]
    with open(entry.weights, "rb") as file:
        assert file.seek(0, 2) <= MAX_BYTES
    model = load_model(demo.DEFAULT)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 11, 64, 96)
    assert (ROOT / entry.evidence).is_file() and entry.measured["sem_seg/mIoU"] > 60
