"""Files of other kinds of numbers, other names, other trainings: what is converted, what is refused, nothing half.

Oracles: torch's own casts and pickles; the state of everything before the refusal.
"""

from __future__ import annotations

import copy
import logging
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.engine import SafeCheckpointer

from .damage import same
from .small_models import a_model, equal, weights


def cast(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = a_model().state_dict()
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_another_width_are_weights_but_no_run(
    dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, model, state = str(tmp_path / "model.pth"), a_model(), cast(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "iteration": 1}, file)
    before = weights(model)
    checkpointer = SafeCheckpointer(model, optimizer=optimizer)
    with pytest.raises(ValueError, match=rf"of another kind: 0\.weight is {str(dtype)[6:]} in the file, float32 in"):
        checkpointer.load(file)
    assert equal(before, weights(model))
    with caplog.at_level(logging.INFO, "scaleeq"):
        checkpointer.load_weights(file)
    assert "6 of 7 tensors are converted to the model's types" in caplog.text
    assert equal(weights(model), [value.to(own.dtype) for value, own in zip(state.values(), before, strict=True)])


def test_numbers_beyond_the_model_s_type_are_refused(tmp_path: Path) -> None:
    state, model = cast(torch.float64), a_model()
    state["1.bias"][1] = -1e300
    torch.save(state, tmp_path / "model.pth")
    before = weights(model)
    for strict in (True, False):
        with pytest.raises(
            ValueError, match=r"model\.pth: nothing was loaded, for 1\.bias is float64 in the file, floa"
        ):
            SafeCheckpointer(model).load_weights(str(tmp_path / "model.pth"), strict=strict)
    assert equal(before, weights(model))


def test_in_part_other_kinds_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state, model = a_model().state_dict(), a_model()
    state["0.bias"] = state["0.bias"].long()
    torch.save(state, tmp_path / "model.pth")
    bias = model.state_dict()["0.bias"].clone()
    SafeCheckpointer(model).load_weights(str(tmp_path / "model.pth"), strict=False)
    assert "\n  of another kind: 0.bias is int64 in the file, float32 in the model" in caplog.text
    assert torch.equal(model.state_dict()["0.bias"], bias)
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "module.module.{}"]
)
def test_what_is_around_a_model_is_taken_off(name: str, tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    torch.save({"model": {name.format(key): value for key, value in source.state_dict().items()}}, tmp_path / "m.pth")
    for load in (SafeCheckpointer(target).load_weights, SafeCheckpointer(target).load):
        target.load_state_dict(a_model().state_dict())
        load(str(tmp_path / "m.pth"))
        assert equal(weights(source), weights(target))


def test_a_compiled_part_and_a_compiled_model(tmp_path: Path) -> None:
    def with_compiled_part() -> nn.Module:
        return nn.ModuleDict({"backbone": torch.compile(a_model(), backend="eager"), "head": nn.Linear(2, 2)})

    source, plain = with_compiled_part(), nn.ModuleDict({"backbone": a_model(), "head": nn.Linear(2, 2)})
    assert "backbone._orig_mod.0.weight" in source.state_dict()
    torch.save({"model": source.state_dict()}, tmp_path / "m.pth")
    for target in (plain, with_compiled_part(), torch.compile(plain, backend="eager")):
        for load in (SafeCheckpointer(target).load_weights, SafeCheckpointer(target).load):
            for parameter in target.parameters():
                nn.init.zeros_(parameter)
            load(str(tmp_path / "m.pth"))
            assert equal(weights(source), weights(target))
    state = source.state_dict()
    torch.save({"model": {**state, "backbone.0.weight": state["backbone._orig_mod.0.weight"]}}, tmp_path / "twice.pth")
    with pytest.raises(ValueError, match=r"twice\.pth: 'model' holds a tensor twice"):
        SafeCheckpointer(plain).load_weights(str(tmp_path / "twice.pth"))


# ---------------------------------------------------------------------------------------------------- pickles of arrays


def arrays(model: nn.Module) -> dict[str, Any]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F", ">"])
def test_a_pickle_of_detectron2_is_read(protocol: int, order: str, tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    state = arrays(source)
    state["0.weight"] = state["0.weight"].astype(">f4") if order == ">" else np.asarray(state["0.weight"], order=order)
    state["1.num_batches_tracked"] = np.int64(7)
    content = {"model": OrderedDict(state), "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert SafeCheckpointer(target).load_weights(str(tmp_path / "R-50.pkl")) == "trained"
    assert target[1].num_batches_tracked == 7
    source[1].num_batches_tracked.fill_(7)
    assert equal(weights(source), weights(target))
    assert SafeCheckpointer(target).load(str(tmp_path / "R-50.pkl"), []) == {"__author__": "somebody"}


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """What Python 2's cPickle writes of {'model': {'a': array([1.5, -2], float32)}}: text and bytes are one type."""
    data = np.array([1.5, -2.0], "<f4").tobytes().decode("latin1")
    text = "".join(f"\\x{ord(letter):02x}" for letter in data)
    content = (
        "(dp1\nS'model'\np2\n(dp3\nS'a'\np4\ncnumpy.core.multiarray\n_reconstruct\np5\n(cnumpy\nndarray\np6\n(I0\ntp7\n"
        "S'b'\np8\ntp9\nRp10\n(I1\n(I2\ntp11\ncnumpy\ndtype\np12\n(S'f4'\np13\nI0\nI1\ntp14\nRp15\n(I3\nS'<'\np16\nNNNI-1\n"
        f"I-1\nI0\ntp17\nbI00\nS'{text}'\np18\ntp19\nbss."
    )
    (tmp_path / "old.pkl").write_text(content)
    model = nn.Module()
    model.a = nn.Parameter(torch.zeros(2))
    SafeCheckpointer(model).load_weights(str(tmp_path / "old.pkl"))
    assert model.a.tolist() == [1.5, -2.0]


def test_names_that_do_not_fit_are_not_guessed(tmp_path: Path) -> None:
    content = {"model": {"stem.weight": np.zeros(3, np.float32)}, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"R-50\.pkl .*by heuristics, which is not done here.*\n.*\n") as caught:
        SafeCheckpointer(a_model()).load_weights(str(tmp_path / "R-50.pkl"))
    assert "\n  unknown to the model: stem.weight (3,)" in str(caught.value)


class Payload:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Payload(), "builtins.exec"),
        (np.array([Payload()]), "numpy.dtype"),
        (np.array(["text"]), "numpy.dtype"),
        (np.zeros(2, "f4,i4"), "numpy.dtype"),
        (np.random.RandomState(0), "numpy.random"),
        (np.load, "numpy.load"),
        (torch.zeros(2), "torch._utils"),
    ],
)
def test_nothing_else_is_made_of_a_pickle(value: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"a": value}}))
    with pytest.raises(ValueError, match=rf"evil\.pkl is a pickle that holds {name}.*no code is run"):
        SafeCheckpointer(a_model()).load_weights(str(tmp_path / "evil.pkl"))


