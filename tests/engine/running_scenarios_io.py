"""Scenarios of events, logs, setup, results and evaluation, as in running_scenarios, for one process."""

from __future__ import annotations

import io
import logging
import os
import random
import re
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.engine.running_sides import (
    captured_log,
    draws,
    mask,
    outcome,
    read_tensorboard,
    restored_loggers,
    without_memory,
)

Engine = SimpleNamespace


def storage_values(engine: Engine, folder: Path) -> Any:
    """Histories, windows, hints, scopes and the stack of storages."""
    record: dict[str, Any] = {"outside": outcome(engine.get_event_storage)}
    generator = random.Random(3)
    with engine.EventStorage(5) as storage:
        for iteration in range(5, 40):
            storage.put_scalar("smooth", generator.random())
            storage.put_scalar("raw", generator.random(), smoothing_hint=False)
            if iteration % 7 == 0:
                storage.put_scalars(rare=iteration, late=torch.tensor(iteration / 3), cur_iter=iteration - 2)
            if iteration == 20:
                storage.iter = 30.0  # a jump: windows count iterations, not samples
            with storage.name_scope("scope/"):
                storage.put_scalar("twice", iteration)
                storage.put_scalar("twice", -iteration)
            storage.step()
        for window in (1, 2, 3, 20, 1000):
            record[f"window {window}"] = [
                storage.latest_with_smoothing_hint(window),
                {name: storage.count_samples(name, window) for name in storage.histories()},
            ]
        record["latest"] = storage.latest()
        record["histories"] = {name: history.values() for name, history in storage.histories().items()}
        record["averages"] = {name: history.global_avg() for name, history in storage.histories().items()}
        record["hints"] = storage.smoothing_hints()
        record["iter"] = [storage.iter, storage.iteration]
        record["changed hint"] = outcome(storage.put_scalar, "raw", 1.0, smoothing_hint=True)
        record["not a number"] = outcome(storage.put_scalar, "raw", "x", smoothing_hint=False)
        record["unknown"] = [outcome(storage.history, "unknown"), "unknown" in storage.histories()]
        with engine.EventStorage() as inner:
            record["inner"] = [engine.get_event_storage() is inner, inner.iter, inner.latest()]
        record["outer again"] = engine.get_event_storage() is storage
    record["outside again"] = outcome(engine.get_event_storage)
    record["abstract writer"] = [outcome(engine.EventWriter().write), engine.EventWriter().close()]
    return record


def printed_lines(engine: Engine, folder: Path) -> Any:
    """CommonMetricPrinter's line from given scalars; even its times and ETA are exact here."""
    record: dict[str, Any] = {}

    def lines(max_iter: int | None, window: int, put: dict[str, list[float]], iterations: list[int]) -> Any:
        printer = engine.CommonMetricPrinter(max_iter, window)
        with engine.EventStorage(iterations[0]) as storage, captured_log(engine) as log:
            for index, iteration in enumerate(iterations):
                storage.iter = iteration
                for name, values in put.items():
                    if index < len(values):
                        storage.put_scalar(name, values[index], smoothing_hint=name != "lr")
                printer.write()
            printer.close()
            return [log, storage.latest().get("eta_seconds")]

    losses = {"loss_a": [1.0, 3.0, 2.0, 123456.0], "total_loss": [0.1, 0.2, 1e-9], "[metric]/x": [1.0, 5.0]}
    losses["other"] = [1.0]
    record["nothing"] = lines(10, 20, {}, [0])
    record["losses"] = lines(None, 20, losses, [0, 1, 2, 3])
    record["window"] = lines(None, 2, {**losses, "lr": [0.1, 1e-7, 0.123456789]}, [0, 1, 2, 3])
    record["end"] = lines(3, 20, {**losses, "lr": [0.1]}, [2, 3, 4])
    # Given times are exact: the ETA takes the median of the last 1000, the averages all or the window.
    with engine.EventStorage() as storage, captured_log(engine, hide=without_memory) as log:
        printer = engine.CommonMetricPrinter(100, 2)
        for index in range(60):
            storage.put_scalars(time=0.5 if index < 31 else 4000.0, data_time=index / 8, loss=index)
            if index % 10 == 9:
                printer.write()
            storage.step()
        record["times"] = [log, storage.latest()]
    return record


