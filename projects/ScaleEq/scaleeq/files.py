"""How a run's files are written: beside their place first, then renamed, so that each is the old one or the new one.

Source: the usual recipe for POSIX file systems (write, fsync, rename, fsync of the folder). The part is named after the
file and its writer, `.<name>.<host>-<pid>.part`, so that two writers of one file never share one: the file is what one
of them wrote. A writer that is killed leaves its part; `remove_parts` takes such away.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import itertools
import json
import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scaleeq.records import Json, JsonView

logger = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_PART = re.compile(r"\.(?P<name>.*?)(?:\.(?P<host>\w+)-(?P<pid>\d+))?\.part")  # an older version's has no writer
_LONGEST_NAME = 160  # bytes of a file's name in its part's, which has 255 for all


def part_of(path: str | os.PathLike[str]) -> Path:
    """Where this process writes the next content of `path` before it takes its place."""
    path = Path(path)
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return path.with_name(f".{name}.{_host()}-{os.getpid()}.part")


def remove_parts(folder: str | os.PathLike[str], *, of: str = "*", locked: bool = False) -> None:
    """Remove what killed writers have left in a folder (not in those below it).

    of: which files' parts, a pattern. locked: this process has just taken the folder's lock. Then parts of other hosts
    go too, of whose processes cannot be seen whether they live, and those of this process's own number, which an
    earlier container had.
    """
    for part in Path(folder).glob(".*.part"):
        writer = _PART.fullmatch(part.name)
        if writer is None or not fnmatch.fnmatchcase(writer["name"], of):
            continue
        if writer["pid"] is None:
            dead = True
        elif writer["host"] != _host() or int(writer["pid"]) == os.getpid():
            dead = locked
        else:
            dead = not is_alive(int(writer["pid"]))
        if dead:
            part.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number. POSIX alone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _host() -> str:
    """The host's name as a part's name has it."""
    return re.sub(r"\W", "_", socket.gethostname())[:32]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the path to write to; after the block that file takes the place of `path`, on the disk too.

        with replacing("model.pth") as part:
            torch.save(content, part)

    The folder is made where it is missing. After an error `path` is as it was, and the part is removed.
    OSError: as the block raises it, but for `path` instead of its part; where the disk is full, it says what to do; as
    `require_writable` raises it.
    """
    path, part = Path(path), part_of(path)
    if not path.is_fifo():  # which it takes the place of
        require_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        _flush(part, os.O_RDWR)
        os.replace(part, path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            if error.filename == str(part):
                error.filename, error.filename2 = str(path), None
            raise
        kept = "the file from before is untouched" if path.exists() else "nothing was written"
        raise OSError(
            error.errno, f"{error.strerror}: no room to write {path}; {kept}. Free some space, or choose another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some network file systems cannot flush a folder; the file is in its place
        _flush(path.parent, os.O_RDONLY)


def require_writable(path: str | os.PathLike[str], *, folder: bool = False, key: str = "") -> None:
    """Refuse a place where nothing can be written, before the work whose result was to be written there.

    folder: files are to be written in `path`, not `path` itself. key: of the command line, what the path was given by.
    OSError: something else than a file, or than folders, stands there, or nobody may write there; names the place.
    """
    path = Path(path)
    given = f"{key} {path}" if key else f"{path}"
    if not folder and path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file, but a device or a pipe"
        raise OSError(f"{given} is {what}, and a file is to be written there; give a file's name")
    places = [path, *path.absolute().parents] if folder else path.absolute().parents
    place = next(place for place in places if os.path.lexists(place))
    if not place.is_dir():
        raise OSError(f"nothing can be written to {given}: {place} is no folder; name another place, or move that away")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OSError(f"nothing can be written to {given}: {place} is closed to this user; name another place")


def require_checkpoint(path: str, *, key: str = "") -> None:
    """FileNotFoundError: there is no such file, and it is no URL; names key and path. An empty path names none."""
    if path and "://" not in path and not os.path.isfile(path):
        kind = ": it is a folder or a device" if os.path.exists(path) else ""
        raise FileNotFoundError(f"{key and f'{key}: '}there is no checkpoint {path}{kind}")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: JsonView, *, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all; indent None: on one line. NaN and infinity become null."""
    write_text(path, json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, sound: Callable[[Json], bool] = bool) -> Json:
    """The content of a JSON file; {} where there is none.

    sound: of the content, whether it is what the reader expects; KeyError, TypeError and the like count as no.
    What is no file, no JSON object or not sound is named in a warning and taken as missing: no run ends for it.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        if not path.is_file():
            raise ValueError("it is no file, but a folder or a device")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not (isinstance(content, dict) and sound(content)):
            raise ValueError("its content is not what belongs there")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s is taken as missing: %s (%s)", path, error, type(error).__name__)
        return {}
    return content


def set_aside(path: str | os.PathLike[str]) -> None:
    """Rename what stands where a file will be written and cannot be replaced by one, a folder, with a warning."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        other = next(
            place for number in itertools.count(1) if not (place := path.with_name(f"{path.name}.old{number}")).exists()
        )
        path.rename(other)
        logger.warning("%s was a folder, where a file belongs: it is %s now", path, other)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _finite(content: object) -> object:
    """The content with None for each float that JSON has no word for."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
