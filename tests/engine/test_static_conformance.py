"""Standalone's static half against Detectron2's, scenario by scenario at zero tolerance.

Oracle: Detectron2 0.6 itself where it is installed, and everywhere its records in goldens/static.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from scaleeq.engine import standalone
from scaleeq.engine.contract import load_names
from tests.engine.record_goldens import FOLDER, run_scenario
from tests.engine.running_sides import has_detectron2, outcome
from tests.engine.static_distributed import closed_form, two_processes
from tests.engine.static_scenarios import FLOAT_SCENARIOS, SCENARIOS

needs_detectron2 = pytest.mark.skipif(
    not has_detectron2(), reason="Detectron2 is not installed: standalone is checked by goldens alone"
)


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """The places where two records differ; pytest's own listing takes minutes for long ones."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
        return [line for key in ours for line in differences(ours[key], theirs[key], f"{where}[{key!r}]")]
    return [] if ours == theirs and type(ours) is type(theirs) else [f"{where}: {ours!r}, not {theirs!r}"[:500]]


def test_differences_are_seen() -> None:
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0}]}) == []
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}]}) == ["['a'][1]['b']: 2.0, not 2.5"]
    assert [len(differences(a, b)) for a, b in (([1], [1, 2]), ({"a": 1}, {"b": 1}), (1, 1.0), (1, True))] == [1] * 4


@pytest.mark.parametrize("name", SCENARIOS)
def test_equals_golden(name: str, tmp_path: Path) -> None:
    golden = json.loads((FOLDER / "static.json").read_text())[name]
    assert differences(run_scenario(SCENARIOS[name], "standalone", tmp_path), golden) == []


@needs_detectron2
@pytest.mark.parametrize("name", [*SCENARIOS, *FLOAT_SCENARIOS])
def test_equals_detectron2(name: str, tmp_path: Path) -> None:
    records = []
    for side in ("standalone", "detectron2"):
        (tmp_path / side).mkdir()
        records.append(run_scenario((SCENARIOS | FLOAT_SCENARIOS)[name], side, tmp_path / side))
    assert differences(*records) == []


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pyth"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        standalone.DetectionCheckpointer(nn.Identity()).load(str(tmp_path / name))


def test_matching_by_heuristics_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "matching_heuristics": True}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="heuristics"):
        standalone.DetectionCheckpointer(nn.Identity()).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("text", ["VERSION: 1", "VERSION: 3"])
def test_config_of_another_version_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"old\.yaml has config VERSION"):
        standalone.get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


def test_python_tags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tag.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []")
    assert outcome(standalone.get_cfg().merge_from_file, str(tmp_path / "tag.yaml")) == "ConstructorError"


@needs_detectron2
def test_a_dumped_config_is_read_by_the_other_side(tmp_path: Path) -> None:
    sides = [SimpleNamespace(**load_names(side)) for side in ("standalone", "detectron2")]
    for writer, reader in (sides, sides[::-1]):
        cfg = writer.get_cfg()
        cfg.merge_from_list(["SOLVER.STEPS", "(5, 6)", "MODEL.WEIGHTS", "x"])
        (tmp_path / "config.yaml").write_text(cfg.dump())
        read = reader.get_cfg()
        read.merge_from_file(str(tmp_path / "config.yaml"))
        assert (read.SOLVER.STEPS, read.MODEL.WEIGHTS) == ((5, 6), "x")
        assert yaml.safe_load(read.dump()) == yaml.safe_load(cfg.dump())


@needs_detectron2
def test_a_checkpoint_is_read_by_the_other_side(tmp_path: Path) -> None:
    sides = [SimpleNamespace(**load_names(side)) for side in ("standalone", "detectron2")]
    for number, (writer, reader) in enumerate((sides, sides[::-1])):
        models = nn.Linear(2, 2), nn.Linear(2, 2)
        writer.DetectionCheckpointer(models[0], str(tmp_path)).save(f"model_{number}", iteration=number)
        rest = reader.DetectionCheckpointer(models[1], str(tmp_path)).resume_or_load("", resume=True)
        assert rest["iteration"] == number
        assert torch.equal(models[0].weight, models[1].weight)


@needs_detectron2
def test_registries_of_both_sides_do_not_clash() -> None:
    def same_name() -> None: ...

    names = ("META_ARCH_REGISTRY", "BACKBONE_REGISTRY", "SEM_SEG_HEADS_REGISTRY")
    registries = [load_names(side)[name] for side in ("standalone", "detectron2") for name in names]
    try:
        for registry in registries:
            registry.register(same_name)
    finally:
        removed = [registry._obj_map.pop("same_name", None) for registry in registries]
    assert removed == [same_name] * 6


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return two_processes(tmp_path_factory.mktemp("ranks"))


def test_two_processes_share_the_images(ranks: list[Any]) -> None:
    assert [rank["standalone"]["indices"] for rank in ranks] == [[0, 1, 2], [3, 4]]


def test_two_processes_normalize_as_the_closed_form(ranks: list[Any]) -> None:
    """Statistics over both processes, the biased variance in the buffer; checked in float64."""
    for mode in ("", "N"):
        expected = closed_form(mode)
        for rank, record in enumerate(ranks):
            output, mean, var = (torch.tensor(record["standalone"]["norm"][mode][i][3]).double() for i in range(3))
            torch.testing.assert_close(output, expected.outputs[rank].flatten(), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(mean, expected.running_mean, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(var, expected.running_var, rtol=1e-6, atol=1e-6)


@needs_detectron2
def test_two_processes_equal_detectron2(ranks: list[Any]) -> None:
    for record in ranks:
        assert record["standalone"] == record["detectron2"]