def written_files(engine: Engine, folder: Path) -> Any:
    """Lines of metrics.json and TensorBoard's events from given scalars, images and histograms."""
    path = folder / "metrics.json"
    path.write_text('{"from": "an earlier run"}\n')
    json_writer = engine.JSONWriter(str(path), window_size=3)
    board_writer = engine.TensorboardXWriter(str(folder / "board"), window_size=3)
    never_used = engine.TensorboardXWriter(str(folder / "unused"))
    with engine.EventStorage(2) as storage:
        json_writer.write()
        for iteration in range(2, 9):
            storage.put_scalar("b", iteration**2)
            storage.put_scalar("a", iteration / 3, smoothing_hint=False)
            if iteration == 4:
                storage.put_scalars(late=1.0, cur_iter=1)
                storage.put_scalars(future=2.0, cur_iter=6)
                storage.put_scalar("infinite", float("inf"))
            if iteration % 3 == 0:
                storage.put_image("picture", torch.full((3, 4, 4), 0.5))
                storage.put_histogram("weights", torch.arange(50.0) - iteration, bins=7)
            if iteration % 2 == 0:
                json_writer.write()
                json_writer.write()
                board_writer.write()
            storage.step()
        kept = [len(storage._vis_data), len(storage._histograms)]
    for writer in (json_writer, board_writer, never_used):
        writer.close()
    writers = [type(writer).__name__ for writer in engine.default_writers(str(folder / "new" / "one"), 5)]
    files = sorted(path.name for path in (folder / "new" / "one").iterdir())
    board = read_tensorboard(folder / "board")
    return [path.read_text().splitlines(), board, kept, (folder / "unused").exists(), writers, files]


def command_line(engine: Engine, folder: Path) -> Any:
    """Options, defaults and what comes out of command lines."""
    parser = engine.default_argument_parser()
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14

    def hide(value: Any) -> Any:
        return value.replace(str(port), "<port>") if isinstance(value, str) else value

    actions = [
        [a.option_strings, a.dest, hide(a.default), getattr(a.type, "__name__", None), a.nargs, a.metavar, a.const]
        for a in parser._actions
    ]
    parsed = []
    for line in (
        "",
        "--config-file a.yaml --resume MODEL.WEIGHTS x.pth SOLVER.BASE_LR 0.1",
        "--eval-only --num-gpus 8 --num-machines 2 --machine-rank 1 --dist-url auto",
        "KEY VALUE --resume",
        "--num-gpus two",
        "--unknown",
    ):
        with redirect_stderr(io.StringIO()):
            args = outcome(parser.parse_args, line.split())
        parsed.append(args if isinstance(args, str) else {name: hide(value) for name, value in vars(args).items()})
    return [actions, parsed, parser.formatter_class.__name__, engine.default_argument_parser("mine").epilog]


def results(engine: Engine, folder: Path) -> Any:
    """print_csv_format and verify_results: lines, return values, exit status."""
    record: dict[str, Any] = {}
    scores = {"sem_seg": {"mIoU": 61.23456, "IoU-road": 9.0, "pACC": np.float64(90)}, "speed": 3.5, "none": {}}
    for name, value in {"scores": scores, "empty": {}, "empty list": [], "list": [1]}.items():
        with captured_log(engine) as log:
            record[f"print {name}"] = [outcome(engine.print_csv_format, value), log]
    cases = {
        "none expected": [],
        "passes": [["sem_seg", "mIoU", 61.0, 0.25], ["sem_seg", "pACC", 91, 1]],
        "below": [["sem_seg", "mIoU", 62.0, 0.25]],
        "above": [["sem_seg", "mIoU", 60.0, 0.25]],
        "last fails": [["sem_seg", "mIoU", 61.0, 0.25], ["sem_seg", "pACC", 92, 1]],
        "no metric": [["sem_seg", "AP", 61.0, 100.0]],
        "no task": [["bbox", "AP", 61.0, 100.0]],
        "not finite": [["sem_seg", "nan", 61.0, float("inf")]],
    }
    got = {"sem_seg": {"mIoU": 61.2, "pACC": 90.0, "nan": float("nan")}}
    for name, expected in cases.items():
        cfg = engine.get_cfg()
        cfg.TEST.EXPECTED_RESULTS = expected
        with captured_log(engine) as log:
            record[f"verify {name}"] = [outcome(engine.verify_results, cfg, got), log]
    return record


