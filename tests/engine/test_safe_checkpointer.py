"""SafeCheckpointer above this process's engine. Oracles: torch.load, bytes on disk, the engine's own checkpointer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.engine import DetectionCheckpointer, SafeCheckpointer


def a_model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("writer_class", [SafeCheckpointer, DetectionCheckpointer])
@pytest.mark.parametrize("reader_class", [SafeCheckpointer, DetectionCheckpointer])
def test_files_are_the_engines(writer_class: Any, reader_class: Any, tmp_path: Path) -> None:
    model, other = a_model(), a_model()
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr) for m, lr in ((model, 0.5), (other, 0.25))]
    writer_class(model, str(tmp_path), optimizer=optimizers[0]).save("model_0000009", iteration=9)
    assert files(tmp_path) == ["last_checkpoint", "model_0000009.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    rest = reader_class(other, str(tmp_path), optimizer=optimizers[1]).resume_or_load("", resume=True)
    assert rest["iteration"] == 9
    assert equal(weights(model), weights(other))
    assert optimizers[1].param_groups[0]["lr"] == 0.5


def test_a_plain_state_dict_is_loaded(tmp_path: Path) -> None:
    source, target = a_model(), a_model()
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    assert SafeCheckpointer(target).load(str(tmp_path / "plain.pth")) == {}
    assert equal(weights(source), weights(target))
    torch.save({f"module.{k}": v for k, v in a_model().state_dict().items()}, tmp_path / "parallel.pth")
    SafeCheckpointer(target).load(str(tmp_path / "parallel.pth"))
    assert not equal(weights(source), weights(target))


class Unwritable:
    def __reduce__(self) -> Any:
        raise OSError("no space left on device")


@pytest.mark.parametrize("value", [Unwritable(), np.arange(3), np.random.RandomState(0)])
def test_a_save_that_fails_leaves_the_old_files(value: Any, tmp_path: Path) -> None:
    """A full disk in the middle of the file, and values that weights_only would refuse."""
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    checkpointer.save("model", iteration=1)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises((OSError, ValueError)):
        checkpointer.save("model", value=value)
    with pytest.raises((OSError, ValueError)):
        checkpointer.save("model_final", value=value)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_what_cannot_be_read_back_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pth holds numpy.*nothing but tensors and plain values"):
        SafeCheckpointer(a_model(), str(tmp_path)).save("model", random=np.arange(3))


def test_the_file_is_complete_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scaleeq.files as module

    seen = []
    replace = module.os.replace

    def watch(part: Path, file: Path) -> None:
        seen.append((file.name, file.exists(), part.parent == file.parent, len(part.read_bytes()) > 0))
        replace(part, file)

    monkeypatch.setattr(module.os, "replace", watch)
    SafeCheckpointer(a_model(), str(tmp_path)).save("model")
    assert seen == [("model.pth", False, True, True), ("last_checkpoint", False, True, True)]


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
    with pytest.raises(ValueError, match=r"model\.pth is truncated"):
        checkpointer.resume_or_load("", resume=True)
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


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pyth", "picture.pth"])
def test_other_bytes_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG something else")
    with pytest.raises(ValueError, match=name):
        SafeCheckpointer(a_model()).load(str(tmp_path / name))


class Payload:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": {}, "x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth holds exec; .* no code is run"):
        SafeCheckpointer(a_model()).load(str(tmp_path / "evil.pth"))


def test_missing_files_and_wrong_names(tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*absent\.pth"):
        checkpointer.load(str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match="'a/b' is not the name of a checkpoint"):
        checkpointer.save("a/b")
    assert checkpointer.load("") == {}
    SafeCheckpointer(a_model(), str(tmp_path), save_to_disk=False).save("model")
    assert files(tmp_path) == []
