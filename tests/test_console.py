"""How commands end. The commands are processes of their own, of a few lines each and without torch."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from scaleeq.console import Mistake, mistake, mistake_in

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "projects" / "ScaleEq"
PROGRAMS = ("mutants", "mutations", "plain_train_net", "train_detection")  # the others start commands of the package
TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.stem not in PROGRAMS)


def command(tmp_path: Path, body: str, *words: str, before: str = "") -> subprocess.Popen[str]:
    lines = ["import os, signal, sys, time", "from scaleeq import console", "console.start()", before, "def main():"]
    lines += [f"    {line}" for line in body.splitlines()] + ["console.run(main, stopped='nothing is written')"]
    file = tmp_path / "command.py"
    file.write_text("\n".join(lines))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, file, *words], stdout=pipe, stderr=pipe, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("return None", 0, ""),
        ("return 1", 1, ""),
        ("raise ValueError('SEED is x; give a number')", 2, "error: SEED is x; give a number\n"),
        ("raise ValueError()", 2, "error: ValueError\n"),
        ("raise KeyError('there is no config key A')", 2, "error: there is no config key A\n"),
        ("raise ImportError('wandb is missing: pip install wandb')", 2, "error: wandb is missing: pip install wandb\n"),
        ("open('/nowhere/a.yaml')", 2, "error: /nowhere/a.yaml: No such file or directory\n"),
        ("open('/')", 2, "error: /: Is a directory\n"),
        ("raise FileNotFoundError('there is no config file a.yaml')", 2, "error: there is no config file a.yaml\n"),
        ("raise FloatingPointError('the loss is not finite')", 1, "error: the loss is not finite\n"),
        ("sys.exit('error: TEST.EXPECTED_RESULTS are not met')", 1, "error: TEST.EXPECTED_RESULTS are not met\n"),
        ("raise KeyboardInterrupt", 130, "nothing is written\n"),
        ("raise SystemExit(143)", 143, ""),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line(tmp_path, body, code, told):
    assert ended(command(tmp_path, body)) == (code, "", told)


@pytest.mark.parametrize(
    "body",
    [
        "raise RuntimeError('out of memory')",
        "assert False",
        "{}['key']",
        "None + 1",
        "import a_module",
        "raise TimeoutError",
    ],
)
def test_other_errors_show_where_they_come_from(tmp_path, body):
    code, _, errors = ended(command(tmp_path, body))
    assert code == 1 and errors.startswith("Traceback") and body in errors and "error:" not in errors


@pytest.mark.parametrize("words", [["--debug"], ["A", "1", "--debug"], ["--debug", "--eval-only"]])
def test_debug_shows_where_a_mistake_is(tmp_path, words):
    code, output, errors = ended(command(tmp_path, "print(*sys.argv[1:])\nraise ValueError('SEED is x')", *words))
    assert code == 2 and errors.startswith("Traceback") and errors.endswith("\nerror: SEED is x\n")
    assert output.split() == [word for word in words if word != "--debug"]


def test_a_mistake_that_an_import_tells(tmp_path):
    assert ended(command(tmp_path, "pass", before="raise ValueError('SCALEEQ_ENGINE is x')")) == (
        2, "", "error: SCALEEQ_ENGINE is x\n",
    )  # fmt: skip
    code, _, errors = ended(command(tmp_path, "pass", before="raise RuntimeError('broken')"))
    assert code == 1 and errors.startswith("Traceback")


def test_wrong_options_are_one_line(tmp_path):
    body = "console.parser('What it does.').parse_args()"
    assert ended(command(tmp_path, body, "--size", "3")) == (
        2, "", "error: unrecognized arguments: --size 3; --help lists the options\n",
    )  # fmt: skip
    code, output, _ = ended(command(tmp_path, body, "--help"))
    assert code == 0 and "What it does." in output and "--debug" in output


def test_nobody_reads_on(tmp_path):
    process = command(tmp_path, "for number in range(10**6):\n    print(number)")
    assert process.stdout and process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr and process.stderr.read() == ""
    assert process.wait(60) == 1


def test_ctrl_c_leaves_no_traceback(tmp_path):
    process = command(tmp_path, "print('ready', flush=True)\ntime.sleep(60)")
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process)[::2] == (130, "nothing is written\n")


def test_a_mistake_of_another_process_is_read_from_its_traceback():
    try:
        try:
            Path("/nowhere").read_text()
        except OSError as error:
            raise Mistake(f"{mistake(error)}\n  second line") from error
    except Mistake as error:
        text = "-- Process 1 terminated with the following error:\n" + "".join(traceback.format_exception(error))
    assert mistake_in(text) == "/nowhere: No such file or directory\n  second line"
    assert mistake_in("Traceback\nValueError: scaleeq.console has no Mistake") == ""
    assert mistake(ConnectionResetError("another process is gone")) == ""


# ---------------------------------------------------------------------------------------------------- the tools


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_every_tool_starts_a_command_and_is_nothing_else(path):
    lines = [ast.unparse(statement) for statement in ast.parse(path.read_text()).body]
    assert all(line.startswith(("from scaleeq.commands", "__all__ =")) for line in lines[1:-1])
    (name,) = re.findall(r"^if __name__ == '__main__':\n    start\('(\w+)'\)$", lines[-1])
    assert (PROJECT / "scaleeq" / "commands" / f"{name}.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_wrong_use_of_every_tool(path, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    for words in (["--no-such-option"], ["--config-file", "nowhere.yaml", "--debug"]):
        done = subprocess.run(
            [sys.executable, path, *words], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ") and not done.stdout
        assert "--debug" in words or len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_torch():
    started = time.monotonic()
    code = (
        "import sys, scaleeq.console, scaleeq.config; print([m for m in ('torch', 'yacs', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert time.monotonic() - started < 30
