"""What lies in a weights file, by its bytes: torch's archive, found whole; torch's format of before 1.6; or arrays.

torch.load does not look at the checksums of its archive, a zip: one flipped bit of a weight would load. Here every
member is read once against its checksum beforehand, in pieces, so that the memory does not grow with the file. What
lies outside of the members (headers, names, padding) either is found wrong then or changes nothing that is read.
"""

from __future__ import annotations

import errno
import logging
import re
import zipfile
from pathlib import Path

import torch

from .plain_pickle import ForbiddenName, read_plain_pickle

logger = logging.getLogger(__name__)

ZIP = b"PK\x03\x04"
_PICKLE = (b"\x80", b"(", b"}")  # how a pickle of a dict, or torch's old format, begins
_FOLDER = 0x10  # a flag of MS-DOS
_PIECE = 1 << 20  # bytes read at once
_ONLY_VALUES = "nothing but tensors and plain values is read, and no code is run"
# How files of other kinds begin, and what to say about them.
_OTHER_KINDS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not a torch file: fetch what it points to with `git lfs pull`"),
    (b"\x93NUMPY", "a numpy array, not a torch file"),
    (b"\x89HDF", "an HDF5 file, as of Keras, not a torch file"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
)


def read_content(file: Path, *, shown_as: Path, mapped: bool = False, checksums: bool = False) -> object:
    """What a file holds, tensors on the CPU; read without running code.

    mapped: tensors are left in the file, and must not outlive it. checksums: a file without them is refused.

    FileNotFoundError; OSError of the disk; ValueError, with the reason: damaged, foreign, or with objects of Python.
    """
    if not file.is_file():  # a named pipe would be waited for
        kind = "is no file, but a folder or a device" if file.exists() else "does not exist"
        raise FileNotFoundError(errno.ENOENT, kind, str(shown_as))
    try:
        with file.open("rb") as stream:
            start = stream.read(512)
        if start.startswith(ZIP):
            stored = check_archive(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and stored)
        content = _without_checksums(file, start)
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, zip and struct errors
        raise ValueError(f"{shown_as} {_reason(start, error)}") from error
    if checksums:
        raise ValueError(
            f"{shown_as} is of a format without checksums, which no run is resumed from; it is taken as MODEL.WEIGHTS "
            "of a fresh run, or for an evaluation"
        )
    logger.warning("%s is of a format without checksums: damage to its numbers would go unnoticed", shown_as)
    return content


class _Damaged(Exception):
    """The text goes on after "<file> is"."""


def check_archive(file: Path) -> bool:
    """Read every member of a torch file against its checksum; returns whether all of them lie there uncompressed."""
    if not zipfile.is_zipfile(file):
        raise _Damaged("truncated: its end is missing")
    # Every member whole.
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(archive, member)
    except _Damaged:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning of the file
            raise
        raise _Damaged(f"damaged ({error})") from error
    except Exception as error:  # of zipfile and zlib, by the place of the damage
        raise _Damaged(f"damaged ({type(error).__name__}: {error}): copy it again, or take another one") from error
    # An archive of torch's.
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise _Damaged("damaged: it holds two members of one name")
    if any(name.endswith("/constants.pkl") for name in names):
        raise _Damaged("a TorchScript archive, with code: save the state_dict() of its model with torch.save")
    if not any(name.endswith("data.pkl") for name in names):
        raise _Damaged(f"a zip archive of something else (it holds {', '.join(names[:3]) or 'nothing'})")
    return all(member.compress_type == zipfile.ZIP_STORED for member in members)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    num_bytes = 0
    with archive.open(member) as stream:
        while piece := stream.read(_PIECE):
            num_bytes += len(piece)
    if num_bytes and (member.is_dir() or member.external_attr & _FOLDER):  # torch would leave memory as it found it
        raise zipfile.BadZipFile(f"{member.filename} is marked as a folder")
    if num_bytes != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} has {num_bytes} bytes instead of {member.file_size}")


def _without_checksums(file: Path, start: bytes) -> object:
    """Of a pickle of arrays, or of torch's format of before 1.6."""
    if start.startswith(_PICKLE):
        content = read_plain_pickle(file)
        if not isinstance(content, int):  # the number that torch's old format begins with
            return content
    return torch.load(file, map_location="cpu", weights_only=True)


def _reason(start: bytes, error: Exception) -> str:
    """What follows "<file> " in the message: why it was not read."""
    if not start:
        return "is empty"
    if isinstance(error, _Damaged):
        return f"is {error}"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a torch file: download the file itself"
    for beginning, kind in _OTHER_KINDS:
        if start.startswith(beginning):
            return f"is {kind}"
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "is a safetensors file; convert it: torch.save(safetensors.torch.load_file(file), 'weights.pth')"
    if isinstance(error, ForbiddenName):
        return f"is a pickle that holds {error}; {_ONLY_VALUES}"
    if forbidden := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        hint = "; of a whole model, save its state_dict()" if forbidden[1].split(".")[0] != "numpy" else ""
        return f"holds {forbidden[1]}; {_ONLY_VALUES}{hint}"
    return f"is damaged, or not a torch file ({type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]})"
