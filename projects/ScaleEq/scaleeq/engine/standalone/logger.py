"""Loggers that write to the terminal (rank 0) and to files (every rank).

Source: the interface, line format and file names of Detectron2's `utils/logger.py`. Deviation: the root that is set up
when no name is given is this package ("scaleeq.engine.standalone", shown as "engine"); there it is "detectron2" ("d2").
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from typing import TextIO

from termcolor import colored

_ROOT = __name__.rpartition(".")[0]
_DATE_FORMAT = "%m/%d %H:%M:%S"
_LAST_LOGGED: dict[tuple[str, int], float] = {}


class _ColorfulFormatter(logging.Formatter):
    """Green prefix, red level names, abbreviated logger names."""

    def __init__(self, fmt: str, *, root_name: str, abbrev_name: str) -> None:
        super().__init__(fmt, datefmt=_DATE_FORMAT)
        self._root_prefix = root_name + "."
        self._abbrev_prefix = abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        # The record itself is renamed, as in Detectron2: log.txt of rank 0 shows the short name too.
        record.name = record.name.replace(self._root_prefix, self._abbrev_prefix)
        line = super().formatMessage(record)
        if record.levelno == logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + line
        if record.levelno in (logging.ERROR, logging.CRITICAL):
            return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + line
        return line


@functools.lru_cache  # a second call with the same arguments must not add a second pair of handlers
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = _ROOT,
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Set up the logger `name` and return it.

    output: a file (*.txt, *.log), or a folder for log.txt, or None for no file. Ranks above 0 append ".rank<k>".
    abbrev_name: shown in place of `name` in the names of its children; "" drops it.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "engine" if name == _ROOT else name

    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)
    if configure_stdout and distributed_rank == 0:
        prefix = colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s"
        _add_handler(
            logger, sys.stdout, _ColorfulFormatter(prefix, root_name=name, abbrev_name=abbrev_name) if color else plain
        )
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        _add_handler(logger, _log_stream(path), plain)
    return logger


def _add_handler(logger: logging.Logger, stream: TextIO, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache  # loggers with different names share one open file
def _log_stream(path: str) -> TextIO:
    stream = open(path, "a")  # noqa: SIM115 (open for the life of the process)
    atexit.register(stream.close)
    return stream


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log `msg` unless the calling line logged less than `n` seconds ago."""
    caller = sys._getframe(1)
    key = (caller.f_code.co_filename, caller.f_lineno)
    now = time.time()
    if key not in _LAST_LOGGED or now - _LAST_LOGGED[key] >= n:
        logging.getLogger(name or caller.f_globals["__name__"]).log(lvl, msg)
        _LAST_LOGGED[key] = now
