"""tools/mutants.py on a tiny package. Oracle: mutants named by hand, with what a reader expects of them."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

SOURCE = '''"""A tiny module: 1 < 2 stands in words alone."""

from __future__ import annotations

__all__ = ["grow"]
SIZES: tuple[int, int] | None = None


def grow(x: int, logger, step: int = 3) -> int:
    """Grows."""
    if x < 10 and step is not None:
        x = x + step
    if x == 77:
        raise ValueError(f"{x + 1} is no size, not {step}")
    logger.info("grown by %d", 5)
    return x


def unused(items):
    items.sort(reverse=True)
    return max(items[1:4])
'''
TEST = """
import logging
from tiny.module import grow


def test_grow():
    assert [grow(x, logging.getLogger()) for x in (9, 10, 11)] == [12, 10, 11]
    assert grow(1, logging.getLogger(), 2) == 3
"""
IN_GROW = [
    "3 to 2", "3 to 4", "< to <=", "10 to 11", "10 to 9", "and to or", "is not to is", "deleted", "+ to -", "== to !=",
    "77 to 76", "77 to 78", "nothing returned",
]  # fmt: skip
IN_UNUSED = [
    *("deleted", "reverse= dropped", "True to False", "nothing returned", "max to min", "ends swapped"),
    *("1 to 2", "1 to 0", "4 to 5", "4 to 3"),
]


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("mutations"), importlib.import_module("mutants")


@pytest.fixture
def project(tmp_path) -> Path:
    files = {"src/tiny/__init__.py": "", "src/tiny/module.py": SOURCE, "tests/test_module.py": TEST}
    files["tests/test_broken.py"] = "def test_of_another_day():\n    assert not 'module'\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def listing(project: Path) -> dict[str, bytes]:
    files = (path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path): path.read_bytes() for path in files}


def words(project: Path, *more: str) -> list[str]:
    results = project.parent / f"{project.name}-results.jsonl"
    return ["--root", str(project), "--package", "src/tiny", "--workers", "1", "--results", str(results), *more]


def records(project: Path) -> list[dict]:
    results = Path(words(project)[7])
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_words_annotations_and_messages_have_no_mutants(tools):
    found = tools[0].Finder("module.py", SOURCE.encode()).found
    of = {scope: [mutant.operator for mutant in found if mutant.scope == scope] for scope in ("grow", "unused", "")}
    assert sorted(of["grow"]) == sorted(IN_GROW)
    assert sorted(of["unused"]) == sorted(IN_UNUSED)
    assert of[""] == []
    assert all(tools[0].compiles(mutant.apply(SOURCE.encode())) for mutant in found)
    assert len({mutant.identity for mutant in found}) == len(found)


@pytest.mark.parametrize(
    ("operator", "after"),
    [
        ("< to <=", "if x <= 10 and step is not None:"),
        ("is not to is", "if x < 10 and step is None:"),
        ("10 to 9", "if x < 9 and step is not None:"),
        ("max to min", "return min(items[1:4])"),
        ("ends swapped", "return max(items[4:1])"),
        ("reverse= dropped", "items.sort(**{})"),
    ],
)
def test_a_mutant_changes_its_place_alone(tools, operator, after):
    (mutant,) = (m for m in tools[0].Finder("module.py", SOURCE.encode()).found if m.operator == operator)
    changed = mutant.apply(SOURCE.encode()).decode().splitlines()
    differing = [i for i, pair in enumerate(zip(SOURCE.splitlines(), changed, strict=True)) if pair[0] != pair[1]]
    assert differing == [mutant.line - 1]
    assert mutant.lines(SOURCE.encode())[1] == changed[mutant.line - 1].strip() == after


@pytest.mark.parametrize(
    ("line", "operators"),
    [
        ('a = b == "range"', ["== to !="]),
        ('a = "x" + b + f"{1}"', []),
        ("a = b if type(b).__name__ != c else d", ["!= to =="]),
        ("if TYPE_CHECKING:\n    a = 1", []),
        ("if __name__ == '__main__':\n    a = 1", []),
        ("a = b is not c", []),
        ("a -= -1", ["- to +", "1 to 0", "1 to 2", "deleted"]),
        ("a = b[:, 1:, ::2]", ["1 to 0", "1 to 2", "2 to 1", "2 to 3", "ends swapped"]),
        ("a = dict(b=1, **c)", ["1 to 0", "1 to 2", "b= dropped"]),
        ("a = zip(b, strict=True)", []),
        ("a.b(c, strict=True)", ["True to False", "deleted", "strict= dropped"]),
        ("a = b // c ** d", ["** to *", "// to /"]),
        (
            "def a(b=True, *, c: Literal[1] = 2):\n    b = c\n    return None",
            ["2 to 1", "2 to 3", "True to False", "deleted"],
        ),
    ],
)
def test_what_is_changed_in_a_line(tools, line, operators):
    assert sorted(mutant.operator for mutant in tools[0].Finder("a.py", line.encode()).found) == operators


def test_lines_of_code(tools):
    kept = {line for i, line in enumerate(SOURCE.splitlines(), 1) if i in tools[0].code_lines(SOURCE)}
    assert kept == {line for line in SOURCE.splitlines() if line.strip() and '"""' not in line}
    assert tools[0].code_lines('def f():\n    """One\n    two."""\n    return (  # three\n        4\n    )\n') == {
        1,
        4,
        5,
        6,
    }


