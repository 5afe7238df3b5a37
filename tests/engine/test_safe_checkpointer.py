"""SafeCheckpointer above this process's engine: what is written, what is kept, where a run resumes.

Oracles: bytes on disk, the system's own limit on the size of a file, the engine's own checkpointer.
"""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.engine import DetectionCheckpointer, SafeCheckpointer

from .small_models import a_model, equal, weights


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


def test_missing_files_and_wrong_names(tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*absent\.pth"):
        checkpointer.load(str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match="'a/b' is not the name of a checkpoint"):
        checkpointer.save("a/b")
    assert checkpointer.load("") == {}
    SafeCheckpointer(a_model(), str(tmp_path), save_to_disk=False).save("model")
    assert files(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- what is written


@contextlib.contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """The system refuses to write more than so many bytes into one file."""
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)


@pytest.mark.parametrize(("name", "kept"), [("model_0000001", "untouched"), ("model_0000003", "nothing was written")])
def test_a_full_disk_leaves_the_old_files_and_names_the_way_out(name: str, kept: str, tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(nn.Linear(300, 300), str(tmp_path), keep=1)
    checkpointer.save("model_0000001", iteration=1)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(OSError, match=rf"no room to write .*{name}\.pth; .*{kept}\. Free some space"), room_for(100000):
        checkpointer.save(name, iteration=3)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize(
    ("tensor", "value"), [("0.weight", float("nan")), ("1.bias", float("-inf")), ("1.running_var", float("nan"))]
)
def test_weights_that_are_not_finite_are_not_saved(tensor: str, value: float, tmp_path: Path) -> None:
    model = a_model()
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    model.state_dict()[tensor].view(-1)[1] = value
    with pytest.raises(FloatingPointError, match=rf"^{tensor} of 'model' is not finite: .*model\.pth is not written"):
        checkpointer.save("model")
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_averaged_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    average = a_model()
    average.state_dict()["0.weight"].fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"^0\.weight of 'ema'"):
        SafeCheckpointer(a_model(), str(tmp_path), ema=average).save("model")
    assert files(tmp_path) == []


def test_a_mask_with_infinities_is_saved(tmp_path: Path) -> None:
    model = a_model()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    SafeCheckpointer(model, str(tmp_path)).save("model")
    assert files(tmp_path) == ["last_checkpoint", "model.pth"]


# ---------------------------------------------------------------------------------------------------- what is kept


def save(folder: Path, *iterations: int, keep: int = 0) -> None:
    """By a checkpointer of its own: what it knows, it knows from the folder."""
    checkpointer = SafeCheckpointer(a_model(), str(folder), keep=keep)
    for iteration in iterations:
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)


def numbers(folder: Path) -> list[int]:
    return [int(name[6:-4]) for name in files(folder) if re.fullmatch(r"model_\d{7}\.pth", name)]


OTHERS = ["model_best.pth", "model_final.pth", "model_12.pth", "model_0000001_old.pth", "my_model_0000001.pth"]


def test_the_newest_are_kept_also_over_a_resume(tmp_path: Path) -> None:
    for name in OTHERS:
        (tmp_path / name).write_bytes(b"mine")
    save(tmp_path, 1, 3, keep=2)
    assert numbers(tmp_path) == [1, 3]
    save(tmp_path, 5, keep=2)
    assert numbers(tmp_path) == [3, 5]
    save(tmp_path, 7, 9, keep=1)
    assert numbers(tmp_path) == [9]
    save(tmp_path, 11, 13, keep=0)
    assert numbers(tmp_path) == [9, 11, 13]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in OTHERS)
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path), keep=2)
    checkpointer.save("of_a_user")  # of an unknown iteration
    assert numbers(tmp_path) == [9, 11, 13]
    checkpointer.save("model_final", iteration=13)
    assert numbers(tmp_path) == [11, 13]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_checkpoints_of_a_longer_run_are_named_and_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1, 3, 99)
    save(tmp_path, 5, 7, keep=2)
    assert numbers(tmp_path) == [5, 7, 99]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "model_0000099.pth is of an iteration after 5, left by another, longer run; kept" in warnings[0]


