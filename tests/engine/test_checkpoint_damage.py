"""Damaged and foreign files: what loads is what was saved, bit by bit, and what is refused changes nothing.

Oracles: the content that was saved; the state of model and optimizer before the refusal.
"""

from __future__ import annotations

import copy
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaleeq.engine import SafeCheckpointer
from scaleeq.engine.checkpoint_container import check_archive
from scaleeq.engine.checkpoint_file import read_checkpoint

from .damage import FOREIGN, cuts, flips, same
from .small_models import a_model


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = trained()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000001", iteration=1)
    return tmp_path / "model_0000001.pth"


def read_changed(contents: Any, file: Path) -> tuple[int, int]:
    """How many changed files are read with the saved content, and how many refused; no other outcome is allowed."""
    original, changed = read_checkpoint(file), file.with_name("changed.pth")
    num_read = num_refused = 0
    for content in contents:
        changed.write_bytes(content)
        try:
            found = read_checkpoint(changed)
        except ValueError as error:
            assert str(error).startswith(f"{changed} ")
            num_refused += 1
            continue
        assert same(original, found)
        num_read += 1
    return num_read, num_refused


def test_one_flipped_bit_loads_nothing_else(saved: Path) -> None:
    num_read, num_refused = read_changed(flips(saved.read_bytes(), 100), saved)
    assert num_read + num_refused == 100 and num_refused > 30  # much of so small a file is padding, which nobody reads
    num_read, num_refused = read_changed(cuts(saved.read_bytes(), 100), saved)
    assert (num_read, num_refused) == (0, 100)


@pytest.mark.slow
def test_no_bit_of_a_file_loads_anything_else(saved: Path) -> None:
    num_read, num_refused = read_changed(flips(saved.read_bytes(), None), saved)
    assert num_read + num_refused == 8 * saved.stat().st_size and num_refused > num_read
    assert read_changed(cuts(saved.read_bytes(), None), saved)[0] == 0


def test_every_bit_of_the_directory_is_looked_at_or_not_needed(saved: Path) -> None:
    """One of them says that a tensor is a folder; then torch reads nothing into its memory, and does not complain."""
    content = saved.read_bytes()
    place = content.rindex(b"PK\x01\x02", 0, content.index(b"/data/3", content.index(b"PK\x01\x02")))
    entry = content[place : place + 46]
    read_changed((content[:place] + other + content[place + 46 :] for other in flips(entry, None)), saved)
    for offset, message in ((38, "data/3 is marked as a folder"), (24, r"data/3 has \d+ bytes instead of")):
        changed = bytearray(content)
        changed[place + offset] |= 0x10  # the flag of a folder; a larger size
        saved.write_bytes(changed)
        with pytest.raises(ValueError, match=message):
            read_checkpoint(saved)


def test_a_file_that_was_packed_again_is_read(saved: Path) -> None:
    """As an archiver leaves it: its members are compressed, and cannot be mapped."""
    packed = saved.with_name("packed.pth")
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    for mapped in (False, True):
        assert same(read_checkpoint(packed, mapped=mapped), read_checkpoint(saved))


def test_every_bit_of_a_weight_is_looked_at(saved: Path) -> None:
    content = saved.read_bytes()
    weight = read_checkpoint(saved)["model"]["0.weight"].numpy().tobytes()
    place = content.index(weight)
    for bit in range(8 * len(weight)):
        changed = bytearray(content)
        changed[place + bit // 8] ^= 1 << bit % 8
        saved.write_bytes(changed)
        for mapped in (False, True):
            with pytest.raises(ValueError, match=r"model_0000001\.pth is damaged \(.*CRC-32"):
                read_checkpoint(saved, mapped=mapped)


def test_a_run_resumes_from_before_the_flipped_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = trained()
    checkpointer = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    for iteration in (1, 3, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    for iteration in (3, 5):
        file = tmp_path / f"model_{iteration:07d}.pth"
        weight = model.state_dict()["0.weight"].numpy().tobytes()
        file.write_bytes(file.read_bytes().replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])))
    other, its_optimizer = trained()
    assert SafeCheckpointer(other, str(tmp_path), optimizer=its_optimizer).resume_or_load("", resume=True) == {
        "iteration": 1
    }
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert "model_0000005.pth is damaged" in caplog.text and "model_0000001.pth instead" in caplog.text


