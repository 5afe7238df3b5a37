"""What SafeCheckpointer loads, whole or in part, and what it refuses, above this process's engine.

Oracles: torch.load and torch.save; the models' own state dicts and outputs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import SafeCheckpointer

from .small_models import a_model, equal, saved, segmentor, weights


def test_a_plain_state_dict_is_loaded(tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    assert SafeCheckpointer(target).load(str(tmp_path / "plain.pth")) == {}
    assert equal(weights(source), weights(target))
    torch.save({f"module.{k}": v for k, v in a_model().state_dict().items()}, tmp_path / "parallel.pth")
    SafeCheckpointer(target).load(str(tmp_path / "parallel.pth"))
    assert not equal(weights(source), weights(target))


def test_all_misfits_in_one_error_and_nothing_loaded(tmp_path: Path) -> None:
    state = a_model(4).state_dict() | {"head.weight": torch.zeros(2, 2)}
    del state["1.bias"]
    torch.save({"model": state}, tmp_path / "other.pth")
    model = a_model(3)
    before = weights(model)
    checkpointer = SafeCheckpointer(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"other\.pth does not fit, nothing was loaded") as caught:
        checkpointer.load(str(tmp_path / "other.pth"))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines[0] == "missing in the file: 1.bias (3,)"
    assert lines[1] == "unknown to the model: head.weight (2, 2)"
    assert lines[2] == "of another shape: 0.weight is (4, 2, 1, 1) in the file, (3, 2, 1, 1) in the model"
    assert lines[-1] == "missing in the file: the state of 'optimizer'"
    assert len(lines) == 3 + 4 + 1  # 0.bias, 1.weight, 1.running_mean and 1.running_var differ too
    assert equal(before, weights(model))
    good = tmp_path / "good.pth"
    torch.save(a_model(3).state_dict(), good)
    checkpointer.load(str(good), checkpointables=[])  # an error leaves no traces


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(share: float, tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    checkpointer.save("model")
    content = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(content[: int(share * len(content))])
    before = weights(checkpointer.model)
    with pytest.raises(ValueError, match=r"model\.pth is truncated: its end is missing"):
        checkpointer.load(str(tmp_path / "model.pth"))
    assert equal(before, weights(checkpointer.model))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(1)}}, r"holds the keys \['state_dict'\]"),
        ({"model": 3}, "holds a int"),
        ({"model": {"a": "text"}}, r"holds the keys \['a'\]"),
        ([torch.zeros(1)], "holds a list"),
    ],
)
def test_a_foreign_file_is_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=rf"foreign\.pth is not a checkpoint: .*{message}"):
        SafeCheckpointer(a_model()).load(str(tmp_path / "foreign.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (
            b"\n <!DOCTYPE html><html>Not found</html>",
            "is a web page, not a torch file: download the file",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a pointer of Git LFS.*`git lfs pull`"),
        (b"\x89PNG something else", r"is damaged, or not a torch file \("),
        (b"some words\n", r"is damaged, or not a torch file \("),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.pyth"])
def test_other_bytes_are_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for load in (SafeCheckpointer(a_model()).load, SafeCheckpointer(a_model()).load_weights):
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            load(str(tmp_path / name))


class Payload:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(zipped: bool, tmp_path: Path) -> None:
    torch.save({"model": {}, "x": Payload()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pth holds exec; .* no code is run"):
        SafeCheckpointer(a_model()).load(str(tmp_path / "evil.pth"))


def filled(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in a_model().state_dict().items()}


@pytest.mark.parametrize(
    ("content", "which", "kind", "value"),
    [
        ({"model": filled(1)}, "evaluated", "trained", 1),
        ({"model": filled(1), "ema": filled(2)}, "evaluated", "ema", 2),
        ({"model": filled(1), "ema": filled(2)}, "trained", "trained", 1),
        ({"model": filled(2), "weights_kind": "ema"}, "evaluated", "ema", 2),
        ({"model": filled(2), "weights_kind": "ema"}, "trained", "ema", 2),  # there are no others in the file
        ({"model": filled(1), "weights_kind": "trained"}, "evaluated", "trained", 1),
        (filled(1), "evaluated", "trained", 1),
        ({f"module.{name}": tensor for name, tensor in filled(1).items()}, "evaluated", "trained", 1),
    ],
)
def test_weights_say_what_they_are(content: Any, which: str, kind: str, value: float, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    model = a_model()
    assert SafeCheckpointer(model).load_weights(str(tmp_path / "model.pth"), which=which) == kind
    assert all((tensor == value).all() for tensor in weights(model))


def test_averaged_weights_must_fit_too(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({"model": filled(1), "ema": {"0.weight": torch.zeros(3, 2, 1, 1)}}, file)
    for load in (SafeCheckpointer(a_model()).load, SafeCheckpointer(a_model()).load_weights):
        with pytest.raises(ValueError, match=r"model\.pth does not fit.*\n  missing in the file: 0\.bias"):
            load(str(file))
    torch.save({"model": filled(1), "ema": 3}, file)
    with pytest.raises(ValueError, match="holds a int as 'ema'"):
        SafeCheckpointer(a_model()).load(str(file))


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    torch.save({"model": filled(1), "weights_kind": "best"}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: weights_kind is 'best'"):
        SafeCheckpointer(a_model()).load_weights(str(tmp_path / "model.pth"))
    with pytest.raises(ValueError, match="which is 'last'; choose 'evaluated' or 'trained'"):
        SafeCheckpointer(a_model()).load_weights(str(tmp_path / "model.pth"), which="last")
    for path in ("", str(tmp_path), str(tmp_path / "absent.pth")):
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            SafeCheckpointer(a_model()).load_weights(path)


# ---------------------------------------------------------------------------------------------------- real models


def test_new_classes_keep_all_but_the_classifiers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = segmentor(), segmentor("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 11)
    file, before = saved(source, tmp_path), {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"other\.pth does not fit.*\n.*classifier\.weight is \(8, 8, 1, 1\)"):
        SafeCheckpointer(target).load_weights(file)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    caplog.set_level(logging.WARNING)
    assert SafeCheckpointer(target).load_weights(file, strict=False) == "trained"
    new = {f"{head}.classifier.{kind}" for head in ("sem_seg_head", "aux_heads.res4") for kind in ("weight", "bias")}
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name in new else source.state_dict()[name]), name
    (warning,) = (record.message for record in caplog.records)
    first, *lines = warning.splitlines()
    assert first.endswith("other.pth is loaded in part, 99 of the model's 103 parameters; not loaded:")
    assert {line.split()[3] for line in lines} == new
    assert all(line.startswith("  of another shape: ") for line in lines)


def test_a_partial_load_lists_all_three_kinds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = a_model().state_dict() | {"2.weight": torch.zeros(1), "0.bias": torch.zeros(4)}
    del state["1.running_mean"]
    torch.save(state, tmp_path / "other.pth")
    assert SafeCheckpointer(a_model()).load_weights(str(tmp_path / "other.pth"), strict=False) == "trained"
    assert caplog.records[-1].message.splitlines()[1:] == [
        "  missing in the file: 1.running_mean (3,)",
        "  unknown to the model: 2.weight (1,)",
        "  of another shape: 0.bias is (4,) in the file, (3,) in the model",
    ]


@pytest.mark.parametrize(("names", "fits"), [(["0.weight", "0.bias"], True), (["0.weight"], False), ([], False)])
def test_less_than_half_is_refused(names: list[str], fits: bool, tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    torch.save({name: source.state_dict()[name] + 1 for name in [*names, "1.running_var"]}, tmp_path / "other.pth")
    before, load = weights(target), SafeCheckpointer(target).load_weights
    if fits:
        load(str(tmp_path / "other.pth"), strict=False)
        assert not equal(before, weights(target))
        return
    with pytest.raises(ValueError, match=rf"fits {len(names)} of the model's 4 parameters only, less than half"):
        load(str(tmp_path / "other.pth"), strict=False)
    assert equal(before, weights(target))
