"""accelerate on models of other libraries, with random weights. Oracle: a copy of the model, plain."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

from scaleeq import accelerate
from scaleeq.rewrites import acceleration_report
from tests.equalization.test_foreign_libraries import MODELS, images, logits

from .nets import close, counting

DOCUMENT = Path(__file__).parents[2] / "docs" / "accelerate.md"


@pytest.mark.parametrize("name", [*list(MODELS)[:4], pytest.param("torchvision DeepLabV3", marks=pytest.mark.slow)])
def test_outputs_and_gradients_are_the_plain_model_s(name, monkeypatch):
    make, fusions = MODELS[name]
    torch.manual_seed(0)
    oracle = make().double().eval()
    model = accelerate(copy.deepcopy(oracle), limit=float("inf"))
    x = images(1, 64)[0]
    logits(model, x)
    report = acceleration_report(model)
    assert set(report.fusions) | set(report.passed_over) >= set(fusions)
    with counting(monkeypatch) as counts:
        out, expected = logits(model, x), logits(oracle, x)
    assert len(counts) == len(report.fusions) > 0
    close(out, expected, 1e-10)
    out.square().mean().backward(), expected.square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in oracle.parameters() if p.grad is not None)
    for own, other in zip(model.parameters(), oracle.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-9 * largest)


def test_the_document_s_example_runs():
    (example,) = re.findall(r"^```python\n(.+?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    scope: dict = {}
    exec(compile(example, DOCUMENT.name, "exec"), scope)
    assert scope["report"].seen and not any(m._forward_hooks for m in scope["model"].modules())
