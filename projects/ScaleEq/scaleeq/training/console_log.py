"""What the console shows of a run; log.txt has all of it.

A record of many lines, as the environment, the config and the model are, is one line while a run is set up. On a
terminal a bar stands for the lines of the iterations.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from scaleeq.engine import EventWriter, get_event_storage

LONG = 6  # lines


class FirstLine(logging.Formatter):
    """The first line of a long record, and how many there are."""

    def __init__(self, whole: logging.Formatter) -> None:
        super().__init__()
        self.whole = whole

    def format(self, record: logging.LogRecord) -> str:
        text = self.whole.format(record)
        first, *others = text.splitlines() or [""]
        return f"{first} ({len(others)} lines in log.txt)" if len(others) >= LONG else text


@contextmanager
def first_lines() -> Iterator[None]:
    """Long records are their first line on the console, inside."""
    shortened = [(handler, handler.formatter) for handler in console_handlers()]
    for handler, formatter in shortened:
        handler.setFormatter(FirstLine(formatter or logging.Formatter()))
    try:
        yield
    finally:
        for handler, formatter in shortened:
            handler.setFormatter(formatter)


def console_handlers() -> list[logging.Handler]:
    """The handlers, of all loggers, that write to stdout."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    handlers = [handler for logger in (logging.root, *loggers) for handler in logger.handlers]
    return [handler for handler in handlers if getattr(handler, "stream", None) is sys.stdout]


def is_terminal() -> bool:
    """Whether somebody sees the console: a bar would fill a file with its own past."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class ProgressBar(EventWriter):
    """Iterations, loss, learning rate, speed and the time that is left, in one line of a terminal."""

    def __init__(self, max_iter: int, *, instead_of: EventWriter) -> None:
        """max_iter: iterations of the whole run. instead_of: a writer whose lines leave the console."""
        self._max_iter = max_iter
        self._bar: tqdm | None = None
        self._replaced = type(instead_of).__module__  # the name of its logger
        self._handlers = console_handlers()
        for handler in self._handlers:
            handler.addFilter(self._give_way)

    def write(self) -> None:
        storage = get_event_storage()
        if self._bar is None:  # its speed is of this process, not of those before a resume
            self._bar = tqdm(total=self._max_iter, initial=storage.iter + 1, unit="it", dynamic_ncols=True, leave=False)
        latest = {name: value for name, (value, _) in storage.latest_with_smoothing_hint(20).items()}
        shown = {name: latest[key] for name, key in (("loss", "total_loss"), ("lr", "lr")) if key in latest}
        self._bar.update(storage.iter + 1 - self._bar.n)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})

    def close(self) -> None:
        for handler in self._handlers:
            handler.removeFilter(self._give_way)
        if self._bar is not None:
            self._bar.close()

    def _give_way(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; the bar comes again with its next iterations."""
        if record.name == self._replaced:
            return False
        if self._bar is not None:
            self._bar.clear()
        return True
