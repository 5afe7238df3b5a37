"""How a command ends: a user's mistake in one line on stderr, and an exit code that says what happened.

    from scaleeq import console

    console.start()  # before torch is imported, so that what an import says is told in one line too
    ...
    if __name__ == "__main__":
        console.run(main)

0: success; 1: the run or a check failed; 2: wrong use; 130 and 143: ended by SIGINT and SIGTERM. A mistake is what is
said by a ValueError, by a KeyError or an ImportError with a sentence, by the import of a package that comes with an
extra, or by an OSError; all other errors are faults of
the run or of the program, and show their traceback. Every command takes --debug, anywhere: a mistake's traceback too.
Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from scaleeq.extras import missing

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
DEBUG = "SCALEEQ_DEBUG"  # in the environment, so that the processes of a job know it too
# Of OSError, these tell what became of another process or machine, not what a user has typed.
_NOT_TYPED = (ConnectionError, ChildProcessError, BlockingIOError, InterruptedError, ProcessLookupError, TimeoutError)


class Mistake(ValueError):
    """A user's mistake that another process has found, in the words in which it is told."""


class RunFailed(RuntimeError):
    """What became of a run, in words that say more than a traceback would."""


def start() -> None:
    """Prepare this process for `run`: take --debug off the command line, and tell mistakes of imports in one line.

    Threads that wait by spinning make every step of a busy machine 5 to 10 times slower; torch reads it on its import.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:  # Detectron2's imports warn of what torch will do one day: nothing for who runs a command
        warnings.simplefilter("ignore", FutureWarning)
    if "--debug" in sys.argv[1:]:
        sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
        os.environ[DEBUG] = "1"
    sys.excepthook = _told_at_exit


def run(main: Callable[[], int | None], *, stopped: str = "stopped") -> NoReturn:
    """Call `main` and end the process with the exit code that it returns (None: 0), or that its error has.

    stopped: what is left after Ctrl-C, in words.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        code = tell(error, stopped=stopped)
    sys.exit(code)


def tell(error: BaseException, *, stopped: str = "stopped") -> int:
    """Say on stderr what ended a command; the exit code that it has."""
    if isinstance(error, BrokenPipeError) and _is_reader_gone():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (what is left to write goes there, until the process ends)
        return FAILED
    text, code = mistake(error), WRONG_USE
    if isinstance(error, KeyboardInterrupt):
        text, code = stopped, INTERRUPTED
    elif isinstance(error, (FloatingPointError, RunFailed)):  # said in words that a traceback would hide
        text, code = f"error: {error}", FAILED
    elif text:
        text = f"error: {text}"
    else:
        code = FAILED
    sys.stdout.flush()
    if not text or os.environ.get(DEBUG):
        traceback.print_exception(type(error), error, error.__traceback__)
    if text:
        print(text, file=sys.stderr)
    return code


def mistake(error: BaseException) -> str:
    """What a user did wrong, in words; empty where an error tells of something else.

    A KeyError with a bare key is one of the program's own dictionaries; an ImportError with a name is Python's.
    """
    if isinstance(error, KeyError):
        text = str(error.args[0]) if error.args else ""
        return text if " " in text else ""
    if isinstance(error, ImportError):
        return missing(error) if error.name else str(error)
    if isinstance(error, OSError):
        return "" if isinstance(error, _NOT_TYPED) else _with_its_file(error)
    return str(error) or type(error).__name__ if isinstance(error, ValueError) else ""


def mistake_in(text: str) -> str:
    """The mistake at the end of another process's traceback; empty where it ends with another error."""
    _, mark, words = text.rpartition(f"{Mistake.__module__}.{Mistake.__qualname__}: ")
    return words.strip() if mark else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither log records nor warnings, for checks that only ask."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a command, whose description keeps its lines."""
    return adopt(argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter))


def adopt(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let a parser list --debug, and tell a mistake in one line instead of with its usage; returns it."""

    def refuse(message: str) -> NoReturn:
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        raise SystemExit(WRONG_USE)

    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a mistake's traceback")
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _with_its_file(error: OSError) -> str:
    """The words of an error of the system, without its number."""
    if error.strerror is None or error.filename is None:
        return error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"


def _is_reader_gone() -> bool:
    """Whether nobody reads stdout any more, as after `| head`: not every broken pipe is that one."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # a system without poll; a stdout that is no file
        return True


def _told_at_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook. Python ends with the exit code of a SystemExit that is raised here."""
    raise SystemExit(tell(error.with_traceback(trace)))
