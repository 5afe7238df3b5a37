"""One process at a time writes to a folder. Oracle: other processes, and what the kernel does with them."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaleeq import folder_lock
from scaleeq.folder_lock import RUNNING, FolderInUse, FolderLock

FORK = multiprocessing.get_context("fork")
HOST = socket.gethostname()


def hold(folder, connection):
    """Take the lock, say so, and keep it until told."""
    lock = FolderLock(folder)
    try:
        connection.send(lock.acquire())
    except FolderInUse as error:
        connection.send(error)
        return
    connection.recv()
    lock.release()


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of tmp_path / "run", and the line to it."""
    line, other = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "run", other))
    process.start()
    assert line.recv() == ""
    yield process, line
    process.kill()
    process.join()


def note(folder, **changes):
    """The file of a lock, as a process that is not there any more has left it."""
    folder.mkdir(exist_ok=True)
    content = {"host": HOST, "pid": 1, "since": "2020-01-01 00:00:00", **changes}
    (folder / RUNNING).write_text(json.dumps(content))


def test_a_second_process_is_refused_by_host_and_process(tmp_path, holder):
    process, line = holder
    lock = FolderLock(tmp_path / "run")
    assert (lock.holder().host, lock.holder().pid) == (HOST, process.pid)
    started = time.monotonic()
    with pytest.raises(FolderInUse) as refusal:
        lock.acquire()
    assert time.monotonic() - started < 5
    with pytest.raises(FolderInUse, match=f"process {process.pid} on {HOST}"):
        lock.check()
    year = time.strftime("%Y")
    assert str(refusal.value).startswith(f"{tmp_path / 'run'} is in use: process {process.pid} on {HOST}, since {year}")
    assert "\n" not in str(refusal.value)
    line.send("end")
    process.join()
    lock.check()
    assert lock.acquire() == "" and not os.path.exists(f"/proc/{process.pid}")
    lock.release()
    assert lock.holder() is None and os.listdir(tmp_path / "run") == []


def test_a_killed_owner_keeps_nobody_off_though_its_workers_live(tmp_path):
    """flock is inherited by forks, and a loader's worker outlives its owner by seconds."""
    program = (
        "import os, sys, time; from scaleeq.folder_lock import FolderLock; lock = FolderLock(sys.argv[1]);"
        "lock.acquire(); pid = os.fork() or time.sleep(60); print(pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    try:
        assert FolderLock(tmp_path).holder().pid == owner.pid
        owner.kill()
        owner.wait()
        assert os.path.exists(f"/proc/{worker}") and (tmp_path / RUNNING).exists()
        lock = FolderLock(tmp_path)
        assert lock.acquire(patience_s=10.0) == ""  # the worker may not yet have come to close its copy
        assert os.path.exists(f"/proc/{worker}") and lock.holder().pid == os.getpid()
        lock.release()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("content", [{}, {"pid": os.getpid()}, {"host": "another"}, None, "{"])
def test_a_file_without_a_lock_keeps_nobody_off(tmp_path, content):
    """It is of a process that was killed; of another host, it may be of a file system whose locks end there."""
    note(tmp_path / "run", **(content if isinstance(content, dict) else {}))
    if not isinstance(content, dict):
        (tmp_path / "run" / RUNNING).write_text(content or "")
    lock = FolderLock(tmp_path / "run")
    assert lock.holder() is None
    warning = lock.acquire()
    other = isinstance(content, dict) and "host" in content
    assert ("process 1 on another" in warning and "end one of the two" in warning) if other else warning == ""
    lock.release()


def test_a_process_may_take_it_several_times(tmp_path):
    """The command does, and the trainer that it makes."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path / ".." / tmp_path.name)
    assert first.acquire() == second.acquire() == first.acquire() == ""
    first.release()
    first.release()
    assert second.holder().pid == os.getpid() and (tmp_path / RUNNING).exists()
    del second  # an object that is gone holds nothing
    assert not (tmp_path / RUNNING).exists()


def test_a_fork_neither_has_the_lock_nor_gives_it_back(tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()

    def child(connection):
        lock.release()
        hold(tmp_path, connection)

    line, other = FORK.Pipe()
    process = FORK.Process(target=child, args=(other,))
    process.start()
    assert isinstance(line.recv(), FolderInUse)
    process.join()
    assert lock.holder().pid == os.getpid()
    lock.release()


def test_a_folder_that_was_deleted_and_made_again_is_another_one(tmp_path, holder):
    process, line = holder
    shutil.rmtree(tmp_path / "run")
    lock = FolderLock(tmp_path / "run")
    assert lock.acquire() == ""
    line.send("end")
    process.join()
    assert (tmp_path / "run" / RUNNING).exists(), "the other one has not removed what is not its"
    lock.release()


def test_of_many_that_start_at_once_one_at_a_time_has_it(tmp_path):
    """Each adds one to a number in a file, which loses some where two are inside."""
    file, rounds = tmp_path / "number", 25
    file.write_text("0")

    def count():
        for _ in range(rounds):
            lock = FolderLock(tmp_path)
            lock.acquire(patience_s=60.0)
            number = int(file.read_text())
            time.sleep(0.0005)
            file.write_text(str(number + 1))
            lock.release()

    processes = [FORK.Process(target=count) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert file.read_text() == str(4 * rounds)


def test_without_locks_the_file_keeps_off_where_it_can(tmp_path, monkeypatch):
    """The system's own error on a file system that has none (Lustre without -o flock, some FUSE)."""

    def no_locks(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    lock = FolderLock(tmp_path)
    note(tmp_path, pid=os.getppid())
    assert lock.holder().pid == os.getppid()
    with pytest.raises(FolderInUse, match=f"process {os.getppid()} on {HOST}, since 2020-01-01 00:00:00"):
        lock.acquire(patience_s=0.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for changes in ({"pid": ended.pid}, {"host": "another"}):
        note(tmp_path, **changes)
        assert "without locks" in lock.acquire()
        lock.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    Path(tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        FolderLock(tmp_path / "file").acquire()
