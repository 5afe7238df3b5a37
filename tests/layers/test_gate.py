"""Gates. Oracles: GSTO's equations (arXiv 2005.13363, 1 to 4) written out per pixel; torch's batch norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.fusion import Gated
from scaleeq.layers import Gate, LogitsGate, SupervisedGate, collected_logits
from scaleeq.layers.gate import GATES


def drawn(module: nn.Module) -> nn.Module:
    """The module in float64, with weights that let gates differ from one half, and norms that leave ReLUs alive."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
        else:
            nn.init.normal_(parameter, generator=generator)
    return module


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sigmoid_of_sums(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Equations 2 and 4: sigmoid(sum over m of weights[m] * x[m]) at each pixel, by loops."""
    gate = torch.zeros(len(x), 1, *x.shape[-2:], dtype=x.dtype)
    for m, weight in enumerate(weights.flatten()):
        gate[:, 0] += weight * x[:, m]
    return 1 / (1 + torch.exp(-gate))


def test_equations_1_and_2_unsupervised():
    gate, x = drawn(Gate(3)), maps(2, 3, 4, 5)
    expected = x * sigmoid_of_sums(gate.map[0].weight, x)
    torch.testing.assert_close(gate(x), expected, rtol=0, atol=1e-12)


def test_the_reference_gate_is_normalised_and_rectified_before_the_sigmoid():
    gate, x = drawn(Gate(3, kind="reference")), maps(2, 3, 4, 5)
    conv, norm = gate.map[0], gate.map[1]
    sums = torch.einsum("nmyx,m->nyx", x, conv.weight.flatten())[:, None]
    normalised = (sums - sums.mean()) / (sums.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(gate(x), x / (1 + torch.exp(-normalised.clamp(min=0))), rtol=0, atol=1e-12)
    assert [name for name, _ in gate.named_parameters()] == ["map.0.weight", "map.1.weight", "map.1.bias"]


@pytest.mark.parametrize("training", [True, False])
def test_ranges(training):
    """Pixels at both ends: of [0.5, 1) for "reference", of (0, 1) for "paper"."""
    x = 3 * maps(4, 3, 8, 8)
    with torch.no_grad():
        reference = drawn(Gate(3, kind="reference")).train(training).map(x)
        paper = drawn(Gate(3)).map(x)
    assert reference.min() == 0.5 and 0.9 < reference.max() < 1
    assert 0 < paper.min() < 0.1 and 0.9 < paper.max() < 1


@pytest.mark.parametrize("num_classes", [1, 4])
def test_equations_3_and_4_supervised(num_classes):
    gate, x = drawn(SupervisedGate(3, num_classes)), maps(2, 3, 4, 5)
    weight, bias = gate.predictor.weight[:, :, 0, 0], gate.predictor.bias
    logits = torch.einsum("km,nmyx->nkyx", weight, x) + bias[:, None, None]
    expected = x * sigmoid_of_sums(gate.gate.map[0].weight, logits)
    with collected_logits() as predicted:
        torch.testing.assert_close(gate(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(predicted, {gate: logits}, rtol=0, atol=1e-12)


def test_a_supervised_gate_reports_in_training_to_the_innermost_collector_alone():
    gate, x = SupervisedGate(3, 2), torch.randn(1, 3, 4, 4)
    with collected_logits() as outer:
        with collected_logits() as inner:
            gate(x)
        gate.eval()(x)
    assert set(inner) == {gate} and not outer
    gate.train()(x)
    assert set(inner) == {gate} and not outer, "nobody listens"


def test_logits_at_a_finer_resolution_are_resized_for_the_papers_gate():
    gate, x, logits = drawn(LogitsGate(5, halvings=2)), maps(2, 3, 3, 4), maps(2, 5, 9, 13)
    resized = F.interpolate(logits, size=(3, 4), mode="bilinear", align_corners=False)
    expected = x * sigmoid_of_sums(gate.map[0].weight, resized)
    torch.testing.assert_close(gate(x, logits), expected, rtol=0, atol=1e-12)


def test_logits_at_a_finer_resolution_pass_strided_convolutions_for_the_reference_gate():
    gate, x, logits = drawn(LogitsGate(5, kind="reference", halvings=2)), maps(2, 3, 3, 4), maps(2, 5, 9, 13)
    y = logits
    for index, stride in zip((0, 3, 6), (1, 2, 2), strict=True):
        conv, norm = gate.map[index], gate.map[index + 1]
        y = F.conv2d(y, conv.weight, stride=stride, padding=1)
        y = F.relu(F.batch_norm(y, None, None, norm.weight, norm.bias, training=True, eps=norm.eps))
    torch.testing.assert_close(gate(x, logits), x * torch.sigmoid(y), rtol=0, atol=1e-12)
    assert [tuple(p.shape) for p in gate.parameters() if p.dim() == 4] == [(1, 5, 3, 3), (1, 1, 3, 3), (1, 1, 3, 3)]


@pytest.mark.parametrize("kind", GATES)
def test_gates_start_close_to_one_half(kind):
    torch.manual_seed(0)
    gate, x = Gate(8, kind=kind).eval(), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(gate(x), x / 2, rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("halvings", [None, 0, 1])
def test_gradients(kind, halvings):
    """Finite differences in float64, in evaluation (the oracle), and a gradient for everything in training."""
    x = maps(1, 2, 3, 2).requires_grad_()
    if halvings is None:
        module, inputs = drawn(Gate(2, kind=kind)), (x,)
    else:
        size = (6, 4) if halvings else (3, 2)
        module, inputs = drawn(LogitsGate(3, kind=kind, halvings=halvings)), (x, maps(1, 3, *size).requires_grad_())
    assert torch.autograd.gradcheck(module.eval(), inputs)
    module.train()(*inputs).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in (*inputs, *module.parameters()))


@pytest.mark.parametrize("kind", GATES)
def test_bfloat16_under_autocast(kind):
    gates = (drawn(Gate(4, kind=kind)).float(), drawn(SupervisedGate(4, 2, kind=kind)).float())
    x = torch.randn(2, 4, 6, 6)
    for gate in gates:
        expected = gate(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = gate(x)
        torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.1)
        assert result.isfinite().all()


def test_a_gated_transfer_gates_at_the_source_resolution():
    gate, x = drawn(Gate(3)), maps(1, 3, 4, 5)
    expected = F.interpolate(gate(x), size=(8, 9), mode="bilinear", align_corners=False)
    assert torch.equal(Gated(gate)(x, maps(1, 2, 8, 9)), expected)


def test_wrong_values_are_refused():
    for make in (lambda: Gate(3, kind="soft"), lambda: LogitsGate(3, kind="soft")):
        with pytest.raises(ValueError, match=r"MODEL\.GATE is 'soft'; choose one of paper, reference"):
            make()
    with pytest.raises(ValueError, match="num_classes is 0"):
        SupervisedGate(3, 0)