def test_a_failed_save_removes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    with pytest.raises(ValueError, match="holds numpy"):
        SafeCheckpointer(a_model(), str(tmp_path), keep=1).save("model_0000005", iteration=5, value=np.arange(3))
    assert numbers(tmp_path) == [1, 3]


def test_what_cannot_be_removed_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model_0000001.pth").mkdir()
    save(tmp_path, 3, keep=1)
    assert "model_0000001.pth could not be removed" in caplog.text
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_keep_is_a_number() -> None:
    with pytest.raises(ValueError, match="keep is -1"):
        SafeCheckpointer(a_model(), keep=-1)


def test_parts_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    for name in (".model_0000001.pth.part", ".model_0000003.pth.part", ".log.txt.part"):
        (tmp_path / name).write_bytes(b"half")
    save(tmp_path, 3)
    assert files(tmp_path) == [".log.txt.part", "last_checkpoint", "model_0000003.pth"]


# ---------------------------------------------------------------------------------------------------- what is resumed


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize("break_it", [cut, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_broken_last_checkpoint_is_passed_over(
    break_it: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 3, 5, 99)
    cut(tmp_path / "model_0000003.pth")
    break_it(tmp_path / "model_0000005.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1  # 99 is of another run
    warning = next(record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "model_0000005.pth" in warning and warning.endswith("model_0000001.pth instead")


@pytest.mark.parametrize("tag", [None, "", "\0\0\0\0"])
def test_without_a_name_the_newest_whole_one_is_taken(tag: str | None, tmp_path: Path) -> None:
    """The first save was killed before it was tagged, or the power was lost."""
    save(tmp_path, 1, 3)
    SafeCheckpointer(a_model(), str(tmp_path)).save("model_final", iteration=2)  # of an earlier, shorter run
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_text(tag)
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    assert checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")


ODD_TAGS = [
    b"",
    b" \n",
    b"null",
    b"[]",
    b"NaN",
    b"\xff\xfe\x00m",
    bytes(range(256)),
    b"../model.pth",
    b"/a/b.pth",
    b"x" * 5000,
]


@pytest.mark.parametrize("tag", [*ODD_TAGS, None])
def test_an_odd_last_checkpoint_is_taken_as_missing(
    tag: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        file = folder / "last_checkpoint"
        file.unlink(missing_ok=True)
        file.mkdir() if tag is None else file.write_bytes(tag)
        return file

    file = spoil(tmp_path / "nothing_else")
    alone = SafeCheckpointer(a_model(), str(file.parent))
    assert not alone.has_checkpoint()
    assert alone.resume_or_load("", resume=True) == {}
    assert f"{file} names no checkpoint, and there is none beside it: taken as missing" in caplog.text
    save(tmp_path / "run", 1, 3)
    file = spoil(tmp_path / "run")
    checkpointer = SafeCheckpointer(a_model(), str(file.parent))
    assert checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == str(file.parent / "model_0000003.pth")
    assert f"{file} is missing or names nothing: taking the newest whole checkpoint" in caplog.text
    checkpointer.save("model_0000005", iteration=5)
    assert file.read_text() == "model_0000005.pth"


def test_weights_without_a_trainer_s_state_are_no_run(tmp_path: Path) -> None:
    torch.save({"model": a_model().state_dict(), "iteration": 9}, tmp_path / "model_final.pth")
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path), optimizer=torch.optim.SGD(a_model().parameters(), lr=1.0))
    assert not checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == ""
    assert checkpointer.resume_or_load("", resume=True) == {}


def test_no_whole_checkpoint_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    for iteration in (1, 3):
        cut(tmp_path / f"model_000000{iteration}.pth")
    with pytest.raises(ValueError, match=r"model_0000003\.pth, which cannot be read \(.* is truncated.*delete "):
        SafeCheckpointer(a_model(), str(tmp_path)).resume_or_load("", resume=True)


def test_without_a_folder_there_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    assert not SafeCheckpointer(a_model()).has_checkpoint()
    assert SafeCheckpointer(a_model()).get_checkpoint_file() == ""
