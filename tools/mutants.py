#!/usr/bin/env python3
"""Mutation test: does a test fail when one line of the package is wrong? (docs/testing.md)

    python tools/mutants.py --seed 0 --mutants 150 --workers 2
    python tools/mutants.py --only ops/variance.py --list

Mutants are drawn by a seed, in proportion to the files' lines of code and at least one in every folder. Each is written
into a copy of the tree and meets the test file of its module first, then the other tests of its folder. A run that was
stopped goes on with the same command. The exit status is 1 where fewer than --at-least percent are killed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mutations import Mutant, draw

ROOT = Path(__file__).resolve().parents[1]

# Tests that lie elsewhere in tests/ than in the folder of the module, by the beginning of the module's path.
EXTRA_TESTS = {
    "__main__.py": ["commands/test_console_verbs.py"],
    "backbones/depth.py": ["training/test_parameter_groups.py"],
    "commands/benchmark.py": ["probes/test_counting.py"],
    "commands/check_data.py": ["data/test_checking.py"],
    "commands/compare.py": ["experiments/test_compare.py"],
    "commands/prepare_data.py": ["data/test_preparation.py"],
    "commands/score.py": ["evaluation/test_predictions.py"],
    "commands/train.py": ["training/test_train_net.py"],
    "commands/visualize.py": ["reports/test_visualize_command.py"],
    "config/": ["training/test_configs.py", "training/test_setup.py", "engine/test_load_config.py"],
    "fusion/": ["test_fusion_configs.py", "test_grid.py"],
    "decoders/": ["test_segmentor.py", "test_fusion_configs.py", "test_aux_logits.py", "test_grid.py"],
    "equalization/": ["evidence/test_theory_page.py", "fusion/test_fusion.py", "test_model_records.py"],
    "converters/": ["decoders/test_fapn.py"],
    "layers/refusals.py": ["fusion/test_refusals.py", "decoders/test_build.py"],
    "layers/": ["fusion/test_aligned.py", "fusion/test_laterals.py", "fusion/test_evaluate.py"],
    "ops/": ["fusion/test_combine.py", "fusion/test_transfers.py", "fusion/test_aligned.py"],
    "inference/": ["test_inference.py", "tasks/test_dense_tasks.py"],
    "reports/comparison": ["experiments/test_summary.py"],
    "reports/contact_sheet.py": ["data/test_checking.py"],
    "reports/costs.py": ["probes/test_counting.py"],
    "reports/data.py": ["data/test_checking.py"],
    "segmentor.py": ["test_model_records.py"],
    "pictures.py": ["reports/test_finished_run.py", "reports/test_visualization.py"],
    "tasks/semantic.py": ["test_inference.py"],
    "tasks/": ["test_aux_logits.py", "decoders/test_head_configs.py", "decoders/test_heads.py"],
    "training/": ["test_recipes.py"],
}


class Done(NamedTuple):
    """How a run of pytest ended. code: its exit code, below 0 where a signal ended it; None: it took too long."""

    code: int | None
    seconds: float
    failed: str = ""  # the first test that failed

    @property
    def green(self) -> bool:
        return self.code in (0, 5)  # 5: all its tests are deselected


# --- the process that runs tests ---


def strangers(tree: Path) -> list[str]:
    """What the files of `tree` import from elsewhere."""
    names: set[str] = set()
    for file in tree.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    own = {path.stem for path in tree.rglob("*")} | sys.stdlib_module_names
    return sorted(name for name in names if name.split(".")[0] not in own)


def fork_tests(paths: list[str], log: Path, scratch: Path) -> int:
    """The process that runs pytest over `paths`, a leader of its own group."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3  # a mutant may ask for all there is
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), descriptor)
        pytest = importlib.import_module("pytest")
        words = ["-x", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", f"--basetemp={scratch / 'pytest'}"]
        code = int(pytest.main([*words, *paths]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def wait_for(child: int, seconds: float) -> int | None:
    """The exit code of `child`, None where it was ended after `seconds`. Nothing of its group outlives it."""
    parent, deadline = os.getppid(), time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if os.getppid() != parent:
                sys.exit("the command has ended")
            time.sleep(0.02)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def serve() -> None:
    """A line of JSON with paths and seconds in, a line with how their tests ended out, until the command has ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[0] = ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path.cwd().parent
    log, scratch = folder / "log.txt", folder / "tmp"
    try:
        for name in ["pytest", "pytest_timeout", *strangers(Path.cwd())]:
            with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(name)
        gc.freeze()  # a child's collections pass over what is imported already
        for line in sys.stdin:
            paths, seconds = json.loads(line)
            log.write_text("")
            scratch.mkdir()
            begun = time.monotonic()
            code = wait_for(fork_tests(paths, log, scratch), seconds)
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.MULTILINE)
            done = Done(code, round(time.monotonic() - begun, 1), failed[1] if failed else "")
            print(json.dumps(done), file=answers, flush=True)
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


class Worker:
    """A copy of the tree and a process that has imported what it imports from elsewhere, and forks for each test."""

    def __init__(self, folder: Path, root: Path, package: str, files: list[str]) -> None:
        self.package = folder / "tree" / package
        for file in files:
            (folder / "tree" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, folder / "tree" / file)
        environment = os.environ | {
            "PYTHONPATH": str(self.package.parent), "TMPDIR": str(folder / "tmp"),
            "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # others' plugins cost seconds
            "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg",
        }  # fmt: skip
        environment.setdefault("DETECTRON2_DATASETS", str(root / "datasets"))
        environment.setdefault("SCALEEQ_ENGINE", "standalone")  # of the two, the one that is in the tree
        # Not this file itself: a process that a test spawns would run it again.
        start = f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; from mutants import serve; serve()"
        command = [sys.executable, "-c", start]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=folder / "tree", env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        self.stamp = 1  # differs for each mutant, or Python would take the compiled file of another

    def test(self, paths: list[str], seconds: float) -> Done:
        assert self.process.stdin and self.process.stdout
        print(json.dumps((paths, seconds)), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("a process that runs tests has died; the same command goes on")
        return Done(*json.loads(answer))

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        file = self.package / mutant.path
        source, self.stamp = file.read_bytes(), self.stamp + 1
        try:
            file.write_bytes(mutant.apply(source))
            os.utime(file, (self.stamp, self.stamp))
            yield
        finally:
            file.write_bytes(source)
            os.utime(file, (1, 1))


# --- a campaign ---


def say(*words: object) -> None:
    print(*words, flush=True)


def tests_of(root: Path, path: str) -> tuple[list[str], list[str]]:
    """The test file of a module, if there is one, and the other tests of its folder, those that name it first.

    A module in no folder has the tests beside tests/'s folders that name it.
    """
    folder, stem = root / "tests" / path.rpartition("/")[0].partition("/")[0], Path(path).stem
    own = folder.is_dir() and folder != root / "tests"
    files = sorted(folder.rglob("test_*.py") if own else (root / "tests").glob("test_*.py"))
    extra = [root / "tests" / name for start, more in EXTRA_TESTS.items() if path.startswith(start) for name in more]
    names_it = {file: bool(re.search(rf"\b{stem}\b", file.read_text())) for file in [*files, *extra] if file.is_file()}
    kept = [
        str(file.relative_to(root))
        for file in sorted(names_it, key=lambda file: not names_it[file])
        if own or names_it[file]
    ]
    mirrors = [name for name in kept if Path(name).name == f"test_{stem}.py"]
    return mirrors, [name for name in kept if name not in mirrors]


class Campaign:
    """Runs mutants, and keeps what came of them as lines of JSON: those of the same tree are not run again."""

    def __init__(self, root: Path, package: str, results: Path) -> None:
        git = ["git", "-C", str(root)]
        command = [*git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True)
        if listed.returncode:
            raise ValueError(f"{root}: a mutation test copies the files that git lists, but {listed.stderr.strip()}")
        self.root, self.package, self.results = root, package, results
        self.files = sorted(file for file in set(listed.stdout.split("\0")) if (root / file).is_file())
        digest = hashlib.sha256(sys.version.encode())
        for file in self.files:
            if not file.startswith("docs/"):
                digest.update(file.encode() + b"\0" + (root / file).read_bytes())
        self.tree = digest.hexdigest()[:16]
        described = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True)
        self.commit = described.stdout.strip()
        lines = results.read_text().splitlines() if results.is_file() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may cut the last line
        self.records = {record["of"]: record for record in records if record["tree"] == self.tree}

    def keep(self, of: str, **values: Any) -> None:
        self.records[of] = {"of": of, **values, "tree": self.tree}
        with self.results.open("a") as file:
            file.write("\n" * (file.tell() > 0 and not self.results.read_bytes().endswith(b"\n")))
            file.write(json.dumps(self.records[of]) + "\n")

    def baseline(self, worker: Worker, test: str) -> None:
        """How a test file ends without mutation; once more where it fails, since the machine may be busy."""
        done = worker.test([test], 600)
        done = done if done.green else worker.test([test], 600)
        self.keep(test, green=done.green, seconds=done.seconds, failed=done.failed)

    def judge(self, worker: Worker, mutant: Mutant) -> None:
        stages, seconds = tests_of(self.root, mutant.path), 0.0
        lines = mutant.lines((worker.package / mutant.path).read_bytes())
        green = [[path for path in stage if self.records[path]["green"]] for stage in stages]
        with worker.mutated(mutant):
            for paths in filter(None, green):
                done = worker.test(paths, 30 + 3 * sum(self.records[path]["seconds"] for path in paths))
                seconds += done.seconds
                if not done.green:
                    result = "timeout" if done.code is None else "killed"
                    return self.keep(
                        mutant.identity, result=result, by=done.failed, seconds=round(seconds, 1), lines=lines
                    )
        result = "survived" if any(green) or not any(stages) else "untested"
        self.keep(mutant.identity, result=result, by="", seconds=round(seconds, 1), lines=lines)

    def run(self, mutants: list[Mutant], num_workers: int) -> None:
        self.results.parent.mkdir(parents=True, exist_ok=True)
        left = [mutant for mutant in mutants if mutant.identity not in self.records]
        tests = sorted({test for mutant in left for stage in tests_of(self.root, mutant.path) for test in stage})
        tests = [test for test in tests if test not in self.records]
        if not left:
            return
        free: queue.Queue[Worker] = queue.Queue()

        def work(task: Mutant | str) -> None:
            worker = free.get()
            try:
                self.judge(worker, task) if isinstance(task, Mutant) else self.baseline(worker, task)
            finally:
                free.put(worker)
            name = task if isinstance(task, str) else task.identity
            say(*(value for key, value in self.records[name].items() if key not in ("tree", "lines")))

        with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
            workers = [Worker(Path(folder, str(i)), self.root, self.package, self.files) for i in range(num_workers)]
            pool = ThreadPoolExecutor(num_workers)
            try:
                for worker in workers:
                    free.put(worker)
                list(pool.map(work, tests))
                list(pool.map(work, left))
            finally:
                for worker in workers:
                    worker.process.terminate()
                pool.shutdown(cancel_futures=True)
                for worker in workers:
                    worker.process.wait()


def read_equivalents(file: Path) -> dict[tuple[str, str, str, str], str]:
    """(path, scope, line before, line after) -> why no test can tell them apart: lines outlive their numbers."""
    entries = json.loads(file.read_text()) if file.is_file() else []
    if not all(entry.get("reason") for entry in entries):
        raise ValueError(f"{file}: every mutant there needs a reason")
    return {(entry["path"], entry["scope"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def report(campaign: Campaign, mutants: list[Mutant], equivalents: Path) -> float:
    """Prints what came of the mutants. Returns the percentage of those killed that can be."""
    reasons, counts = read_equivalents(equivalents), Counter[str]()
    rooms: dict[str, Counter[str]] = {}
    for mutant in mutants:
        record, reason = campaign.records[mutant.identity], ""
        result, (before, after) = record["result"], record["lines"]
        if result == "survived":
            reason = reasons.get((mutant.path, mutant.scope, before, after), "")
            result = "equivalent" if reason else result
        counts[result] += 1
        rooms.setdefault(mutant.path.partition("/")[0], Counter())[result] += 1
        if result not in ("killed", "timeout"):
            say(f"\n{result}: {mutant.identity}, in {mutant.scope or 'the module'}\n- {before}\n+ {after}", reason)
    for test, record in campaign.records.items():
        if record.get("green") is False:
            say(f"\nleft out, fails without mutation: {record['failed'] or test}")
    say()
    for room, results in sorted(rooms.items()):
        say(f"{room:20}", ", ".join(f"{number} {result}" for result, number in sorted(results.items())))
    killed = counts["killed"] + counts["timeout"]
    percent = 100 * killed / max(killed + counts["survived"], 1)
    totals = ", ".join(f"{counts[name]} {name}" for name in ("killed", "timeout", "survived", "equivalent", "untested"))
    say(f"{campaign.package} at {campaign.commit or 'no commit'}, {len(mutants)} mutants: {totals}")
    say(f"killed, of those that can be: {percent:.1f} %")
    return percent


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=150, metavar="N", help="how many are drawn; default: 150")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATH", help="ops/ or ops/resize.py or ops/resize.py:20:"
    )
    parser.add_argument("--list", action="store_true", help="name the drawn mutants, run nothing")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--at-least", type=float, default=95, metavar="PERCENT", help="default: 95")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: output/mutants.jsonl")
    parser.add_argument("--equivalents", type=Path, metavar="FILE", help="default: docs/results/mutants.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the project; default: this one")
    parser.add_argument("--package", default="projects/ScaleEq/scaleeq", help="below the root")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit status."""
    arguments = parse(argv)
    root = arguments.root.resolve()
    package = root / arguments.package
    mutants = draw(package, arguments.mutants, arguments.seed, arguments.only)
    if arguments.list:
        for mutant in mutants:
            print(mutant.identity, *mutant.lines((package / mutant.path).read_bytes()), sep="\n    ")
        return 0
    campaign = Campaign(root, arguments.package, arguments.results or root / "output" / "mutants.jsonl")
    try:
        campaign.run(mutants, arguments.workers)
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from here.")
        return 130
    percent = report(campaign, mutants, arguments.equivalents or root / "docs" / "results" / "mutants.json")
    return int(percent < arguments.at_least)


if __name__ == "__main__":
    sys.exit(main())
