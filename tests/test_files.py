"""Files are the old ones or the new ones. Oracles: bytes on disk; a real process killed while it writes; the system's
own limit on the size of a file."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq import files
from scaleeq.files import (
    part_of,
    read_json,
    remove_parts,
    replacing,
    require_writable,
    set_aside,
    write_json,
    write_text,
)

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "record.json"
    write_json(file, {"miou": 1.5, "name": "größer"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"miou": 1.5, "name": "größer"}
    write_json(str(file), {"miou": 2}, indent=None)
    assert file.read_bytes() == b'{"miou": 2}\n'
    write_text(file, "grün")
    assert file.read_bytes() == "grün".encode()
    assert names(file.parent) == ["record.json"]


@pytest.mark.parametrize("error", [ValueError("wrong"), OSError("other"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_alone(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(type(error)) as caught, replacing(file) as part:
        part.write_text("half of the n")
        raise error
    assert caught.value is error
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_place_for_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    for path, told in ((tmp_path, "is a folder"), (tmp_path / "file" / "below" / "new.json", "file is no folder")):
        with pytest.raises(OSError, match=told) as caught:
            write_json(path, {})
        assert str(path) in str(caught.value) and ".part" not in str(caught.value)
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="is no file, but a device or a pipe"):
            require_writable(path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe"}
    require_writable(tmp_path / "new" / "folder", folder=True)
    require_writable(tmp_path / "file")
    with pytest.raises(OSError, match=r"OUTPUT_DIR .*file: .*file is no folder"):
        require_writable(tmp_path / "file", folder=True, key="OUTPUT_DIR")
    write_json(tmp_path / "pipe", {})  # where a program's own file belongs, it takes a pipe's place
    assert (tmp_path / "pipe").is_file()


def test_an_error_of_the_system_names_the_file_and_not_its_part(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "new.txt") as part:
        part.read_text()
    assert caught.value.filename == str(tmp_path / "new.txt")


def test_content_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == "{}\n"


def test_file_then_rename_then_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real calls, written down as they happen."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        seen.append(("replace", target.name))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    write_text(tmp_path / "a.txt", "new")
    assert seen == [("fsync", part_of("a.txt").name), ("replace", "a.txt"), ("fsync", tmp_path.name)]


KILLED = """
import sys, time
from scaleeq.files import replacing
with replacing(sys.argv[1]) as part, part.open("w") as stream:
    stream.write("half of the new content, which is longer than the one that follows")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    command = [sys.executable, "-c", KILLED, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    part = f".a.txt.{re.sub('[^a-zA-Z0-9_]', '_', socket.gethostname())}-{writer.pid}.part"
    assert names(tmp_path) == [part, "a.txt"]
    write_text(file, "new")
    assert file.read_text() == "new"
    remove_parts(tmp_path)
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path: Path) -> None:
    """The file is what the last one wrote, whole, and the other's part is neither read nor removed."""
    file = tmp_path / "a.txt"
    command = [sys.executable, "-c", KILLED, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        write_text(file, "mine")
        for locked in (False, True):
            remove_parts(tmp_path, locked=locked)
            assert len(names(tmp_path)) == 2, "it is of a process that lives"
        other.send_signal(signal.SIGKILL)
    assert file.read_text() == "mine"


def test_parts_of_the_dead_are_removed(tmp_path: Path) -> None:
    own, here = part_of(tmp_path / "own.pth"), part_of(tmp_path / "a.pth").name.rpartition("-")[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    elsewhere, living = tmp_path / ".a.pth.node_7-1.part", tmp_path / f"{here}-{os.getppid()}.part"
    here_dead, nameless = tmp_path / f"{here}-{dead.pid}.part", tmp_path / ".log.txt.part"
    for path in (own, elsewhere, living, here_dead, nameless, tmp_path / "b.part"):
        path.write_text("half")
    remove_parts(tmp_path, of="*.pth")
    assert names(tmp_path) == sorted(path.name for path in (own, elsewhere, living, nameless, tmp_path / "b.part"))
    remove_parts(tmp_path)
    assert names(tmp_path) == sorted(path.name for path in (own, elsewhere, living, tmp_path / "b.part"))
    remove_parts(tmp_path, locked=True)
    assert names(tmp_path) == sorted(path.name for path in (living, tmp_path / "b.part"))


def test_a_part_that_another_process_removes_meanwhile_is_no_error(tmp_path: Path, monkeypatch) -> None:
    """Two runs that start in one folder clear it at the same time."""
    part = tmp_path / f"{part_of(tmp_path / 'a.pth').name.rpartition('-')[0]}-1.part"
    part.write_text("half")
    monkeypatch.setattr(files, "is_alive", lambda pid: part.unlink() is not None)
    remove_parts(tmp_path)
    assert names(tmp_path) == []


def test_a_long_name_has_a_part_too(tmp_path: Path) -> None:
    file = tmp_path / ("ü" * 125 + ".txt")  # 254 of 255 bytes
    write_text(file, "whole")
    assert names(tmp_path) == [file.name]


NO_ROOM = """
import resource, signal, sys
from scaleeq.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(sys.argv[1], "x" * 5000)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system cannot limit the size of files")
@pytest.mark.parametrize(("old", "kept"), [("old", "the file from before is untouched"), (None, "nothing was written")])
def test_no_room_names_the_file_and_the_way_out(old: str | None, kept: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    if old is not None:
        file.write_text(old)
    before = names(tmp_path)
    command = [sys.executable, "-c", NO_ROOM, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("OSError:") and f"no room to write {file}; {kept}. Free some space" in message
    assert names(tmp_path) == before
    assert old is None or file.read_text() == old


def test_json_has_null_where_a_float_is_no_number(tmp_path):
    content = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), 2)}}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": [None, 2]},
    }


def test_json_is_read_where_it_is_sound(tmp_path, caplog):
    file = tmp_path / "a.json"
    assert read_json(file) == {}
    write_json(file, {"a": {"b": 1.5}})
    assert read_json(file, sound=lambda content: content["a"]["b"] == 1.5) == {"a": {"b": 1.5}}
    assert read_json(str(file)) == {"a": {"b": 1.5}}
    assert not caplog.records
    for sound in (lambda content: content["c"], lambda content: content["a"] + 1, lambda content: False):
        caplog.clear()
        assert read_json(file, sound=sound) == {}
        assert [str(file) in each.message and "taken as missing" in each.message for each in caplog.records] == [True]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"3", b"[{}]", b'{"a": NaN}', b'{"a": 1', b"\xff\xfe{\x00", b"[" * 99999]
)
def test_what_is_no_json_object_is_taken_as_missing(content, tmp_path, caplog):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}
    assert f"{tmp_path / 'a.json'} is taken as missing: " in caplog.text


def test_a_folder_is_set_aside_and_nothing_else_is(tmp_path, caplog):
    (tmp_path / "a.json" / "b").mkdir(parents=True)
    (tmp_path / "a.json.old1").write_text("mine")
    assert read_json(tmp_path / "a.json") == {}
    set_aside(tmp_path / "a.json")
    assert names(tmp_path) == ["a.json.old1", "a.json.old2"] and (tmp_path / "a.json.old2" / "b").is_dir()
    assert f"{tmp_path / 'a.json'} was a folder" in caplog.text
    for path in (tmp_path / "a.json.old1", tmp_path / "absent"):
        set_aside(path)
    assert names(tmp_path) == ["a.json.old1", "a.json.old2"]
