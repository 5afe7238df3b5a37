"""Models are what they were: keys in order, values at a seed, random state and refusals; a checkpoint gives its logits.

Oracle: tests/goldens, recorded from models whose constructors made their equalizers (record_models, record_checkpoint).
"""

from __future__ import annotations

import json

import pytest
import torch

from scaleeq.engine import SafeCheckpointer, build_model
from scaleeq.equalization.calibration import require_calibrated

from . import record_checkpoint, record_models

GOLDEN = json.loads(record_models.GOLDEN.read_text())
SAME_TORCH = torch.__version__ == GOLDEN["torch"]  # another release may draw other numbers


def comparable(record: dict) -> dict:
    return {key: value for key, value in record.items() if SAME_TORCH or key not in ("values", "random_state")}


def test_the_golden_has_every_case():
    assert list(GOLDEN["cases"]) == list(record_models.cases())
    assert sum("-head-" in name or "-all-" in name for name in GOLDEN["cases"]) == 64


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_a_model_is_what_it_was(name):
    found = record_models.record_case(record_models.cases()[name])
    assert comparable(found) == comparable(GOLDEN["cases"][name])


@pytest.mark.parametrize("name", GOLDEN["builders"])
def test_a_part_is_what_it_was(name):
    found = record_models.record(record_models.BUILDERS[name])
    assert comparable(found) == comparable(GOLDEN["builders"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_a_config_has_the_keys_that_it_had(name):
    assert record_models.record_meta(name) == GOLDEN["configs"][name]


def test_a_checkpoint_of_before_gives_its_logits(tmp_path):
    model = build_model(record_checkpoint.config(tmp_path))
    SafeCheckpointer(model).load_weights(str(record_checkpoint.CHECKPOINT))
    require_calibrated(model)
    found = record_checkpoint.logits_of(model)
    files = record_checkpoint.LOGITS, record_checkpoint.LOGITS_ELSEWHERE
    recorded = [torch.load(file, weights_only=True) for file in files]
    if SAME_TORCH:
        assert any(torch.equal(found, each) for each in recorded), "to the bit, of one of two processors"
    else:
        torch.testing.assert_close(found, recorded[0], rtol=0, atol=1e-5)
