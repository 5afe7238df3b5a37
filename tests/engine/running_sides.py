"""The running half of either engine under one set of names, and what scenarios need to compare them."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import logging
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

_WHERE = {  # name -> (module of Detectron2, module of standalone)
    "comm": ("utils.comm", "comm"),
    "launch": ("engine.launch", "launching"),
    "seed_all_rng": ("utils.env", "defaults"),
    "setup_logger": ("utils.logger", "logger"),
    "HookBase": ("engine", "train_loop"),
    "TrainerBase": ("engine", "train_loop"),
    "IterationTimer": ("engine.hooks", "hooks"),
    "LRScheduler": ("engine.hooks", "hooks"),
    "PeriodicWriter": ("engine.hooks", "hooks"),
    "PeriodicCheckpointer": ("engine.hooks", "hooks"),
    "EvalHook": ("engine.hooks", "hooks"),
    "EventStorage": ("utils.events", "events"),
    "get_event_storage": ("utils.events", "events"),
    "EventWriter": ("utils.events", "events"),
    "CommonMetricPrinter": ("utils.events", "events"),
    "JSONWriter": ("utils.events", "events"),
    "TensorboardXWriter": ("utils.events", "events"),
    "default_argument_parser": ("engine", "defaults"),
    "default_setup": ("engine", "defaults"),
    "default_writers": ("engine", "defaults"),
    "DatasetEvaluator": ("evaluation", "evaluation"),
    "DatasetEvaluators": ("evaluation", "evaluation"),
    "inference_on_dataset": ("evaluation", "evaluation"),
    "print_csv_format": ("evaluation", "evaluation"),
    "verify_results": ("evaluation", "evaluation"),
    "get_cfg": ("config", "config"),
}
_FILE = {"env": "defaults", "evaluator": "evaluation", "testing": "evaluation"}  # of Detectron2 -> of standalone
ROOTS = {"detectron2": "detectron2", "standalone": "scaleeq.engine.standalone"}


def load_side(side: str) -> SimpleNamespace:
    """side: "detectron2" or "standalone"."""
    names = {}
    for name, modules in _WHERE.items():
        module = importlib.import_module(f"{ROOTS[side]}.{modules[side == 'standalone']}")
        names[name] = module if name == "comm" else getattr(module, name)
    return SimpleNamespace(**names, root=ROOTS[side])


def has_detectron2() -> bool:
    """A real package, not a folder of that name."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def mask(text: str) -> str:
    """Hide what differs between two runs of one program: clock times, seconds, GPU memory."""
    text = re.sub(r"\d+:\d\d:\d\d(\.\d+)?", "<clock>", text)
    text = re.sub(r"\d\d/\d\d <clock>", "<date>", text)
    text = re.sub(r"\(\d+\.\d+ s", "(<seconds> s", text)
    text = re.sub(r"((?:last_)?time: )\d+\.\d+", r"\1<seconds>", text)
    return without_memory(text)


def without_memory(text: str) -> str:
    """Hide what only machines with a GPU print."""
    return re.sub(r"max_mem: \d+M", "", text).rstrip()


@contextmanager
def captured_log(engine: SimpleNamespace, hide: Callable[[str], str] = mask) -> Iterator[list[list[str]]]:
    """Fill a list with [end of the logger's name, level, message with parts hidden] of what the engine logs inside."""
    lines: list[list[str]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # setup_logger's handlers abbreviate names in place, so take the name's end
            part = "" if record.name == engine.root else record.name.rpartition(".")[2]
            lines.append([_FILE.get(part, part), record.levelname, hide(record.getMessage())])

    logger, handler = logging.getLogger(engine.root), Collect()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def restored_loggers(engine: SimpleNamespace, *names: str) -> Iterator[io.StringIO]:
    """Let setup_logger work inside, on a stdout of its own (yielded), and undo all that it did."""
    loggers = [logging.getLogger(name) for name in (engine.root, "fvcore", *names)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    engine.setup_logger.cache_clear()
    try:
        with redirect_stdout(io.StringIO()) as stdout:
            yield stdout
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        engine.setup_logger.cache_clear()


def outcome(call: Any, *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or the name of what it raises."""
    try:
        return call(*args, **kwargs)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        code = f"({error.code})" if isinstance(error, SystemExit) else ""
        return type(error).__name__ + code


def plain(record: Any) -> Any:
    """As it looks after a trip through a JSON file, floats to the last bit."""
    return json.loads(json.dumps(record, sort_keys=True))


def draws() -> list[Any]:
    """One number of each generator, and the hash seed of children."""
    return [random.random(), np.random.rand(), torch.rand(()).item(), os.environ.get("PYTHONHASHSEED")]


def read_tensorboard(folder: Path) -> dict[str, Any]:
    """Scalars, images and histograms of a folder; of times only the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in {"time", "eta_seconds"} & set(scalars):
        scalars[tag] = [step for step, _ in scalars[tag]]
    images = {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]}
    histograms = {tag: events.Histograms(tag) for tag in tags["histograms"]}
    bins = {tag: [[event.step, vars(event.histogram_value)] for event in histograms[tag]] for tag in histograms}
    return {"scalars": scalars, "images": images, "histograms": bins}
