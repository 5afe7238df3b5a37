"""Checkpoints that take less room. Oracles: inodes, the bytes of a checkpointer without these options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from scaleeq.engine import SafeCheckpointer, checkpoint_thrift

from .small_models import a_model, equal, weights


def checkpointer(folder: Path, **options: Any) -> SafeCheckpointer:
    model = a_model()
    return SafeCheckpointer(model, str(folder), optimizer=torch.optim.AdamW(model.parameters()), **options)


def inode(file: Path) -> int:
    return file.stat().st_ino


def test_the_final_file_is_another_name_of_the_last_numbered_one(tmp_path: Path) -> None:
    ours = checkpointer(tmp_path, link_final=True)
    ours.save("model_0000004", iteration=4)
    ours.save("model_final", iteration=4)
    assert inode(tmp_path / "model_final.pth") == inode(tmp_path / "model_0000004.pth")
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert ours.get_checkpoint_file() == str(tmp_path / "model_final.pth")
    ours.save("model_final", iteration=4)  # once more, over itself
    (tmp_path / "model_0000004.pth").unlink()
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"], "no parts"


def test_other_numbers_are_a_file_of_their_own(tmp_path: Path) -> None:
    ours = checkpointer(tmp_path, link_final=True)
    ours.save("model_0000004", iteration=4)
    with torch.no_grad():
        next(ours.model.parameters()).add_(1)
    ours.save("model_final", iteration=4)
    files = [tmp_path / name for name in ("model_0000004.pth", "model_final.pth")]
    first, final = ([*torch.load(file, weights_only=True)["model"].values()] for file in files)
    assert not equal(first, final) and equal(final, weights(ours.model))
    ours.save("model_0000009", iteration=9)
    ours.save("model_final", iteration=10)
    assert inode(tmp_path / "model_final.pth") != inode(tmp_path / "model_0000009.pth"), "of another iteration"
    plain = checkpointer(tmp_path / "plain")
    plain.save("model_0000004", iteration=4)
    plain.save("model_final", iteration=4)
    assert inode(tmp_path / "plain" / "model_final.pth") != inode(tmp_path / "plain" / "model_0000004.pth")


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuses)
    ours = checkpointer(tmp_path, link_final=True)
    ours.save("model_0000004", iteration=4)
    ours.save("model_final", iteration=4)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True).keys() >= {"model", "optimizer", "iteration"}
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("keep", [0, 2])
def test_older_files_have_their_weights_alone(tmp_path: Path, keep: int) -> None:
    ours, saved = checkpointer(tmp_path, keep=keep, weights_alone=True), {}
    for iteration in (1, 3, 5):
        with torch.no_grad():
            next(ours.model.parameters()).add_(1)
        saved[iteration] = weights(ours.model)
        ours.save(f"model_{iteration:07d}", iteration=iteration)
    left = {1: {}, 3: {}, 5: {}} if keep == 0 else {3: {}, 5: {}}
    found = {int(file.stem[6:]): torch.load(file, weights_only=True) for file in tmp_path.glob("model_0*.pth")}
    assert found.keys() == left.keys()
    for iteration, content in found.items():
        whole = {"model", "optimizer", "iteration"}
        assert content.keys() == (whole if iteration == 5 else {"model", "weights_kind", "iteration"})
        assert equal([*content["model"].values()], saved[iteration])
    (tmp_path / "model_0000005.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="there is no other whole checkpoint to resume from"):
        ours.get_checkpoint_file()


def test_averaged_weights_are_those_that_stay(tmp_path: Path) -> None:
    file = tmp_path / "model_0000001.pth"
    model, average = a_model(), a_model()
    content = {"model": model.state_dict(), "ema": average.state_dict(), "optimizer": {}, "iteration": 1}
    torch.save(content, file)
    checkpoint_thrift.leave_weights(file, [])
    found = torch.load(file, weights_only=True)
    assert found["weights_kind"] == "ema" and equal([*found["model"].values()], weights(average))
    before = file.read_bytes()
    checkpoint_thrift.leave_weights(file, [])
    assert file.read_bytes() == before, "nothing is left to take"
