"""Processes that share work over a data set, and end with the process that started them, however that ends.

Python's pool leaves its processes waiting for ever where its owner is killed, and each of them prints a
stack trace at Ctrl-C, which the owner alone should answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

import cv2

from scaleeq.console import RunFailed
from scaleeq.stopping import leave_signals_to_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerKilledError(RunFailed):
    """A worker process ended in the middle of its work; no fault of the task, as far as anybody knows."""


def map_in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, *, chunksize: int = 1
) -> Iterator[Result]:
    """work(task) of each task, in order; the first error, or leaving the loop, cancels what has not begun.

    workers: processes, each with one thread of OpenCV; 0 or 1: this one. chunksize: tasks sent at a time.
    ValueError: a negative number of workers. WorkerKilledError: somebody, usually the system, has killed one.
    """
    if workers < 0:
        raise ValueError(f"the number of worker processes is {workers}; expected 0 or more")
    if workers <= 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")  # a fork has torch already
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start) as pool:
        try:
            results = pool.map(work, tasks, chunksize=chunksize)
            started = set(multiprocessing.active_children()) - others
            yield from results
        except BrokenProcessPool as error:
            raise WorkerKilledError(
                f"one of {workers} worker processes {_how_it_ended(started)}, as the system does where memory runs "
                "out; use fewer of them (0: this process alone)"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _how_it_ended(processes: Iterable[BaseProcess]) -> str:
    """What became of the first one that has ended; the pool ends the others by SIGTERM."""
    for process in processes:
        process.join(timeout=1)
    codes = [process.exitcode for process in processes if process.exitcode]
    code = next((code for code in codes if code != -signal.SIGTERM), codes[0] if codes else 0)
    if code > 0:
        return f"ended by itself with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else "was killed"


def _start() -> None:
    cv2.setNumThreads(0)  # processes are the parallelism
    leave_signals_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
