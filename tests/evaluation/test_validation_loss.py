"""The validation loss. Oracle: torch's cross entropy, once, over everything that was seen, in float64."""

from __future__ import annotations

import logging
import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scaleeq.data.sets import toy  # noqa: F401 (registers the toy scenes)
from scaleeq.engine import MetadataCatalog
from scaleeq.evaluation import ValidationLossEvaluator

NAME = "toy_sem_seg_val"
NUM_CLASSES = 8


def scored_images(sizes, seed=0):
    """One sample and one output per size; a fifth of the labels is void."""
    rng = np.random.default_rng(seed)
    samples, outputs = [], []
    for index, size in enumerate(sizes):
        truth = rng.integers(0, NUM_CLASSES, size).astype(np.uint8)
        truth[rng.random(size) < 0.2] = 255
        logits = torch.from_numpy(rng.normal(scale=4.0, size=(NUM_CLASSES, *size)).astype(np.float32))
        samples.append({"file_name": f"{index}.png", "sem_seg_truth": torch.from_numpy(truth)})
        outputs.append({"sem_seg": logits})
    return samples, outputs


def loss_of(samples, outputs):
    evaluator = ValidationLossEvaluator(NAME)
    evaluator.reset()
    for sample, output in zip(samples, outputs, strict=True):
        evaluator.process([sample], [output])
    return evaluator.evaluate()["validation"]["loss"]


def test_it_is_the_mean_over_all_labelled_pixels():
    samples, outputs = scored_images([(7, 9), (20, 3), (1, 1), (30, 40)])
    logits = torch.cat([output["sem_seg"].flatten(1) for output in outputs], dim=1).double()
    truth = torch.cat([sample["sem_seg_truth"].flatten() for sample in samples]).long()
    expected = F.cross_entropy(logits.T, truth, ignore_index=255)
    assert loss_of(samples, outputs) == pytest.approx(expected.item(), rel=1e-6)


def test_closed_form():
    logits = torch.zeros(NUM_CLASSES, 2, 2)
    assert loss_of([{"file_name": "a", "sem_seg_truth": np.zeros((2, 2), np.uint8)}], [{"sem_seg": logits}]) == (
        pytest.approx(math.log(NUM_CLASSES), rel=1e-6)
    )


def test_the_order_of_the_images_makes_no_difference_at_all():
    pairs = list(zip(*scored_images([(5, 5)] * 40), strict=True))
    expected = loss_of(*zip(*pairs, strict=True))
    for seed in range(3):
        random.Random(seed).shuffle(pairs)
        assert loss_of(*zip(*pairs, strict=True)) == expected


def test_logits_of_half_precision_count_as_what_they_are():
    samples, outputs = scored_images([(8, 8)])
    half = [{"sem_seg": outputs[0]["sem_seg"].bfloat16()}]
    exact = [{"sem_seg": half[0]["sem_seg"].float()}]
    assert loss_of(samples, half) == loss_of(samples, exact)


def test_reset_forgets():
    samples, outputs = scored_images([(4, 4), (6, 6)])
    evaluator = ValidationLossEvaluator(NAME)
    evaluator.process(samples, outputs)
    evaluator.reset()
    evaluator.process(samples[1:], outputs[1:])
    assert evaluator.evaluate()["validation"]["loss"] == loss_of(samples[1:], outputs[1:])


def test_nothing_labelled_is_no_number(caplog):
    samples, outputs = scored_images([(4, 4)])
    samples[0]["sem_seg_truth"].fill_(MetadataCatalog.get(NAME).ignore_label)
    logger = logging.getLogger("scaleeq.evaluation.validation_loss")
    logger.addHandler(caplog.handler)
    assert math.isnan(loss_of(samples, outputs))
    logger.removeHandler(caplog.handler)
    assert "no labelled pixel" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample: sample.pop("sem_seg_truth"), r"0\.png has no 'sem_seg_truth'.*TEST\.VALIDATION_LOSS False"),
        (lambda sample: sample.update(sem_seg_truth=np.zeros((4, 5), np.uint8)), r"0\.png.*\(8, 4, 4\).*\(4, 5\)"),
        (lambda sample: sample["sem_seg_truth"].fill_(8), r"0\.png has the label 8.*8 classes"),
    ],
)
def test_what_is_refused(change, message):
    samples, outputs = scored_images([(4, 4)])
    change(samples[0])
    with pytest.raises(ValueError, match=message):
        ValidationLossEvaluator(NAME).process(samples, outputs)
