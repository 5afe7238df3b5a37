"""What an accelerated model keeps: keys, class, copies, averages, precisions, formats. Oracle: the model, plain."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from torch import nn

from scaleeq import accelerate, equalize, fold_equalizers, plain
from scaleeq.rewrites import acceleration_report

from .nets import ALWAYS, Decoder, Net, accelerated, check, close, counting, image, interpolated, made


def test_keys_class_and_plain(monkeypatch):
    model, oracle = accelerated()
    assert list(model.state_dict()) == list(oracle.state_dict()) and type(model) is Net
    assert [n for n, _ in model.named_modules()] == [n for n, _ in oracle.named_modules()] and repr(model) == repr(
        oracle
    )
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    assert accelerate(model) is model and sum(len(m._forward_hooks) for m in model.modules()) == hooks == 2
    assert plain(model) is model
    left = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_always_called]
    assert not left
    check(model, oracle, monkeypatch, expected=0)


def test_a_copy_trains_alone(monkeypatch):
    model, oracle = accelerated()
    model(image())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
        for p in oracle.parameters():
            p.mul_(1.5)
    before = model(image())
    check(twin, oracle, monkeypatch)
    plain(twin)
    check(twin, oracle, monkeypatch, expected=0)
    with counting(monkeypatch) as counts:
        assert torch.equal(model(image()), before) and counts


def test_a_pickled_model(monkeypatch):
    model, oracle = accelerated()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    check(torch.load(file, weights_only=False), oracle, monkeypatch)


def test_an_average_of_weights(monkeypatch):
    model, oracle = accelerated()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    check(average.eval(), oracle, monkeypatch)


class Fails(Decoder):
    fail = False

    def forward(self, low, high):
        up = self.up(high)
        if self.fail:
            raise KeyboardInterrupt if self.fail == "interrupt" else RuntimeError("out of luck")
        return self.conv(torch.cat([low, up], 1))


@pytest.mark.parametrize("fail", ["interrupt", "error"])
def test_a_forward_that_fails_leaves_no_mode(fail, monkeypatch):
    model, oracle = accelerated(Fails())
    for m in (model, made(Fails())):
        accelerate(m, limit=ALWAYS)
        m.decoder.fail = fail
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            m(image())
        assert type(interpolated(image())) is torch.Tensor
        m.decoder.fail = False
    check(model, oracle, monkeypatch)
    assert not torch._C._len_torch_function_stack()


def test_autocast(monkeypatch):
    model, oracle = accelerated()
    model.float(), oracle.float()
    x = image(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), counting(monkeypatch) as counts:
        out, expected = model(x), oracle(x)
    assert counts and out.dtype == expected.dtype == torch.bfloat16
    close(out.float(), expected.float(), 2e-2)
    out.float().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions(dtype, monkeypatch):
    model, oracle = accelerated()
    model.to(dtype), oracle.to(dtype)
    with torch.no_grad(), counting(monkeypatch) as counts:
        out, expected = model(image(dtype=dtype)), oracle(image(dtype=dtype))
    assert counts and out.dtype == dtype
    close(out.double(), expected.double(), 1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_memory_formats(last, alone, monkeypatch):
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 4, 3, padding=1)

        def forward(self, low, high):
            return self.conv(interpolated(high, 4))

    model, oracle = accelerated(Alone() if alone else Decoder())
    x = image()
    if last:
        model.to(memory_format=torch.channels_last), oracle.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    with counting(monkeypatch) as counts:
        out, expected = model(x), oracle(x)
    assert counts and out.stride() == expected.stride()
    close(out, expected)
    check(model, oracle, monkeypatch, x)


def test_what_pays_is_evaluated_and_what_does_not_is_left_as_it_was(caplog, monkeypatch):
    model, oracle = made(), made()
    with caplog.at_level(logging.WARNING):
        assert accelerate(model, image(), limit=0.0) is model
    assert "nothing in Net pays" in caplog.text and "decoder.conv" in caplog.text
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert accelerate(model, {"x": image()}, limit=ALWAYS) is model
    assert acceleration_report(model).pays and not model.training
    check(model, oracle, monkeypatch)


def test_refusals():
    for wrong, reason in ((nn.Conv2d, "not an nn.Module"), (torch.jit.script(nn.ReLU()), "scripted")):
        with pytest.raises(ValueError, match=reason):
            accelerate(wrong)
    with pytest.raises(ValueError, match="compiled"):
        accelerate(torch.compile(nn.ReLU()))
    assert "not known" in str(acceleration_report(made()))


def test_a_compiler_and_an_export_take_the_plain_way(monkeypatch):
    model, oracle = accelerated()
    x = image()
    with torch.no_grad(), counting(monkeypatch) as counts:
        assert torch.equal(torch.compile(model, backend="eager")(x), oracle(x))
        assert torch.equal(torch.export.export(model, (x,)).module()(x), oracle(x))
        assert not counts
        close(model(x), oracle(x))
    assert len(counts) == 1, "and eager forwards do not, before and after"


def test_equalizing_and_folding_around_it():
    model, oracle = accelerated()
    x = image()
    for each in (model, oracle):
        equalize(each, [x])
    folded = fold_equalizers(model)
    with torch.no_grad():
        close(model(x), oracle(x), 1e-9)
        close(folded(x), oracle(x), 1e-9)
