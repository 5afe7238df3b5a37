"""What makes runs of one seed a pair: the same initial weights, the same samples, the same random numbers, to the bit.

The arms are plain, and every implementation of a scale equalizer. A run is set up as the training command does it.
"""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

from scaleeq.engine import default_setup, seed_all_rng
from scaleeq.equalization.spec import CONTROLS
from scaleeq.training.step import seed_iteration
from tests.training.tiny import OneStep, tiny_config

ARMS = ("off", "reparametrize", "module", "init", "init_scaled")
ITERATIONS = 2


class Recorder(OneStep):
    """Notes, before and during each iteration, what a pair must share."""

    def run_step(self):
        seed_iteration(self.seed, rank=0, iteration=self.iter)
        self.recorded.setdefault("random", []).append(torch.rand(4))
        super().run_step()


def dropout_masks(model: nn.Module, masks: list) -> None:
    """Let every dropout of a model note what it drops in training; a calibration runs them too, switched off."""

    def note(module, inputs, output):
        if module.training:
            masks.append((output == 0) & (inputs[0] != 0))

    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            module.register_forward_hook(note)


def record(folder, arm: str, seed: int = 0) -> dict:
    """The weights at the start, and of each iteration: images, labels, dropout's masks, further random numbers."""
    changes = {} if arm == "off" else {"MODEL__SCALE_EQUALIZER__IMPLEMENTATION": arm}
    cfg = tiny_config(
        folder / f"{arm}{seed}",
        SEED=seed,
        SOLVER__MAX_ITER=ITERATIONS,
        SOLVER__WARMUP_ITERS=0,
        MODEL__TIMM__NAME="test_resnet",
        MODEL__SEM_SEG_HEAD__DROPOUT=0.5,
        MODEL__SCALE_EQUALIZER__ENABLED=arm != "off",
        **changes,
    )
    default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
    trainer = Recorder(cfg)
    trainer.recorded = recorded = {"weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters()}}
    recorded["buffers"] = {n: b.clone() for n, b in trainer.model.named_buffers() if "equalizer" not in n}
    masks, batches = recorded.setdefault("masks", []), recorded.setdefault("batches", [])
    stream = trainer._sample_stream()

    def noted():
        for batch in stream:
            batches.append(batch)
            yield batch

    trainer._samples = noted()
    dropout_masks(trainer.model, masks)
    trainer.train()
    return recorded


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return {arm: record(folder, arm) for arm in ARMS} | {"other seed": record(folder, "off", seed=1)}


@pytest.mark.parametrize("control", CONTROLS[1:])
def test_controls_begin_with_the_same_weights(tmp_path, control):
    """A control may add parameters; those that the plain model has are its own."""
    models = []
    for name in ("", control):
        cfg = tiny_config(
            tmp_path,
            MODEL__TIMM__NAME="test_resnet",
            MODEL__SCALE_EQUALIZER__ENABLED=bool(name),
            MODEL__SCALE_EQUALIZER__IMPLEMENTATION="module",
            MODEL__SCALE_EQUALIZER__CONTROL=name,
        )
        seed_all_rng(0)
        models.append(dict(OneStep.build_model(cfg).named_parameters()))
    plain, controlled = models
    assert equal(plain, {name: controlled[name] for name in plain})


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("arm", ARMS[1:])
def test_the_same_initial_weights(records, arm):
    """Also the names: an equalizer adds none. "init" scales its weights later, when it calibrates."""
    assert equal(records["off"]["weights"], records[arm]["weights"])
    assert equal(records["off"]["buffers"], records[arm]["buffers"])
    assert not equal(records["off"]["weights"], records["other seed"]["weights"])


@pytest.mark.parametrize("arm", ARMS[1:])
def test_the_same_samples(records, arm):
    pairs = list(zip(records["off"]["batches"], records[arm]["batches"], strict=True))
    assert len(pairs) == ITERATIONS
    for first, second in pairs:
        assert [sample["image_id"] for sample in first] == [sample["image_id"] for sample in second]
        for key in ("image", "sem_seg"):
            assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True))
    others = [sample["image_id"] for batch in records["other seed"]["batches"] for sample in batch]
    assert others != [sample["image_id"] for batch in records["off"]["batches"] for sample in batch]


@pytest.mark.parametrize("arm", ARMS[1:])
def test_the_same_random_numbers(records, arm):
    """The generator at each iteration's start, and the channels that dropout drops (values that are 0 anyway aside)."""
    assert torch.equal(torch.stack(records["off"]["random"]), torch.stack(records[arm]["random"]))
    assert not torch.equal(torch.stack(records["off"]["random"]), torch.stack(records["other seed"]["random"]))
    masks, others = records["off"]["masks"], records[arm]["masks"]
    assert len(masks) == len(others) >= ITERATIONS
    for first, second in zip(masks, others, strict=True):
        assert torch.equal(dropped(first), dropped(second))


def dropped(mask: torch.Tensor) -> torch.Tensor:
    """mask: (N, C, H, W) -> (N, C), whether the channel is dropped."""
    return mask.flatten(2).any(2)
