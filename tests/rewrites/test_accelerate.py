"""accelerate on small models: what it may do, what it has to leave, what stays. Oracle: the same model, plain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq import accelerate
from scaleeq.rewrites import acceleration_report

from .nets import ALWAYS, Decoder, accelerated, check, close, counting, image, interpolated, made

CONVOLUTIONS = {
    "3x3": {},
    "no bias": {"bias": False},
    "same": {"padding": "same"},
    "dilated": {"dilation": 3, "padding": 3},
    "5x5": {"kernel_size": 5, "padding": 2},
    "1x1": {"kernel_size": 1, "padding": 0},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("size", [16, 28])
def test_outputs_and_gradients(name, size, monkeypatch):
    model, oracle = accelerated(Decoder(**CONVOLUTIONS[name]))
    check(model, oracle, monkeypatch, image(size))
    found = acceleration_report(model).fusions
    assert [(n, f.widths, f.sizes) for n, f in found.items()] == [("decoder.conv", (5, 6), ((16, 16), (4, 4)))]


LEFT = {
    "stride": ({"stride": 2}, "its stride"),
    "groups": ({"groups": 1, "padding_mode": "reflect"}, "also read by pad"),
    "valid": ({"padding": 0}, "changes the size"),
    "even": ({"kernel_size": 2, "padding": 0}, "its kernel is 2x2"),
    "oblong": ({"kernel_size": (3, 1), "padding": (1, 0)}, "its kernel is 3x1"),
}


@pytest.mark.parametrize("name", LEFT)
def test_convolutions_that_stay_plain(name, monkeypatch):
    how, reason = LEFT[name]
    model, oracle = accelerated(Decoder(**how))
    report = acceleration_report(model)
    assert not report.fusions
    assert reason in str(report) if report.passed_over else name == "groups"
    check(model, oracle, monkeypatch, expected=0)
    assert torch.equal(model(image()), oracle(image()))


class Resizing(nn.Module):
    """A decoder whose resize is given."""

    def __init__(self, resize, channels=11):
        super().__init__()
        self.resize = resize
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, low, high):
        """low: (N, 5, H, W); high: (N, 6, H / 4, W / 4) -> (N, 4, H, W)."""
        return self.conv(torch.cat((low, self.resize(low, high)), dim=-3))


RESIZES = {
    "corners": lambda low, high: F.interpolate(high, low.shape[2:], mode="bilinear", align_corners=True),
    "nearest": lambda low, high: F.interpolate(high, scale_factor=4),
    "bicubic": lambda low, high: F.interpolate(high, size=list(low.shape[2:]), mode="bicubic"),
    "padded by nothing": lambda low, high: F.pad(interpolated(high, 4), [0, 0, 0, 0]),
    "a pair of factors": lambda low, high: F.interpolate(high, scale_factor=(4.0, 4.0), mode="bilinear"),
    "twice": lambda low, high: interpolated(interpolated(high)),
    "nested": lambda low, high: torch.cat([interpolated(high[:, :2], 4), interpolated(high[:, 2:], 4)], 1),
    "recomputed": lambda low, high: F.interpolate(
        high, scale_factor=4.0, mode="bilinear", recompute_scale_factor=True, align_corners=False
    ),
}


@pytest.mark.parametrize("name", RESIZES)
def test_resizes(name, monkeypatch):
    model, oracle = accelerated(Resizing(RESIZES[name]))
    check(model, oracle, monkeypatch)


PLAIN_RESIZES = {
    "antialias": lambda low, high: F.interpolate(high, low.shape[2:], mode="bilinear", antialias=True),
    "nearest-exact": lambda low, high: F.interpolate(high, scale_factor=4, mode="nearest-exact"),
    "a factor of its own": lambda low, high: F.interpolate(high, scale_factor=4.1, mode="bilinear"),
    "hardly larger": lambda low, high: F.interpolate(low[:, :, :-1, :-1], low.shape[2:], mode="bilinear"),
    "cut": lambda low, high: interpolated(high, 5)[:, :, 2:-2, 2:-2],
    "activated": lambda low, high: interpolated(high, 4).relu(),
    "activated in place": lambda low, high: interpolated(high, 4).relu_(),
    "half written": lambda low, high: _half_written(interpolated(high, 4)),
}


def _half_written(x):
    x[:, :2] = 0
    x += 1
    return x


@pytest.mark.parametrize("name", PLAIN_RESIZES)
def test_resizes_that_stay_plain(name, monkeypatch):
    channels = 10 if name == "hardly larger" else 11
    model, oracle = accelerated(Resizing(PLAIN_RESIZES[name], channels))
    check(model, oracle, monkeypatch, expected=0)
    assert torch.equal(model(image()), oracle(image()))


class SourceChanged(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        high.mul_(2) if self.training else high.detach().mul_(2)
        return self.conv(torch.cat([low, up], 1)) + high.mean()


class JoinedChanged(Decoder):
    def forward(self, low, high):
        low = low * 1
        joined = torch.cat([low, self.up(high)], 1)
        low.add_(1)
        return self.conv(joined) + low.mean()


class AlsoRead(Decoder):
    def forward(self, low, high):
        joined = torch.cat([low, self.up(high)], 1)
        return self.conv(joined) * joined.mean((1, 2, 3), keepdim=True).sigmoid()


class ResizedIsRead(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        made = self.conv(torch.cat([low, up], 1))
        return made + up.mean()


class AliasWritten(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        also = up
        up.mul_(2)
        assert also is up or torch.equal(also, up)
        return self.conv(torch.cat([low, also], 1)) + also.sum()


@pytest.mark.parametrize("kind", [SourceChanged, JoinedChanged, AlsoRead, ResizedIsRead, AliasWritten])
def test_what_is_read_or_changed_elsewhere_stays_plain(kind, monkeypatch):
    model, oracle = accelerated(kind())
    x = image()
    with torch.no_grad(), counting(monkeypatch) as counts:
        assert torch.equal(model(x), oracle(x))
    with torch.inference_mode():
        assert torch.equal(model(x), oracle(x))
    assert not counts
    if kind is not SourceChanged:  # its gradient is refused by autograd
        check(model, oracle, monkeypatch, expected=0)


class Twice(Decoder):
    def forward(self, low, high):
        joined = torch.cat([low, self.up(high)], 1)
        return self.conv(joined) + self.conv(joined + 0) * 0 + F.conv2d(joined, self.conv.weight.flip(2), padding=1)


class ReadsMetadata(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        assert up.shape == (*low.shape[:1], 6, *low.shape[2:]) and up.size(1) == 6 and up.dim() == up.ndim == 4
        assert up.dtype == low.dtype and up.device == low.device and up.requires_grad == high.requires_grad
        assert not up.is_cuda and len(up) == len(low) and up.numel() == low.numel() // 5 * 6
        assert isinstance(up, torch.Tensor) and torch.is_tensor(up)
        n, _, h, w = up.shape
        return self.conv(torch.cat([low, up], 1))[:n, :, :h, :w]


def test_metadata_makes_no_map(monkeypatch):
    model, oracle = accelerated(ReadsMetadata())
    check(model, oracle, monkeypatch)


class Square(torch.autograd.Function):
    """Of which no torch function knows."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Unseen(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        return self.conv(torch.cat([low, up], 1)) + Square.apply(up)[:, :4]


