"""Shared work: order, errors, and what is left of the processes when their owner is stopped or killed."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from scaleeq.workers import WorkerKilledError, _how_it_ended, map_in_processes

OWNER = """
import faulthandler
import os
import time
from scaleeq.workers import map_in_processes

def work(task):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(0.2 if task else 0)
    return task

if __name__ == "__main__":
    for _ in map_in_processes(work, range(1000), 2):
        pass
"""


def half(number: int) -> float:
    return 1 / (2 * number)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_and_the_first_error(workers):
    assert list(map_in_processes(half, range(1, 9), workers, chunksize=3)) == [half(number) for number in range(1, 9)]
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(half, [1, 0, 1], workers))


def test_fewer_than_none():
    with pytest.raises(ValueError, match="worker processes is -1; expected 0 or more"):
        list(map_in_processes(half, [1], -1))


def end(how: int) -> int:
    """0: work. A signal: is killed by it, as by a system that has no memory left. -N: exits with N by itself."""
    faulthandler.disable()  # its report would stand in the log of the tests
    if how > 0:
        os.kill(os.getpid(), how)
    if how < 0:
        os._exit(-how)
    return how


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (-3, "ended by itself with exit code 3"),
    ],
)
def test_a_killed_process_is_told(how, words):
    with pytest.raises(WorkerKilledError, match=f"one of 2 worker processes {words}.*memory.*fewer"):
        list(map_in_processes(end, [0, 0, how, 0, 0], 2))


def test_a_process_that_the_pool_ended_is_not_the_one_that_was_killed():
    """It ends the others by SIGTERM, which may strike before they leave signals to their parent."""
    processes = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)) for _ in range(3)]
    for process, number in zip(processes, (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), strict=True):
        process.start()
        os.kill(process.pid, number)
    assert _how_it_ended(processes) == "was killed by SIGKILL"
    assert _how_it_ended(processes[:1]) == "was killed by SIGTERM" and _how_it_ended([]) == "was killed"


def signalled(number: int) -> int:
    os.kill(os.getpid(), number)
    return number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_worker_goes_on_where_a_terminal_stops_all_processes(number):
    """Their owner decides when they end."""
    assert list(map_in_processes(signalled, [number] * 4, 2)) == [number] * 4


def blurred(side: int) -> float:
    return float(cv2.erode(cv2.GaussianBlur(np.ones((side, side), np.uint8), (0, 0), 3), np.ones((9, 9))).mean())


def test_opencv_works_in_processes_whose_parent_has_its_threads():
    """A forked process has none of its parent's threads, and OpenCV would wait for them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        expected = [blurred(2048)] * 4
        assert list(map_in_processes(blurred, [2048] * 4, 2)) == expected
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(tmp_path, end):
    """Ctrl-C goes to all processes; kill -9 to the owner alone. One stack trace at most, the owner's."""
    (tmp_path / "owner.py").write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(tmp_path / "owner.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert owner.stdout is not None
    processes = {int(owner.stdout.readline()) for _ in range(4)}
    assert owner.pid not in processes
    if end == signal.SIGINT:
        os.killpg(owner.pid, end)
    else:
        owner.kill()
    errors = owner.communicate(timeout=60)[1]  # ends when no process has the pipe open any more
    assert owner.returncode == -end
    assert errors.count("Traceback") == (1 if end == signal.SIGINT else 0)
    deadline = time.monotonic() + 30
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, processes))


def is_running(process: int) -> bool:
    """False for one that has ended and that nobody has collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
