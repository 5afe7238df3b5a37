"""What inference_on_dataset says of its speed, above this process's engine."""

from __future__ import annotations

import itertools
import logging
import time

import pytest

from scaleeq import engine
from scaleeq.engine import inference_on_dataset


def test_seconds_are_those_since_the_warm_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The model takes a second for each of five batches, then half an hour for each of four."""
    clock, pace = [0.0], itertools.chain([1.0] * 5, [1800.0] * 4)

    def model(batch: list[int]) -> list[int]:
        clock[0] += next(pace)
        return batch

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    names = {"detectron2": "detectron2.evaluation.evaluator", "standalone": "scaleeq.engine.standalone.evaluation"}
    logger = logging.getLogger(names[engine.NAME])
    caplog.set_level(logging.INFO, logger=logger.name)
    logger.addHandler(caplog.handler)  # where a parent of it does not hand on
    try:
        inference_on_dataset(model, [[index] for index in range(9)], None)
    finally:
        logger.removeHandler(caplog.handler)
    for what in ("inference time", "inference pure compute time"):
        assert f"Total {what}: 2:00:00 (1800.000000 s / iter per device, on 1 devices)" in caplog.text