# ---------------------------------------------------------------------------------------------------- nothing half


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    return optimizer


def of_sgd(content: dict[str, Any]) -> None:
    content["optimizer"] = torch.optim.SGD(a_model().parameters(), lr=1.0).state_dict()


def two_groups(content: dict[str, Any]) -> None:
    parameters = list(a_model().parameters())
    groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    content["optimizer"] = torch.optim.AdamW(groups).state_dict()


CHANGES = [
    (of_sgd, r"missing in the file: optimizer\.param_groups\.0\.betas"),
    (two_groups, r"optimizer is of groups of \[1, 3\] parameters in the file, \[4\] here"),
    (lambda c: c.update(optimizer=3), "optimizer is a int, 3 in the file, not the state of an optimizer"),
    (lambda c: c.update(optimizer={"state": {}, "param_groups": 3}), "is not the state of an optimizer"),
    (lambda c: c["optimizer"]["param_groups"][0].update(lr="0.1"), r"optimizer\.param_groups\.0\.lr is a str, '0.1'"),
    (lambda c: c["optimizer"]["state"].update({9: {}}), r"state of the parameters \[9\]"),
    (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
        r"state\.0\.exp_avg is \(2,\) in the file, its parameter \(3, 2, 1, 1\)",
    ),
    (lambda c: c["optimizer"]["state"][1].update(exp_avg=torch.zeros(3).long()), r"state\.1\.exp_avg is int64"),
    (lambda c: c["optimizer"]["state"][1].update(exp_avg=torch.tensor(0.0)), r"state\.1\.exp_avg is \(\) in the file"),
    (lambda c: c["ema"].update({"0.bias": torch.zeros(3).long()}), r"0\.bias is int64 in the file, float32"),
    (lambda c: c.pop("ema"), "missing in the file: the state of 'ema'"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_another_training_is_refused_before_anything_is_loaded(change: Any, message: str, tmp_path: Path) -> None:
    model, average = a_model(), a_model()
    SafeCheckpointer(model, str(tmp_path), optimizer=adamw(model), ema=average).save("model", iteration=1)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "model.pth")
    others = a_model(), a_model()
    optimizer = adamw(others[0], lr=0.5)
    before = copy.deepcopy([optimizer.state_dict(), *(dict(other.state_dict()) for other in others)])
    with pytest.raises(ValueError, match=rf"model\.pth does not fit, nothing was loaded.*\n  .*{message}"):
        SafeCheckpointer(others[0], optimizer=optimizer, ema=others[1]).load(str(tmp_path / "model.pth"))
    assert same(before, [optimizer.state_dict(), *(dict(other.state_dict()) for other in others)])


class FailsHalfWay(nn.Module):
    """As a module's own _load_from_state_dict may."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        raise RuntimeError("after the copy")


def test_a_load_that_fails_half_way_is_undone(tmp_path: Path) -> None:
    source, target = (nn.Sequential(a_model(), FailsHalfWay()) for _ in range(2))
    optimizers = [torch.optim.SGD(model.parameters(), lr=lr) for model, lr in ((source, 0.5), (target, 0.25))]
    SafeCheckpointer(source, str(tmp_path), optimizer=optimizers[0]).save("model")
    before = weights(target)
    checkpointer = SafeCheckpointer(target, optimizer=optimizers[1])
    for load in (checkpointer.load, checkpointer.load_weights):
        with pytest.raises(RuntimeError, match="after the copy"):
            load(str(tmp_path / "model.pth"))
        assert equal(before, weights(target))
    assert optimizers[1].param_groups[0]["lr"] == 0.25


class State:
    """A checkpointable that is loaded last, and fails."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    def state_dict(self) -> dict[str, Any]:
        return {"value": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.fails:
            self.fails = False
            raise KeyError("of another version")


def test_what_was_loaded_before_the_failure_is_undone(tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    SafeCheckpointer(source, str(tmp_path), optimizer=adamw(source), last=State(fails=False)).save("model")
    optimizer = adamw(target, lr=0.5)
    before = copy.deepcopy([optimizer.state_dict(), dict(target.state_dict())])
    with pytest.raises(KeyError, match="of another version"):
        SafeCheckpointer(target, optimizer=optimizer, last=State(fails=True)).load(str(tmp_path / "model.pth"))
    assert same(before, [optimizer.state_dict(), dict(target.state_dict())])
