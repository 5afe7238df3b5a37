"""Laterals. Oracle: FaPN's selection (arXiv 2108.07058, section 3.2) written out per channel."""

from __future__ import annotations

import pytest
import torch

from scaleeq.fusion import LATERALS, make_lateral
from scaleeq.fusion.laterals import Select
from scaleeq.layers import ConvNormAct, batch_norm

X = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("residual", [True, False])
def test_selection_is_the_papers_formula(residual):
    select = Select(6, 4, residual=residual).double()
    importance, mixing = select.importance.weight[:, :, 0, 0], select.conv.weight[:, :, 0, 0]
    expected = torch.zeros(2, 4, 5, 7, dtype=torch.float64)
    for n in range(2):
        means = torch.stack([X[n, channel].mean() for channel in range(6)])
        u = 1 / (1 + torch.exp(-(importance @ means)))
        for channel in range(6):
            factor = 1 + u[channel] if residual else u[channel]
            expected[n] += mixing[:, channel, None, None] * (X[n, channel] * factor)
    torch.testing.assert_close(select(X), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["select", "squeeze_excite"])
def test_selection_has_neither_bias_nor_norm(name):
    lateral = make_lateral(name, 6, 4, norm=batch_norm)
    assert {key: tuple(value.shape) for key, value in lateral.state_dict().items()} == {
        "importance.weight": (6, 6, 1, 1),
        "conv.weight": (4, 6, 1, 1),
    }
    bound = (3 / 6) ** 0.5  # Caffe2's Xavier fill: uniform, variance 1 / fan-in
    assert 0.8 * bound < lateral.importance.weight.abs().max() <= bound


def test_squeeze_excitation_is_the_selection_without_the_residual():
    assert not make_lateral("squeeze_excite", 6, 4).residual
    assert make_lateral("select", 6, 4).residual


def test_a_convolution_has_the_norm_or_a_bias():
    plain, normed = make_lateral("conv", 6, 4), make_lateral("conv", 6, 4, norm=batch_norm)
    assert isinstance(plain, ConvNormAct) and plain.conv.bias is not None
    assert normed.conv.bias is None and (normed(X.float()) < 0).any()  # no ReLU by default


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=f"is 'attention'; choose one of .*{', '.join(LATERALS)}"):
        make_lateral("attention", 6, 4)
