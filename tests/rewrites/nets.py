"""Small models with a resize, a concatenation and a convolution in them, and a spy on what is evaluated per branch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import scaleeq.rewrites.deferred as deferred
from scaleeq import accelerate


class Decoder(nn.Module):
    """Two maps side by side, the smaller one resized, into a 3x3 convolution."""

    def __init__(self, **conv):
        super().__init__()
        self.up = nn.Upsample(scale_factor=4, mode="bilinear")
        self.drop = nn.Dropout2d(0.5)
        self.conv = nn.Conv2d(5 + 6, 4, **{"kernel_size": 3, "padding": 1, **conv})

    def forward(self, low, high):
        """low: (N, 5, H, W); high: (N, 6, H / 4, W / 4) -> (N, 4, H, W)."""
        return self.conv(self.drop(torch.cat([low, self.up(high)], 1)))


class Net(nn.Module):
    """A backbone with batch norms, and a decoder."""

    def __init__(self, decoder=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(5, 6, 4, stride=4), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.decoder = Decoder() if decoder is None else decoder

    def forward(self, x):
        """x: (N, 3, H, W) -> (N, 4, H, W)."""
        low = self.stem(x)
        return self.decoder(low, self.deep(low))


def made(decoder=None) -> nn.Module:
    torch.manual_seed(0)
    return Net(decoder).double().eval()


def image(size=16, count=2, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of maps of each convolution that is evaluated per branch inside."""
    counts: list[int] = []
    real = deferred.resized_conv2d

    def spy(maps, *args, **kwargs):
        counts.append(len(maps))
        return real(maps, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(deferred, "resized_conv2d", spy)
        yield counts


def close(a, b, tolerance=1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()) + 1e-300)


def interpolated(x, factor=2):
    return F.interpolate(x, scale_factor=factor, mode="bilinear")


ALWAYS = float("inf")


def accelerated(decoder=None, x=None):
    """A model that has run once, and its plain twin."""
    model = made(decoder)
    oracle = copy.deepcopy(model)
    accelerate(model, limit=ALWAYS)
    with torch.no_grad():
        model(image() if x is None else x)
    return model, oracle


def gradients(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"x": x.grad} | {name.removeprefix("module."): gradient for name, gradient in named.items()}


def check(model, oracle, monkeypatch, x=None, expected=1):
    """Outputs and gradients are the plain model's; `expected` convolutions are evaluated per branch in a forward."""
    x = image() if x is None else x
    for context in (torch.no_grad, torch.inference_mode):
        with context(), counting(monkeypatch) as counts:
            close(model(x), oracle(x))
        assert len(counts) == expected
    with counting(monkeypatch) as counts:
        own, others = gradients(model, x), gradients(oracle, x)
    assert len(counts) == expected
    for name, gradient in others.items():
        close(own[name], gradient, 1e-9)
