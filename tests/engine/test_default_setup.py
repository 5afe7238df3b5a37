"""default_setup for a caller whose arguments are not those of the training command."""

from __future__ import annotations

import argparse

import pytest
import torch

from scaleeq.engine.standalone import default_setup, get_cfg
from tests.engine.running_sides import load_side, restored_loggers


@pytest.mark.parametrize(
    ("arguments", "tuned"), [({}, True), ({"eval_only": False}, True), ({"eval_only": True}, False)]
)
def test_cudnn_is_tuned_but_for_an_evaluation(tmp_path, monkeypatch, arguments, tuned):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.CUDNN_BENCHMARK, cfg.SEED = str(tmp_path), True, 1
    with restored_loggers(load_side("standalone")):
        default_setup(cfg, argparse.Namespace(**arguments))
    assert torch.backends.cudnn.benchmark == tuned