def seeds(engine: Engine, folder: Path) -> Any:
    """The streams of python, numpy and torch after a seed; with no seed they differ and the seed is logged."""
    before = os.environ.get("PYTHONHASHSEED")
    try:
        record: dict[str, Any] = {}
        for seed in (0, 1, 42, 2**32 - 1):
            engine.seed_all_rng(seed)
            record[str(seed)] = [draws(), engine.comm.shared_random_seed()]
        drawn = []
        with captured_log(engine) as log:
            for seed in (None, None):
                engine.seed_all_rng(seed)
                drawn.append(draws())
        lines = [[part, level, text.rstrip("0123456789")] for part, level, text in log]
        record["random"] = [drawn[0] != drawn[1], lines]
        record["too large"] = outcome(engine.seed_all_rng, 2**32)
        return record
    finally:
        os.environ.pop("PYTHONHASHSEED")
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before


def setup(engine: Engine, folder: Path) -> Any:
    """default_setup: files, order of the log, seed, cudnn flag."""
    record: dict[str, Any] = {}
    config_file = folder / "in.yaml"
    config_file.write_text("VERSION: 2\n")
    hash_seed = os.environ.get("PYTHONHASHSEED", "")
    cases = ((7, True, True, False), (7, True, False, True), (-1, False, False, False))
    for seed, benchmark, with_file, eval_only in cases:
        cfg = engine.get_cfg()
        output = folder / f"{seed}-{eval_only}" / "deep"
        cfg.OUTPUT_DIR, cfg.SEED, cfg.CUDNN_BENCHMARK = str(output), seed, benchmark
        args = engine.default_argument_parser().parse_args(["--eval-only"] * eval_only)
        args.config_file = str(config_file) if with_file else ""
        torch.backends.cudnn.benchmark = False
        with restored_loggers(engine) as stdout, captured_log(engine) as log:
            engine.default_setup(cfg, args)
        heads = [[part, level, text.splitlines()[0].replace(str(folder), "<folder>")] for part, level, text in log]
        heads = [[*head[:2], head[2].rstrip("0123456789") if seed < 0 else head[2]] for head in heads]
        heads = [[*head[:2], head[2].partition("Namespace")[0]] for head in heads]
        files = sorted(path.name for path in output.iterdir())
        same_config = (output / "config.yaml").read_text() == cfg.dump()
        in_file = [line for line in mask((output / "log.txt").read_text()).splitlines() if "Rank of" in line]
        in_file = [line.replace(engine.root, "<root>") for line in in_file]
        printed = "World size: 1" in stdout.getvalue()
        drawn = draws() if seed >= 0 else None
        key = f"{seed} {benchmark} {with_file} {eval_only}"
        record[key] = [heads, files, same_config, in_file, printed, drawn, torch.backends.cudnn.benchmark]
    torch.backends.cudnn.benchmark = False
    os.environ["PYTHONHASHSEED"] = hash_seed
    if not hash_seed:
        del os.environ["PYTHONHASHSEED"]
    return record


def log_files(engine: Engine, folder: Path) -> Any:
    """Lines on the terminal and in files, by rank, abbreviation and colour; one setting is set up once."""
    record: dict[str, Any] = {}
    cases: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "plain": ((str(folder / "a"), 0), {"color": False}),
        "colour": ((str(folder / "b"), 0), {}),
        "abbreviated": ((str(folder / "c"), 0), {"abbrev_name": "x"}),
        "dropped": ((str(folder / "d"), 0), {"abbrev_name": ""}),
        "rank 1": ((str(folder / "e"), 1), {}),
        "file": ((str(folder / "f" / "name.log"), 2), {}),
        "no file": ((None, 0), {}),
        "quiet": ((str(folder / "g"), 0), {"configure_stdout": False}),
    }
    for name, (args, kwargs) in cases.items():
        with restored_loggers(engine, "probe") as stdout:
            logger = engine.setup_logger(*args, name="probe", **kwargs)
            again = engine.setup_logger(*args, name="probe", **kwargs)
            for child in (logger, logger.getChild("some.part")):
                child.debug("fine")
                child.warning("watch %s", "out")
                child.error("bad")
            state = [logger is again, logger.propagate, logger.level, len(logger.handlers)]
            record[name] = [state, mask(stdout.getvalue())]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    record["files"] = {str(path.relative_to(folder)): mask(path.read_text()) for path in paths}
    return record


