"""A lock on a folder for as long as a process writes there: the kernel's, and a file that says whose it is.

Source: flock(2), which the system drops with the process, however that ends; on NFS Linux makes a lock of the server of
it, where mounts do not keep locks local (local_lock, nolock). Deviations: a forked child closes its copy, because a
loader's worker would keep the lock of an owner that was killed; the file is removed in the end, so that one without a
lock tells of a run that was killed. Where a file system has no locks, the file alone keeps a second process off: only
on the same host, where it can be seen whether the first one lives.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from scaleeq.files import is_alive

try:
    import fcntl
except ImportError:  # Windows: nothing is kept off there
    fcntl = None  # type: ignore[assignment]

RUNNING = ".running"
PATIENCE_S, POLL_S = 0.5, 0.02
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


@dataclass
class _Held:
    """A lock that this process has: the open file, and how many have taken it."""

    descriptor: int
    count: int = 1


_held: dict[str, _Held] = {}  # by the real path of the lock's file


@dataclass(frozen=True)
class Holder:
    """Whose a lock is, as its file says. since: local time of that host."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class FolderInUse(OSError):
    """Another process writes to a folder; the message names it."""


class FolderLock:
    """The lock of one folder. A process may take it several times; it is free when each has released it.

    folder: made where it is missing. name: of the file in it.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = RUNNING) -> None:
        self.folder = Path(folder)
        self._path = os.path.join(os.path.realpath(folder), name)
        self._mine = False

    def acquire(self, *, patience_s: float = PATIENCE_S) -> str:
        """Take it. Returns what to warn of: "", unless a process of another host may still write here.

        patience_s: for one who has it just to look, and for a holder who has not yet said its name.

        FolderInUse: another process has it; names that. OSError: the folder cannot be written.
        """
        if self._mine or fcntl is None:
            return ""
        if self._path in _held:
            _held[self._path].count += 1
            self._mine = True
            return ""
        os.makedirs(self.folder, exist_ok=True)
        until, warning = time.monotonic() + patience_s, None
        while warning is None:
            try:
                warning = self._try()
            except FolderInUse:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_S)
        self._mine = True
        return warning

    def release(self) -> None:
        """Give it back; nothing where it was not taken, or was taken before a fork."""
        held = _held.get(self._path)
        if not self._mine or held is None:
            return
        self._mine = False
        held.count -= 1
        if held.count:
            return
        del _held[self._path]
        if _is_at(held.descriptor, self._path):  # else the folder was deleted, and may be another's by now
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        os.close(held.descriptor)

    def check(self) -> None:
        """FolderInUse, as `acquire` raises it; nothing is changed, and nothing is taken."""
        if self._path not in _held and (holder := self.holder()):
            raise self._refusal(holder)

    def holder(self) -> Holder | None:
        """Who has it now; None: nobody, or, where a file system has no locks, nobody who is known to live.

        To look is to hold it for a moment: one who wants it then waits, up to PATIENCE_S.
        """
        if fcntl is None:
            return None
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            locks = _lock(descriptor)
            holder = _read(descriptor)
        except BlockingIOError:
            return _read(descriptor) or Holder("an unknown host", 0, "just now")
        finally:
            os.close(descriptor)
        return holder if holder and not locks and _lives_here(holder) else None

    def __del__(self) -> None:
        self.release()

    def _try(self) -> str | None:
        """One attempt; None: the file was replaced meanwhile."""
        with contextlib.ExitStack() as closing:
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT, 0o666
            )  # programs that are started do not inherit it
            closing.callback(os.close, descriptor)
            # Take the lock.
            try:
                locks = _lock(descriptor)
            except BlockingIOError:
                raise self._refusal(_read(descriptor)) from None
            # Whose was it?
            before = _read(descriptor)
            if before and not locks and before.pid != os.getpid() and _lives_here(before):
                raise self._refusal(before)
            if not _is_at(descriptor, self._path):  # its last owner has removed it between the two calls
                return None
            # Say whose it is.
            own = Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(own)).encode(), 0)
            os.fsync(descriptor)  # for readers on other hosts
            _held[self._path] = _Held(descriptor)
            closing.pop_all()
        return self._warning(before, locks)

    def _refusal(self, holder: Holder | None) -> FolderInUse:
        who = str(holder) if holder else "a process that has not said its name"
        return FolderInUse(
            f"{self.folder} is in use: {who}, writes there. Wait until that has ended, end it, or choose another folder"
        )

    def _warning(self, before: Holder | None, locks: bool) -> str:
        there = "" if locks else f"{self.folder} is on a file system without locks. "
        if before and before.host != socket.gethostname():
            return (
                f"{there}{self._path} names {before}, which has no lock on it: taken for ended. If it still runs, "
                "because locks do not reach from host to host here, end one of the two"
            )
        return f"{there}A second run in this folder is refused on this host alone" if there else ""


def _lock(descriptor: int) -> bool:
    """Take the kernel's lock; False: there are none here. BlockingIOError: another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (OSError, ValueError, TypeError):  # empty, or cut short
        return None


def _lives_here(holder: Holder) -> bool:
    return holder.host == socket.gethostname() and is_alive(holder.pid)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _close_in_child() -> None:
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
