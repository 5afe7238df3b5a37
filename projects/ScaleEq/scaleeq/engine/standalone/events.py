"""Scalars of a training and the writers that show them.

Source: the interface and behaviour of Detectron2's `utils/events.py`: what is smoothed and over which window, the
printer's line, the lines of metrics.json. A window of n means the samples of the last n iterations, however many.
Deviations: name_scope ends after an exception too; an ETA that would divide by zero iterations is left out.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, SupportsFloat

import torch
from fvcore.common.history_buffer import HistoryBuffer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_STORAGES: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost `with EventStorage(...)`; AssertionError outside of any."""
    assert _STORAGES, "get_event_storage() has to be called inside a 'with EventStorage(...)' context"
    return _STORAGES[-1]


class EventStorage:
    """Histories of named scalars by iteration, and images and histograms that wait for TensorBoard."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._current_prefix = ""
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict[str, object]] = []

    @property
    def iter(self) -> int:
        """Current iteration; a trainer keeps it equal to its own."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        return self._iter

    def step(self) -> None:
        """Next iteration, for code without a trainer."""
        self._iter += 1

    def put_scalar(
        self, name: str, value: SupportsFloat, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a value (what float() takes). smoothing_hint: writers show the median of the window; fixed per name."""
        name = self._current_prefix + name
        cur_iter = self._iter if cur_iter is None else cur_iter
        value = float(value)
        self._history[name].update(value, cur_iter)
        self._latest_scalars[name] = (value, cur_iter)
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: SupportsFloat) -> None:
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor) -> None:
        """img_tensor: (3, H, W), RGB, uint8 or float in [0, 1]."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """hist_tensor: any shape, float."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, steps=bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": len(hist_tensor),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float((hist_tensor**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """{name: (value, iteration)}, not smoothed."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """{name: (value, iteration)}; the median of the window where the scalar was put with smoothing_hint."""
        return {
            name: (self._window_median(name, window_size) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self._latest_scalars.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Number of samples put in the last `window_size` iterations before the scalar's latest, itself included."""
        samples = self._history[name].values()
        count = 0
        for _, iteration in reversed(samples):
            if iteration <= samples[-1][1] - window_size:
                break
            count += 1
        return count

    def _window_median(self, name: str, window_size: int) -> float:
        return self._history[name].median(self.count_samples(name, window_size))

    def smoothing_hints(self) -> dict[str, bool]:
        return self._smoothing_hints

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of scalars put inside with "name/"; scopes do not nest, the inner one wins."""
        outer_prefix = self._current_prefix
        self._current_prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = outer_prefix

    def clear_images(self) -> None:
        self._vis_data = []

    def clear_histograms(self) -> None:
        self._histograms = []

    def __enter__(self) -> EventStorage:
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _STORAGES[-1] == self
        _STORAGES.pop()


class EventWriter:
    """Shows what the current storage holds."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Called once, after the last write."""


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration: the scalars whose latest value is newer than the last write."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = open(json_file, "a")  # noqa: SIM115 (closed by close)
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        self._last_write = max(lines, default=self._last_write)
        for iteration, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms to TensorBoard's event files; kwargs go to its SummaryWriter."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: object) -> None:
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @functools.cached_property
    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and makes a file at once

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        storage = get_event_storage()
        last_write = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                last_write = max(last_write, iteration)
        self._last_write = last_write
        for image in storage._vis_data:
            self._writer.add_image(*image)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: ETA, iteration, losses, "[metric]" scalars, times, learning rate, GPU memory.

    max_iter: for the ETA; None leaves it out. At storage.iter == max_iter nothing is written: the training is over.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # iteration and time, where no iteration times are known

    def _eta(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        iterations_left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * iterations_left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:
            last_write, self._last_write = self._last_write, (storage.iter, time.perf_counter())
            if last_write is None or last_write[0] == storage.iter:
                return ""
            seconds = (time.perf_counter() - last_write[1]) / (storage.iter - last_write[0]) * iterations_left
        return f"eta: {datetime.timedelta(seconds=int(seconds))}  "

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        names = list(storage.histories())
        times = ""
        if "time" in names:
            history = storage.history("time")
            times += f"time: {history.global_avg():.4f}  last_time: {history.latest():.4f}  "
        if "data_time" in names:
            history = storage.history("data_time")
            average = history.avg(storage.count_samples("data_time", self._window_size))
            times += f"data_time: {average:.4f}  last_data_time: {history.latest():.4f}  "
        lr = f"{storage.history('lr').latest():.5g}" if "lr" in names else "N/A"
        memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M" if torch.cuda.is_available() else ""
        losses = self._medians(storage, [name for name in names if "loss" in name])
        metrics = self._medians(storage, [name for name in names if "[metric]" in name])
        eta = self._eta(storage)
        self.logger.info(f" {eta}iter: {storage.iter}  {losses}  {metrics}  {times} lr: {lr}  {memory}")

    def _medians(self, storage: EventStorage, names: list[str]) -> str:
        return "  ".join(f"{name}: {storage._window_median(name, self._window_size):.4g}" for name in names)