def evaluations(engine: Engine, folder: Path) -> Any:
    """inference_on_dataset: order of calls, modes, log, results of none, one, several and failing evaluators."""
    calls: list[Any] = []

    class Evaluator(engine.DatasetEvaluator):
        def __init__(self, name: str, result: Any) -> None:
            self.name, self.result = name, result

        def reset(self) -> None:
            calls.append([self.name, "reset"])

        def process(self, inputs: Any, outputs: Any) -> None:
            calls.append([self.name, "process", inputs, outputs])

        def evaluate(self) -> Any:
            calls.append([self.name, "evaluate"])
            return self.result

    class Model(nn.Module):
        def forward(self, inputs: Any) -> Any:
            calls.append(["model", self.training, torch.is_grad_enabled(), inputs])
            return inputs * 2

    def run(model: Any, loader: list[int], evaluator: Any, **kwargs: Any) -> Any:
        calls.clear()
        with captured_log(engine) as log:
            result = outcome(engine.inference_on_dataset, model, loader, evaluator, **kwargs)
        progress = [line for line in log if not line[2].startswith("Inference done")]
        mode = model.training if isinstance(model, nn.Module) else None
        return [result, list(calls), progress, mode, torch.is_grad_enabled()]

    stages = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {stage: (lambda stage=stage: calls.append([stage])) for stage in stages}
    one, other, silent = Evaluator("one", {"a": {"x": 1}}), Evaluator("other", {"b": 2}), Evaluator("silent", None)
    record = {
        "one": run(Model(), [1, 2, 3], one, callbacks=callbacks),
        "some callbacks": run(Model(), [1], one, callbacks={"on_end": callbacks["on_end"]}),
        "list": run(Model().eval(), [1, 2], [one, other, silent]),
        "evaluators": run(Model(), [1], engine.DatasetEvaluators([other, one])),
        "tuple": run(Model(), [1], (one, other)),
        "empty list": run(Model(), [1], []),
        "None": run(Model(), [1], None),
        "silent": run(Model(), [1], silent),
        "same task": run(Model(), [1], [one, one]),
        "function": run(lambda inputs: inputs + 1, [1, 2], one),
        "no data": run(Model(), [], one),
        "long": run(Model(), list(range(12)), one),
        "base": [engine.DatasetEvaluator().reset(), engine.DatasetEvaluator().evaluate()],
    }
    order = [list(value) for value in (record["evaluators"][0].items(), record["list"][0].items())]
    return [record, order]


def evaluation_warmup(engine: Engine, folder: Path) -> Any:
    """The first five batches are not timed: of 1.2 s in the fifth and 0.3 s in the sixth, only the latter counts.

    Of eight batches three are left, so 0.1 s each; with a warm-up of four it would be 0.375 s, with one of six 0.
    """
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(engine.root)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        engine.inference_on_dataset(time.sleep, [0.0, 0.0, 0.0, 0.0, 1.2, 0.3, 0.0, 0.0], None)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    totals = [message for message in messages if message.startswith("Total inference")]
    seconds_per_batch = [float(re.findall(r"\(([\d.]+) s / iter", message)[0]) for message in totals]
    return [len(totals), [0.05 < seconds < 0.3 for seconds in seconds_per_batch]]


def one_process(engine: Engine, folder: Path) -> Any:
    """What comm and launch do without a process group."""
    comm, called = engine.comm, []
    engine.launch(lambda *args: called.append(args), 1, num_machines=1, dist_url="auto", args=(1, "a"))
    engine.launch(lambda: called.append("default"), 1)
    values = {"a": torch.tensor(1.0)}
    return {
        "launch": called,
        "ranks": [comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "barrier": comm.synchronize(),
        "gather": [comm.gather({"x": 1}), comm.gather(2, dst=3), comm.all_gather("y")],
        "reduce": comm.reduce_dict(values) is values,
        "no group": outcome(comm.get_local_process_group),
        "several machines": outcome(engine.launch, print, 1, num_machines=2, dist_url="auto"),
    }


IO_SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        storage_values,
        printed_lines,
        written_files,
        command_line,
        results,
        seeds,
        setup,
        log_files,
        evaluations,
        evaluation_warmup,
        one_process,
    )
}
