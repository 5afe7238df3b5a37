"""Standalone's running half against Detectron2's, scenario by scenario at zero tolerance.

Oracle: Detectron2 0.6 itself where it can be imported, and everywhere its records in goldens/running.json.
"""

from __future__ import annotations

import inspect
import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.record_goldens_running import PATH, SCENARIOS
from tests.engine.running_sides import captured_log, has_detectron2, load_side, plain

needs_detectron2 = pytest.mark.skipif(not has_detectron2(), reason="Detectron2 is not installed")


def _without_colours(record: Any) -> Any:
    """Whether the terminal gets colours is termcolor's choice, by environment and version."""
    return json.loads(re.sub(r"\\u001b\[[\d;]*m", "", json.dumps(record)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_equals_golden(name: str, tmp_path: Path) -> None:
    golden = json.loads(PATH.read_text())[name]
    record = plain(SCENARIOS[name](load_side("standalone"), tmp_path))
    assert _without_colours(record) == _without_colours(golden)


@needs_detectron2
@pytest.mark.parametrize("name", SCENARIOS)
def test_equals_detectron2(name: str, tmp_path: Path) -> None:
    records = {}
    for side in ("detectron2", "standalone"):
        (tmp_path / side).mkdir()
        record = SCENARIOS[name](load_side(side), tmp_path / side)
        records[side] = json.dumps(plain(record)).replace(str(tmp_path / side), "<folder>")
    assert json.loads(records["standalone"]) == json.loads(records["detectron2"])


_STANDALONE = load_side("standalone")
_COMM = [name for name, value in vars(_STANDALONE.comm).items() if inspect.isfunction(value) and name[0] != "_"]
_WRITERS = ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]


@needs_detectron2
@pytest.mark.parametrize("name", [*_WRITERS, *(f"comm.{name}" for name in _COMM)])
def test_signatures_behind_the_contract(name: str) -> None:
    """Parameters, their order, kind and defaults, of what is reached through a name of the contract."""
    ours, theirs = (attrgetter(name)(engine) for engine in (_STANDALONE, load_side("detectron2")))
    assert _parameters(ours) == _parameters(theirs)


def _parameters(function: Any) -> list[Any]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_deviations_after_exceptions() -> None:
    """Where standalone differs on purpose: scopes and modes are restored, and no iteration is divided by."""
    engine = _STANDALONE
    model = torch.nn.Identity()
    with pytest.raises(ZeroDivisionError):
        engine.inference_on_dataset(model, [1], None, {"before_inference": lambda: 1 / 0})
    assert model.training
    with engine.EventStorage() as storage, captured_log(engine) as log:
        with pytest.raises(ZeroDivisionError), storage.name_scope("scope"):
            raise ZeroDivisionError
        storage.put_scalar("loss", 1.0)
        assert list(storage.histories()) == ["loss"]
        printer = engine.CommonMetricPrinter(max_iter=10)
        printer.write()
        printer.write()
        assert len(log) == 2
