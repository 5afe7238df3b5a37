"""What numbers are written and read: the same rule both ways, for weights, averages and what trains them.

Oracles: torch.isfinite on what was saved; files of torch.save, which writes anything.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaleeq import ScaleEqualizer
from scaleeq.converters import convert_fapn_weights
from scaleeq.engine import SafeCheckpointer, write_checkpoint
from scaleeq.engine.checkpoint_numbers import bounds, first_fault, weight_fault

from .small_models import a_model, equal, weights

NAN, INF = math.nan, math.inf


class Equalized(nn.Module):
    """A layer, a mask and a scale equalizer, by the names of a Fusion's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = a_model()
        self.register_buffer("mask", torch.tensor([0.0, -INF]))
        self.equalizers = nn.ModuleDict({"fine": ScaleEqualizer(3)})


FAULTS = [
    ("layer.0.weight", NAN, "is not finite"),
    ("layer.0.weight", INF, "is not finite"),
    ("layer.0.bias", -INF, "is not finite"),
    ("layer.1.running_mean", NAN, "is not finite"),
    ("layer.1.running_mean", -INF, "is not finite"),
    ("layer.1.running_var", INF, "is not finite"),
    ("layer.1.running_var", -1.0, "is -1, and a variance is not below 0"),
    ("mask", NAN, "is not finite"),
    ("mask", INF, "is not finite"),
    ("equalizers.fine.mean", NAN, "is not finite"),
    ("equalizers.fine.mean", -INF, "is not finite"),
    ("equalizers.fine.std", NAN, "is not finite"),
    ("equalizers.fine.std", INF, "is not finite"),
    ("equalizers.fine.std", 0.0, "is 0, and a scale equalizer's standard deviation is above 0"),
    ("equalizers.fine.std", -2.0, "is -2, and a scale equalizer's standard deviation is above 0"),
]


@pytest.mark.parametrize("key", ["model", "ema"])
@pytest.mark.parametrize(("name", "value", "message"), FAULTS)
def test_the_same_is_neither_written_nor_read(key: str, name: str, value: float, message: str, tmp_path: Path) -> None:
    faulty, model = Equalized(), Equalized()
    faulty.state_dict()[name].view(-1)[0] = value
    whole = Equalized() if key == "ema" else faulty
    average = {"ema": faulty} if key == "ema" else {}
    with pytest.raises(FloatingPointError, match=rf"^{name} of '{key}' {message}.*: .*model\.pth is not written"):
        SafeCheckpointer(whole, str(tmp_path), **average).save("model")
    parameters = [name for name, _ in model.named_parameters()]
    content = {"model": whole.state_dict(), **{key: faulty.state_dict()}}
    with pytest.raises(FloatingPointError, match=rf"^{name} of '{key}' {message}"):
        write_checkpoint(tmp_path / "model_best.pth", content, parameters=parameters)
    assert not any(tmp_path.iterdir())
    torch.save(content, tmp_path / "model.pth")
    before = weights(model)
    checkpointer = SafeCheckpointer(model, **({"ema": Equalized()} if key == "ema" else {}))
    for load in (checkpointer.load, checkpointer.load_weights):
        with pytest.raises(ValueError, match=rf"model\.pth holds numbers .*nothing was loaded: {name} of '{key}' "):
            load(str(tmp_path / "model.pth"))
        assert equal(before, weights(model))


def test_masks_and_metrics_may_be_what_they_are(tmp_path: Path) -> None:
    model, other = Equalized(), Equalized()
    SafeCheckpointer(model, str(tmp_path)).save("model", best=-INF, loss=NAN, losses=torch.tensor(NAN))
    rest = SafeCheckpointer(other).load(str(tmp_path / "model.pth"))
    assert rest["best"] == -INF and math.isnan(rest["loss"]) and rest["losses"].isnan()
    assert equal(weights(model), weights(other))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda state: state["state"][0]["exp_avg"].fill_(NAN), "state.0.exp_avg is not finite"),
        (lambda state: state["state"][1]["exp_avg_sq"].fill_(INF), "state.1.exp_avg_sq is not finite"),
        (lambda state: state["param_groups"][0].update(lr=NAN), "param_groups.0.lr is nan"),
        (lambda state: state["param_groups"][0].update(betas=(0.9, INF)), "param_groups.0.betas.1 is inf"),
    ],
)
def test_the_optimizer_s_numbers_are_finite(change: Any, name: str, tmp_path: Path) -> None:
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    checkpointer = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.save("model", iteration=1)
    before, file = (tmp_path / "model.pth").read_bytes(), str(tmp_path / "other.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    change(content["optimizer"])
    torch.save(content, file)
    with pytest.raises(ValueError, match=rf"other\.pth holds numbers .*: optimizer\.{name}"):
        checkpointer.load(file)
    checkpointer.load(file, checkpointables=[])  # its weights are sound
    optimizer.load_state_dict(content["optimizer"])
    with pytest.raises(FloatingPointError, match=rf"^optimizer\.{name}"):
        checkpointer.save("model", iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before


def test_a_loss_scale_that_is_not_finite() -> None:
    assert first_fault({"trainer": {"scaler": {"scale": INF}}}, ()) == "trainer.scaler.scale is inf"
    assert first_fault({"trainer": {"hooks": {"Best": {"value": INF}}}}, ()) == ""


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_float_is_looked_at(dtype: torch.dtype) -> None:
    values = torch.tensor([0.5, -2.0, 1.0]).to(dtype)
    assert bounds(values) == (-2.0, 1.0)
    for wrong in (NAN, INF, -INF):
        assert weight_fault("a.weight", torch.tensor([0.5, wrong]).to(dtype), is_parameter=True) == "is not finite"
    assert weight_fault("a.weight", torch.zeros(0, dtype=dtype), is_parameter=True) == ""


def test_fapn_s_released_weights_are_looked_at() -> None:
    with pytest.raises(ValueError, match=r"^fpn_output2\.weight is not finite"):
        convert_fapn_weights({"fpn_output2.weight": torch.tensor([0.0, NAN])})
