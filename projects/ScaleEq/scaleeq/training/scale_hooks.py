"""Trainer hooks: calibrate before the first iteration of a fresh run, and record the branches' scales while training.

Neither changes the training: calibration leaves weights, buffers and random state as they are, and recording reads the
maps and gradients of the step that runs anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_map_only

from scaleeq.choices import flatten
from scaleeq.engine import HookBase, comm, get_event_storage
from scaleeq.equalization.calibration import calibrate, fusions_of, is_calibrated
from scaleeq.files import read_json, set_aside, write_json
from scaleeq.probes.outputs import OutputRecorder
from scaleeq.probes.scales import Recorder
from scaleeq.records import Json

from .step import TrainingStep, unwrapped

logger = logging.getLogger(__name__)

FILE_NAME = "scale_statistics.json"
MAX_HISTORY = 64  # records in the file

Content = Json  # of the file, of one of its records, or of a fusion in that


class CalibrationHook(HookBase):
    """Calibrates a model's scale equalizers before the first iteration, unless they are calibrated already.

    Args:
        model: with Fusions; nothing happens where none of them has equalizers.
        build_loader: called only when a calibration is due: the training data from its beginning.
        num_images: as in calibrate.
        output_dir: where scale_statistics.json goes.
    """

    def __init__(
        self,
        model: nn.Module,
        build_loader: Callable[[], Iterable[object]],
        *,
        num_images: int = 0,
        output_dir: str = ".",
    ):
        self.model = model
        self.build_loader = build_loader
        self.num_images = num_images
        self.path = Path(output_dir) / FILE_NAME

    def before_train(self) -> None:
        # A fresh run begins its file again.
        if self.trainer.start_iter == 0 and comm.is_main_process():
            set_aside(self.path)
            self.path.unlink(missing_ok=True)  # of an earlier run in the same folder
        model = unwrapped(self.model)
        fusions = fusions_of(model)
        # What is left to calibrate.
        pending = [name for name, fusion in fusions.items() if not is_calibrated(fusion)]
        if not pending:
            return
        if self.trainer.start_iter > 0:
            raise RuntimeError(
                f"resumed at iteration {self.trainer.start_iter}, but the scale equalizers of {', '.join(pending)} "
                "are not calibrated: the checkpoint is of a model without them; start a fresh run, or disable "
                "MODEL.SCALE_EQUALIZER"
            )
        logger.info("Calibrating the scale equalizers of %s", ", ".join(fusions))
        # Calibrate, on all ranks alike.
        report = calibrate(model, self.build_loader(), num_images=self.num_images, gather=comm.all_gather)
        if comm.is_main_process():
            write_json(self.path, {"fusions": report.to_dict()})


class ScaleStatisticsHook(HookBase):
    """Every `period` iterations, and in the last one, what a Recorder says of every Fusion goes to the event storage.

    Scalars are scale/<fusion>/<branch>/<number> and scale/<fusion>/<spread>. In scale_statistics.json the record of the
    first iteration is "at_start", the last one "at_end", and "history" has those between, rounded and thinned out:
    beyond MAX_HISTORY only every second one stays, and so on. In other iterations nothing watches the model. Numbers
    are of the whole batch, whatever its micro-batches and processes.

    Args:
        gradient_scale: what the losses of the current iteration are multiplied with (mixed precision).
        step: of the training, which hands out the shares of several tasks.
        outputs: a part of the model, images -> level -> map, whose levels are recorded as well: a pyramid's, which
            detectors read. In the file "outputs", level -> mean and std; scalars scale/outputs/<level>/<number>.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        period: int = 100,
        output_dir: str = ".",
        gradient_scale: Callable[[], float] = lambda: 1.0,
        step: TrainingStep | None = None,
        outputs: nn.Module | None = None,
    ):
        self.model = model
        self.period = period
        self.path = Path(output_dir) / FILE_NAME
        self.gradient_scale = gradient_scale
        self.step = step
        self.outputs = outputs
        self._watching = ExitStack()  # from before a step to after it
        self._recorder: Recorder | None = None
        self._levels: OutputRecorder | None = None
        self._latest: Content = {}

    def before_train(self) -> None:
        """A resumed run records what follows its checkpoint again."""
        start = self.trainer.start_iter
        if comm.is_main_process():
            set_aside(self.path)
        if start > 0 and comm.is_main_process():
            content = read_json(self.path, sound=is_sound)
            history = [record for record in content.get("history", []) if record["iteration"] < start]
            if "history" in content:
                write_json(self.path, {**content, "history": history})
        if self.period and is_compiled(unwrapped(self.model)):
            logger.info(
                "The model is compiled (MODEL.COMPILE): only gradients and steps of weights that consume branches are "
                "recorded, because an observer inside would have it compiled again"
            )

    def before_step(self) -> None:
        last = self.trainer.iter == self.trainer.max_iter - 1
        if not self.period or (self.trainer.iter % self.period and not last):
            return
        model = unwrapped(self.model)
        several = self.step is not None and len(getattr(model, "tasks", ())) > 1  # another's model has none
        recorder = Recorder(model, maps=not is_compiled(model), tasks=several)
        self._recorder = self._watching.enter_context(recorder)
        if self.outputs is not None:
            self._levels = self._watching.enter_context(OutputRecorder(self.outputs))
        if several:
            assert self.step is not None
            self.step.watch_tasks = self._recorder.read_tasks
            self._watching.callback(setattr, self.step, "watch_tasks", None)

    def after_backward(self) -> None:
        if self._recorder:
            self._recorder.read_gradients(self.gradient_scale(), average=mean_over_ranks)

    def after_step(self) -> None:
        if not self._recorder:
            return
        self._watching.close()
        record, self._recorder = self._recorder.finish(comm.all_gather), None
        levels = self._levels.finish(comm.all_gather) if self._levels else {}
        if not record and not levels:
            return
        # Scalars, for every writer.
        storage = get_event_storage()
        for fusion, content in record.items():
            for name, value in _scalars(content).items():
                storage.put_scalar(f"scale/{fusion}/{name}", value, smoothing_hint=False)
        for name, value in flatten(levels, separator="/"):
            storage.put_scalar(f"scale/outputs/{name}", value, smoothing_hint=False)
        self._latest = {"iteration": self.trainer.iter, "fusions": record} | ({"outputs": levels} if levels else {})
        if self.trainer.iter == 0:
            self._add_to_file("at_start", self._latest)
        if self.trainer.iter % self.period == 0:
            self._add_to_file("history", self._latest)

    def after_train(self) -> None:
        self._watching.close()
        if self._latest:
            self._add_to_file("at_end", self._latest)

    def state_dict(self) -> Content:
        """The last record: a run that is resumed where no further one is due still has it at its end."""
        return {"latest": self._latest} if self._latest else {}

    def load_state_dict(self, state: Content) -> None:
        self._latest = state["latest"]

    def _add_to_file(self, key: str, record: Content) -> None:
        if comm.is_main_process():
            content = read_json(self.path, sound=is_sound)
            if key == "history":
                short = tree_map_only(float, lambda value: float(f"{value:.5g}"), record)  # so the file stays small
                content[key] = thinned([*content.get(key, []), short], self.period)
            else:
                content[key] = record
            write_json(self.path, content)


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean over all processes, each of which has to ask for it."""
    if comm.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / comm.get_world_size()


def is_sound(content: Content) -> bool:
    """Whether this is the content of scale_statistics.json."""
    records = [content[key] for key in ("at_start", "at_end") if key in content]
    records += content.get("history", [])
    fusions = [content.get("fusions", {}), *(record.get("fusions", {}) for record in records)]
    return all(isinstance(record["iteration"], int) for record in records) and all(
        isinstance(each, dict) for each in fusions
    )


def is_compiled(model: nn.Module) -> bool:
    """Whether a part of the model is compiled (torch.nn.Module.compile)."""
    return any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())


def thinned(history: list[Content], period: int) -> list[Content]:
    """At most MAX_HISTORY records, evenly spaced: a function of the iterations alone, so of no interruption."""
    step = period
    while history[-1]["iteration"] // step >= MAX_HISTORY:
        step *= 2
    return [record for record in history if record["iteration"] % step == 0]


def _scalars(content: Content) -> dict[str, float]:
    """name -> value of one fusion's record."""
    branches = content["branches"].items()
    scalars = {f"{branch}/{name}": value for branch, numbers in branches for name, value in numbers.items()}
    return scalars | {name: value for name, value in content.items() if name != "branches"}
