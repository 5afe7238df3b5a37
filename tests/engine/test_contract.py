"""The contract, name by name: both sides have it, with fitting signatures, and listed scenarios that use it.

Oracle: Detectron2 0.6, by itself where it is installed, and everywhere by goldens/signatures.json.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scaleeq import engine
from scaleeq.engine import standalone
from scaleeq.engine.contract import CONTRACT, Name, load_names, markdown_table
from tests.engine import running_sides, static_scenarios
from tests.engine.record_goldens import FOLDER
from tests.engine.record_goldens_running import SCENARIOS as RUNNING
from tests.engine.signatures import members, misfits

STATIC = static_scenarios.SCENARIOS | static_scenarios.FLOAT_SCENARIOS
KNOWN_MISFITS = {
    "setup_logger": [  # each engine's loggers have their own root
        "(): parameter ['name', 'KEYWORD_ONLY', \"'scaleeq.engine.standalone'\"] is there "
        "['name', 'KEYWORD_ONLY', \"'detectron2'\"]"
    ]
}
OURS = ("scaleeq.engine.standalone", "fvcore")
each_name = pytest.mark.parametrize("entry", CONTRACT, ids=lambda entry: entry.name)
needs_detectron2 = pytest.mark.skipif(
    not running_sides.has_detectron2(), reason="Detectron2 is not installed: standalone is checked by goldens alone"
)


def signatures_golden() -> dict[str, Any]:
    return json.loads((FOLDER / "signatures.json").read_text())


def test_contract_is_short_and_each_name_once() -> None:
    names = [entry.name for entry in CONTRACT]
    assert len(set(names)) == len(names) <= 40
    assert sorted(names) == sorted(standalone.__all__) == sorted(signatures_golden())


@each_name
def test_the_door_has_the_name(entry: Name) -> None:
    assert getattr(engine, entry.name) is load_names(engine.NAME)[entry.name]


@each_name
def test_standalone_lies_within_the_recorded_signature(entry: Name) -> None:
    ours = members(getattr(standalone, entry.name), OURS)
    assert ours, "nothing to compare"
    assert misfits(ours, signatures_golden()[entry.name]) == KNOWN_MISFITS.get(entry.name, [])


@needs_detectron2
@each_name
def test_the_recorded_signature_is_detectron2s(entry: Name) -> None:
    theirs = members(load_names("detectron2")[entry.name], ("detectron2", "fvcore"))
    assert json.loads(json.dumps(theirs)) == signatures_golden()[entry.name]


def test_misfits_are_seen() -> None:
    theirs = {"()": [["a", "POSITIONAL_OR_KEYWORD", ""], ["b", "POSITIONAL_OR_KEYWORD", "1"]]}
    b = ["b", "POSITIONAL_OR_KEYWORD", "1"]
    assert not misfits({"()": theirs["()"][:1]}, theirs)
    assert misfits({"()": [*theirs["()"], ["c", "KEYWORD_ONLY", "1"]]}, theirs)
    assert misfits({"()": [["a", "POSITIONAL_OR_KEYWORD", ""], ["b", "POSITIONAL_OR_KEYWORD", "2"]]}, theirs)
    assert misfits({"()": [["a", "KEYWORD_ONLY", ""], b]}, theirs)
    assert misfits({"()": [b, theirs["()"][0]]}, theirs)
    assert misfits({"()": [b]}, theirs)
    assert misfits({"other": []}, theirs)


class Watched(SimpleNamespace):
    """Notes which of its names are asked for."""

    def __getattribute__(self, name: str) -> Any:
        values = object.__getattribute__(self, "__dict__")
        if name in values and name != "_asked":
            values["_asked"].add(name)
        return object.__getattribute__(self, name)


@cache
def names_used(scenario: str, folder: Path) -> set[str]:
    asked: set[str] = set()
    if scenario in STATIC:
        STATIC[scenario](Watched(**load_names("standalone"), _asked=asked), folder)
    else:
        names = vars(running_sides.load_side("standalone"))
        RUNNING[scenario](Watched(**names, _asked=asked), folder)
    return asked


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda scenario: tmp_path_factory.mktemp(scenario))


@each_name
def test_listed_scenarios_exist_and_use_the_name(entry: Name, folder_of: Any) -> None:
    assert entry.scenarios, "no scenario holds both sides together"
    for scenario in entry.scenarios:
        assert entry.name in names_used(scenario, folder_of(scenario)), f"{scenario} never touches it"


def importing_rooms() -> dict[str, set[str]]:
    """Name -> rooms of the package (and "tools") that import it through the door."""
    package = Path(engine.__file__).parents[1]
    found: dict[str, set[str]] = {}
    for top in (package, package.parents[2] / "tools"):
        for file in top.rglob("*.py"):
            room = file.relative_to(top).parts[0].removesuffix(".py") if top == package else "tools"
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or file.parent.name).split(".")[-1] == "engine":
                    for alias in node.names:
                        found.setdefault(alias.name, set()).add(room)
    return found


def test_listed_callers_call() -> None:
    rooms = importing_rooms()
    names = {entry.name for entry in CONTRACT}
    listed = {(entry.name, caller) for entry in CONTRACT for caller in entry.callers.split(", ")}
    assert {pair for pair in listed if pair[1] not in rooms.get(pair[0], set()) | names} == set()


def test_the_page_shows_the_contract() -> None:
    page = Path(__file__).parents[2] / "docs" / "engine.md"
    assert markdown_table() in page.read_text(), "print it with scaleeq.engine.contract.markdown_table()"