def test_drawing_is_by_seed_lines_and_folder(tools, tmp_path):
    long = "".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(100))
    for name, text in {"long.py": long, "short.py": long[:300], "a/b.py": "def f(x):\n    return x < 3\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    draw = tools[0].draw
    drawn = draw(tmp_path, 30, 4, [])
    assert drawn == draw(tmp_path, 30, 4, []) != draw(tmp_path, 30, 5, [])
    numbers = {path: sum(mutant.path == path for mutant in drawn) for path in ("long.py", "short.py", "a/b.py")}
    assert sum(numbers.values()) == 30 and numbers["a/b.py"] == 1 and numbers["long.py"] > 4 * numbers["short.py"] > 0
    assert len({(mutant.path, mutant.line) for mutant in drawn}) == 30
    assert {mutant.path for mutant in draw(tmp_path, 3, 0, ["a/"])} == {"a/b.py"}
    with pytest.raises(ValueError, match="b/"):
        draw(tmp_path, 3, 0, ["b/"])


def test_a_mutant_stays_drawn_while_its_line_stays(tools, tmp_path):
    """Changed files draw as before but for their changed lines: a test written for a survivor counts the next time."""

    def drawn(**files: str) -> set[tuple[str, str, str]]:
        for path, text in files.items():
            (tmp_path / path.replace("_", "/")).with_suffix(".py").write_text(text)
        found = tools[0].draw(tmp_path, 40, 0, [])
        sources = {mutant.path: (tmp_path / mutant.path).read_bytes() for mutant in found}
        assert len(found) == 40
        return {(mutant.path, mutant.operator, *mutant.lines(sources[mutant.path])) for mutant in found}

    def functions(numbers, change: str = "+") -> str:
        return "".join(f"def f{i}(x):\n    return x {change} y{i}\n" for i in numbers)

    for folder in "abc":
        (tmp_path / folder).mkdir()
    before = drawn(
        a_one=functions(range(100)), a_two=functions(range(90)), b_one=functions(range(80)), c_one="x = -y\n"
    )
    moved = drawn(a_one="# One more line.\n\n" + functions(range(99, -1, -1)))
    assert moved == before
    half = drawn(b_one=functions(range(40), "*") + functions(range(40, 80)))
    assert {kind for kind in half if kind[0] != "b/one.py"} == {kind for kind in before if kind[0] != "b/one.py"}
    kept = {
        kind for kind in before if kind[0] == "b/one.py" and "*" not in kind[2] and int(kind[2].split("y")[1]) >= 40
    }
    assert kept and len(kept - half) <= 2
    grown = drawn(a_three=functions(range(20)))
    assert len(half - grown) <= 4 and any(kind[0] == "a/three.py" for kind in grown)


def test_tests_that_lie_elsewhere_are_there(tools):
    root, package = TOOLS.parent, TOOLS.parent / "projects" / "ScaleEq" / "scaleeq"
    for start, paths in tools[1].EXTRA_TESTS.items():
        assert any(package.glob(f"{start}*")), start
        assert all((root / "tests" / path).is_file() for path in paths), start


def test_a_campaign_tells_killed_from_survived_and_leaves_the_tree_alone(tools, project, capsys):
    before, only = listing(project), ["--only", "module.py:11:10", "module.py:12:9", "module.py:13:", "--mutants", "99"]
    assert tools[1].main(words(project, *only, "--at-least", "61")) == 1
    out = capsys.readouterr().out
    of = {record["of"]: record.get("result") for record in records(project)}
    assert of["module.py:11:10 < to <="] == of["module.py:12:9 deleted"] == of["module.py:13:10 == to !="] == "killed"
    assert of["module.py:13:13 77 to 78"] == of["module.py:13:13 77 to 76"] == "survived"
    assert "left out, fails without mutation: tests/test_broken.py::test_of_another_day" in out
    assert "- if x == 77:\n+ if x == 78:" in out and "60.0 %" in out
    assert listing(project) == before

    # The next command reads what is known, and an equivalent mutant leaves the percentage where its reason is written.
    entry = {"path": "module.py", "scope": "grow", "before": "if x == 77:", "after": "if x == 78:"}
    equivalents = project.parent / f"{project.name}-equivalents.json"
    equivalents.write_text(json.dumps([entry | {"reason": "unlucky numbers, both"}]))
    known = [*only, "--equivalents", str(equivalents), "--at-least", "75"]
    assert tools[1].main(words(project, *known)) == 0
    assert "unlucky numbers, both" in capsys.readouterr().out
    equivalents.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="reason"):
        tools[1].main(words(project, *known))


def test_a_killed_campaign_leaves_nothing_and_goes_on(tools, project, monkeypatch):
    before, scratch = listing(project), project.parent / f"{project.name}-scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    command = words(project, "--only", "module.py:1", "--mutants", "99")
    started = subprocess.Popen([sys.executable, str(TOOLS / "mutants.py"), *command], stdout=subprocess.DEVNULL)
    wait_until(lambda: sum("result" in record for record in records(project)) >= 2)
    started.send_signal(signal.SIGKILL)
    started.wait()
    wait_until(lambda: not any(scratch.iterdir()))
    assert listing(project) == before
    known = len(records(project))
    tools[1].main(command)
    identities = [record["of"] for record in records(project)]
    assert known < len(identities) == len(set(identities)) == 2 + len(IN_GROW) - len(("3 to 2", "3 to 4"))
