"""The device that a run gets."""

from __future__ import annotations

import logging

import pytest
import torch

from scaleeq.engine import load_config
from scaleeq.training import choose_device


@pytest.fixture
def log(caplog):
    """The text of this module's messages, whether or not another test has set up the loggers of a run."""
    logger = logging.getLogger("scaleeq.training.setup")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the CUDA device that the config asks for")
def test_without_cuda_the_cpu_is_chosen_and_the_log_says_so(log):
    cfg = load_config("")
    assert cfg.MODEL.DEVICE == "cuda"
    choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert "no CUDA device" in log.text


def test_the_cpu_stays_the_cpu(log):
    cfg = load_config("", ["MODEL.DEVICE", "cpu"])
    choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert not log.text
