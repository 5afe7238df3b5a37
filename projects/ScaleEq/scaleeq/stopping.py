"""Signals that end a run: noted when they come, and acted on where nothing is left half done.

SIGINT (Ctrl-C), SIGTERM and SIGHUP, which counts as SIGTERM; in a job of SLURM so does SIGUSR1, by which SLURM tells
beforehand that a job's time is over (sbatch --signal), unless the program has a handler of its own. An exception out of
a signal handler, as Python's KeyboardInterrupt is, is lost where it strikes code whose exceptions are ignored: a
destructor, or a callback while a loader's workers are being forked or ended. So the handler notes the signal, and
whoever goes through batches or steps looks at that note. Nothing is installed outside of `stop_signals`; what is
ignored (nohup) stays ignored.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Handler = Callable[[int, FrameType | None], object] | int | None  # of a signal, as the signal module has it

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
WARNING = getattr(signal, "SIGUSR1", None)  # of SLURM
if "SLURM_JOB_ID" in os.environ and WARNING is not None:
    SIGNALS.append(WARNING)
# Ctrl-C reaches a program from its terminal, and once more from a command around it that passes signals on; torchrun
# does so too, after a while, and besides ends the other processes by SIGTERM as soon as one has ended.
SAME_S, SAME_UNDER_TORCHRUN_S = 0.2, 2.0


class Shared(Protocol):
    """An integer that several processes share."""

    value: int


class Stopped(SystemExit):
    """A signal ended what was running; the exit status is 128 + its number. told: the user knows what that means."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.told = False

    @property
    def signal_name(self) -> str:
        return signal.Signals(self.number).name


class _State:
    """Of this process."""

    number = 0  # of the signal that was noted; 0: none
    since = 0.0  # when it came here; 0.0: another process has noted it
    at_once = False
    leaver = 0  # the process that leaves signals to its parent
    previous: dict[int, Handler] | None = None  # handlers that were there before ours; None: ours are not installed
    mask: set[int] | None = None  # of blocked signals, before a fork; None: nobody forks
    job: Shared | None = None  # .value: the signal that any process of the job has noted on this machine


def stop_requested() -> int:
    """The number of the signal that asks this process, or another of its job on this machine, to end; 0: none."""
    return _State.number or (_State.job.value if _State.job is not None else 0)


def request_stop(number: int) -> None:
    """Ask this process, and the others of its job on this machine, to end as after this signal."""
    _State.number = _State.number or number
    if _State.job is not None and not _State.job.value:
        _State.job.value = number


def check_stop() -> None:
    """Stopped, where a signal asks for it."""
    if number := stop_requested():
        raise Stopped(number)


def share_stops(job: Shared | None) -> None:
    """From now on signals are noted for all processes that share this integer, a multiprocessing.Value without lock."""
    _State.job = job


class UntilStopped(Generic[Item]):
    """The items of an iterable, with a look at the signals before each. Its length, where it has one, is the same."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            check_stop()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]


@contextlib.contextmanager
def stop_signals(*, at_once: bool) -> Iterator[None]:
    """Inside, signals are noted; a second one ends the process at once. The handlers of before come back at the end.

    at_once: Stopped is raised where the signal strikes, as well; else only where somebody looks, and at the end of the
        block. May be nested; the inner one decides. Off the main thread nothing is installed.
    """
    before = _State.at_once
    outermost = _State.previous is None and _install()
    _State.at_once = at_once
    try:
        yield
        check_stop()
    finally:
        _State.at_once = before
        if outermost:
            _restore()


def ignore_stops() -> None:
    """For a process that has done its work and ends now: what comes is too late to ask for anything."""
    with contextlib.suppress(ValueError):  # not the main thread
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _install() -> bool:
    """Whether the handlers are ours now."""
    previous = {}
    try:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            is_free = number != WARNING or handler == signal.SIG_DFL  # submitit has one of its own
            if is_free and handler not in (signal.SIG_IGN, None):  # None: of a program around Python
                previous[number] = signal.signal(number, _note)
    except ValueError:  # not the main thread
        return False
    _State.previous = previous
    return True


def _restore() -> None:
    for number, handler in (_State.previous or {}).items():
        signal.signal(number, handler)
    _State.previous, _State.number, _State.since = None, 0, 0.0


def _note(number: int, frame: object) -> None:
    asked = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
    now = time.monotonic()
    if _State.since:
        if _is_another(asked, now - _State.since):
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + asked)
        return
    _State.since = now
    request_stop(asked)
    if _State.at_once:
        raise Stopped(asked)


def _is_another(asked: int, seconds: float) -> bool:
    """Whether a signal that came so long after the first one is a second one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return asked == signal.SIGINT and seconds > SAME_UNDER_TORCHRUN_S
    return seconds > SAME_S


def _hold_during_fork() -> None:
    """Python forgets what reaches a child before its handlers run: until it has its own, signals wait."""
    if _State.previous is not None:
        _State.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_go() -> None:
    if _State.mask is not None:
        mask, _State.mask = _State.mask, None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    """A forked child, such as a loader's worker, leaves signals to its owner from its first moment on.

    One that died of a signal to the whole job would be an error in its owner, in the middle of a step.
    """
    if _State.previous is not None:
        leave_signals_to_parent()
    _State.previous, _State.number, _State.since, _State.at_once, _State.job = None, 0, 0.0, False, None
    mask, _State.mask = _State.mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask | ({signal.SIGTERM} if _State.leaver == os.getpid() else set()))


def leave_signals_to_parent() -> None:
    """A worker does not end by signals that reach all processes of a job: its parent does, and ends it then.

    So the parent can finish its step. SIGTERM counts where the parent has sent it; that needs Linux.
    """
    for number in SIGNALS:  # a forked process has its parent's handlers until then
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if sys.platform == "linux" and _State.leaver != os.getpid():
        _State.leaver = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # threads that are started later inherit it
        threading.Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_during_fork, after_in_parent=_let_go, after_in_child=_forget_in_child)
