"""The commands, one a file: `scaleeq VERB` (scaleeq.__main__ has the table of verbs) and tools/*.py start them.

A command is a module of this package with

    STOPPED: what is left after Ctrl-C, in words
    parser() -> the parser of its words, and parse(parser, argv) -> what they say; both need the standard library alone
    run(arguments) -> exit code (None: 0); imports what it needs, so that a mistake is told before torch is loaded

Nobody imports a command to use what it does: that lies in the rooms below.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from scaleeq import console


def start(name: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> NoReturn:
    """Run a command as this process, from reading its words to the exit code.

    name: of a module here. argv: its words; None: those of this process. prog: what --help calls it.
    """
    console.start()
    command = importlib.import_module(f"{__name__}.{name}")

    def run() -> int | None:
        parser = command.parser()
        parser.prog = prog or parser.prog
        return command.run(command.parse(parser, sys.argv[1:] if argv is None else list(argv)))

    console.run(run, stopped=command.STOPPED)
