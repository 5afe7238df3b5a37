"""Trainer hooks: calibrate before the first iteration of a fresh run, and record the branches' scales while training.

Neither changes the training: calibration leaves weights, buffers and random state as they are, and recording reads the
maps of the forward that runs anyway.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..engine import HookBase, comm, get_event_storage
from ..files import write_json
from ..fusion import Fusion, Observation, ScaleEqualizer
from .calibration import calibrate, fusions_of, is_calibrated
from .report import spread

logger = logging.getLogger(__name__)

FILE_NAME = "scale_statistics.json"


def _plain(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class CalibrationHook(HookBase):
    """Calibrates a model's scale equalizers before the first iteration, unless they are calibrated already.

    Args:
        model: with Fusions; nothing happens where none of them has equalizers.
        build_loader: called only when a calibration is due: the training data from its beginning.
        num_images: as in calibrate.
        output_dir: where scale_statistics.json goes.
    """

    def __init__(
        self, model: nn.Module, build_loader: Callable[[], Iterable[Any]], *, num_images: int = 0, output_dir: str = "."
    ):
        self.model = model
        self.build_loader = build_loader
        self.num_images = num_images
        self.path = Path(output_dir) / FILE_NAME

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 and comm.is_main_process():
            self.path.unlink(missing_ok=True)  # of an earlier run in the same folder
        model = _plain(self.model)
        fusions = fusions_of(model)
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
        gather = comm.all_gather if comm.get_world_size() > 1 else None
        report = calibrate(model, self.build_loader(), num_images=self.num_images, gather=gather)
        if comm.is_main_process():
            write_json(self.path, {"fusions": report.to_dict()})


class ScaleStatisticsHook(HookBase):
    """Every `period` iterations, mean, std and spread of every Fusion's branches go to the event storage.

    Scalars scale/<fusion>/<branch>/{mean, std} are of the branch before its equalizer, scale/<fusion>/spread is the
    largest over the smallest std; with equalizers also .../std_equalized and .../spread_equalized. In
    scale_statistics.json the record of the first iteration is "at_start", the last one "at_end".
    """

    def __init__(self, model: nn.Module, *, period: int = 100, output_dir: str = "."):
        self.model = model
        self.period = period
        self.path = Path(output_dir) / FILE_NAME
        self._seen: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
        self._latest: dict[str, Any] = {}

    def before_step(self) -> None:
        last = self.trainer.iter == self.trainer.max_iter - 1
        if not self.period or (self.trainer.iter % self.period and not last):
            return
        for name, fusion in fusions_of(_plain(self.model), equalized=False).items():
            fusion.observer = self._observer(self._seen.setdefault(name, {}))

    def _observer(self, seen: dict[str, dict[str, torch.Tensor]]) -> Callable[[Fusion, Observation], None]:
        def observe(fusion: Fusion, observation: Observation) -> None:
            seen[observation.branch] = _scales(observation, fusion.equalizer_of.get(observation.branch))

        return observe

    def after_step(self) -> None:
        if not self._seen:
            return
        storage = get_event_storage()
        self._latest = {"iteration": self.trainer.iter, "fusions": {}}
        for fusion, branches in self._seen.items():
            record = {name: {key: float(value) for key, value in values.items()} for name, values in branches.items()}
            scalars = {f"{branch}/{key}": value for branch, values in record.items() for key, value in values.items()}
            spreads = {}
            for key in ("std", "std_equalized"):
                if all(key in values for values in record.values()):
                    spreads[key.replace("std", "spread")] = spread(values[key] for values in record.values())
            for key, value in {**scalars, **spreads}.items():
                storage.put_scalar(f"scale/{fusion}/{key}", value, smoothing_hint=False)
            self._latest["fusions"][fusion] = {"branches": record, **spreads}
        self._stop_observing()
        if self.trainer.iter == 0:
            self._add_to_file("at_start")

    def after_train(self) -> None:
        self._stop_observing()
        if self._latest:
            self._add_to_file("at_end")

    def state_dict(self) -> dict[str, Any]:
        """The last record: a run that is resumed where no further one is due still has it at its end."""
        return {"latest": self._latest} if self._latest else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._latest = state["latest"]

    def _add_to_file(self, key: str) -> None:
        if comm.is_main_process():
            content = json.loads(self.path.read_text()) if self.path.exists() else {}
            write_json(self.path, {**content, key: self._latest})

    def _stop_observing(self) -> None:
        self._seen = {}
        for fusion in fusions_of(_plain(self.model), equalized=False).values():
            fusion.observer = None


def _scales(observation: Observation, equalizer: ScaleEqualizer | None) -> dict[str, torch.Tensor]:
    """Mean and std of an observed branch, over all channels, before its equalizer and after it."""
    variance, mean = torch.var_mean(observation.transferred.float(), dim=(0, 2, 3), correction=0)
    scale, offset = (
        torch.as_tensor(v, device=mean.device).reshape(-1) for v in (observation.scale, observation.offset)
    )
    mean, variance = mean * scale + offset, variance * scale**2

    def over_channels(means: torch.Tensor, variances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return means.mean(), (variances.mean() + means.var(correction=0)).sqrt()

    scales = dict(zip(("mean", "std"), over_channels(mean, variance), strict=True))
    if equalizer is not None:
        scale, shift = equalizer.scale(), equalizer.shift()
        scales["std_equalized"] = over_channels(mean * scale + shift, variance * scale**2)[1]
    return scales