def test_a_map_that_an_autograd_function_reads(monkeypatch):
    model, oracle = accelerated(Unseen())
    assert "also read by mul" in str(acceleration_report(model))
    check(model, oracle, monkeypatch, expected=0)


class Returns(Decoder):
    def forward(self, low, high):
        up = self.up(high)
        return {"out": self.conv(torch.cat([low, up], 1)), "up": up}


def test_a_region_gives_out_plain_tensors():
    model, oracle = made(), made()
    for m in (model, oracle):
        m.decoder = Returns().double()
    oracle.load_state_dict(model.state_dict())
    accelerate(model, limit=ALWAYS)
    for _ in range(3):
        out, expected = model(image()), oracle(image())
        assert type(out["up"]) is torch.Tensor and torch.equal(out["up"], expected["up"])
        close(out["out"], expected["out"])


@pytest.mark.parametrize("how", ["forward", "pre", "backward"])
@pytest.mark.parametrize("part", ["up", "drop", "conv"])
def test_hooks_on_maps_in_between_see_plain_tensors(how, part, monkeypatch):
    model, oracle = accelerated()
    seen = []
    register = {"forward": "register_forward_hook", "pre": "register_forward_pre_hook"}
    name = register.get(how, "register_full_backward_hook")
    handle = getattr(getattr(model.decoder, part), name)(lambda module, *values: seen.extend(values))
    check(model, oracle, monkeypatch, expected=0)
    flat = torch.utils._pytree.tree_leaves(seen)
    assert flat and all(type(value) is torch.Tensor for value in flat)
    handle.remove()
    check(model, oracle, monkeypatch)


def test_global_hooks_see_plain_tensors(monkeypatch):
    model, oracle = accelerated()
    with torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: None):
        check(model, oracle, monkeypatch, expected=0)
    check(model, oracle, monkeypatch)


def test_training_is_that_of_the_plain_model(monkeypatch):
    model, oracle = accelerated()
    model.train(), oracle.train()
    model.decoder.drop.p = oracle.decoder.drop.p = 0.0
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (model, oracle)]
    with counting(monkeypatch) as counts:
        for _ in range(6):
            for m, optimizer in zip((model, oracle), optimizers, strict=True):
                optimizer.zero_grad()
                m(image()).square().mean().backward()
                optimizer.step()
    assert len(counts) == 5  # the first is looked at
    for value, expected in zip(model.state_dict().values(), oracle.state_dict().values(), strict=True):
        close(value.double(), expected.double(), 1e-9)
    check(model.eval(), oracle.eval(), monkeypatch)


def test_dropout_that_is_on_stays_plain(monkeypatch):
    model, oracle = accelerated()
    model.train(), oracle.train()
    for _ in range(3):
        torch.manual_seed(5)
        expected = oracle(image())
        torch.manual_seed(5)
        with counting(monkeypatch) as counts:
            assert torch.equal(model(image()), expected)
        assert not counts
