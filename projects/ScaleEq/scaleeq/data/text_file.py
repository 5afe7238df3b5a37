"""Text files that people write: lists of images, names of classes."""

from __future__ import annotations

import codecs

from .picture_file import require_file


def read_lines(path: str) -> list[str]:
    """The lines of a text file in UTF-8, or in UTF-16 where it begins with that one's mark.

    ValueError: it is something else; the file and the line are named.
    """
    require_file(path)
    with open(path, "rb") as file:
        data = file.read()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: it is no text in UTF-8 ({error.reason}); save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{path} is no text: it holds zero bytes; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