def test_a_run_resumes_from_before_the_first_nan(tmp_path: Path) -> None:
    """Files of another writer may hold it."""
    model, optimizer = trained()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000001", iteration=1)
    content = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"][0] = torch.nan
    torch.save({**content, "iteration": 3}, tmp_path / "model_0000003.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    checkpointer = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")
    with pytest.raises(ValueError, match=r"0000003\.pth .*nothing was loaded: optimizer\.state\.0\.exp_avg is not fin"):
        checkpointer.load(str(tmp_path / "model_0000003.pth"))


def test_what_is_written_is_read_against_its_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that turns a bit around while torch writes."""
    SafeCheckpointer(a_model(), str(tmp_path)).save("model")
    before, write = (tmp_path / "model.pth").read_bytes(), torch.save
    model = a_model()

    def turned(content: Any, stream: Any) -> None:
        write(content, stream)
        stream.flush()
        weight = model.state_dict()["0.weight"].numpy().tobytes()
        place = Path(stream.name).read_bytes().index(weight)
        stream.seek(place)
        stream.write(bytes([weight[0] ^ 1]))

    monkeypatch.setattr(torch, "save", turned)
    with pytest.raises(ValueError, match=r"model\.pth is damaged \(.*CRC-32"):
        SafeCheckpointer(model, str(tmp_path)).save("model")
    assert (tmp_path / "model.pth").read_bytes() == before


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused_and_change_nothing(kind: str, tmp_path: Path) -> None:
    write, message = FOREIGN[kind]
    model, optimizer = trained()
    file = tmp_path / f"{kind}.pth"
    write(file, model)
    before = copy.deepcopy((dict(model.state_dict()), optimizer.state_dict()))
    checkpointer = SafeCheckpointer(model, optimizer=optimizer)
    resumed = (checkpointer.load, ".")  # which has more to complain of
    for load, words in (
        resumed,
        (checkpointer.load_weights, message),
        (partial(checkpointer.load, checkpointables=[]), message),
    ):
        with pytest.raises(ValueError, match=rf"(?s){kind}\.pth.*({words})"):
            load(str(file))
        assert same(before, (dict(model.state_dict()), optimizer.state_dict()))


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "absent"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model_0000001.pth"
    make = {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file), "link": lambda: file.symlink_to(tmp_path / "gone")}
    make.get(kind, lambda: None)()
    checkpointer = SafeCheckpointer(a_model(), str(tmp_path))
    for load in (checkpointer.load, checkpointer.load_weights, lambda path: read_checkpoint(Path(path))):
        with pytest.raises(FileNotFoundError, match=r"model_0000001\.pth"):
            load(str(file))
    (tmp_path / "last_checkpoint").write_text(file.name)
    with pytest.raises(ValueError, match=r"names .*model_0000001\.pth, which does not exist"):
        checkpointer.get_checkpoint_file()


def test_the_memory_of_the_look_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    torch.save({"model": {"a": torch.zeros(8 << 20)}}, tmp_path / "large.pth")  # 32 MiB
    tracemalloc.start()
    assert check_archive(tmp_path / "large.pth")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_the_old_format_is_read_with_a_warning_but_not_resumed_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source, optimizer), (target, other) = trained(), trained()
    file = tmp_path / "model_0000001.pth"
    content = {"model": source.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 1}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    checkpointer = SafeCheckpointer(target, str(tmp_path), optimizer=other)
    with pytest.raises(ValueError, match="without checksums, which no run is resumed from"):
        checkpointer.load(str(file))
    assert not checkpointer.has_checkpoint()
    assert checkpointer.load_weights(str(file)) == "trained"
    assert same(dict(target.state_dict()), dict(source.state_dict()))
    assert "without checksums: damage to its numbers would go unnoticed" in caplog.text
