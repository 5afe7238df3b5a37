"""Plant differences in a copy of the standalone engine and see which tests catch them.

    python -m tests.engine.plant_differences [--only WORD] [--write]

Each difference is one textual edit, made alone. The package and the tests are copied to a temporary folder, and
tests/engine runs there until its first failure. Prints a table; --write puts it into docs/engine.md. Exit code 1 where
a difference is not caught, or where the tests fail without one; an edit that does not apply to one place is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STANDALONE = Path("projects/ScaleEq/scaleeq/engine/standalone")
PAGE = ROOT / "docs" / "engine.md"
HEADING = "## Planted differences"
FIRST = ("test_static_conformance.py", "test_running_conformance.py", "test_contract.py", "test_running_distributed.py")


@dataclass(frozen=True)
class Difference:
    what: str
    file: str
    old: str
    new: str


DIFFERENCES = (
    Difference("a default: IMS_PER_BATCH 8", "config_defaults.py", '"IMS_PER_BATCH": 16', '"IMS_PER_BATCH": 8'),
    Difference("a default's type: STEPS a list", "config_defaults.py", '"STEPS": (30000,)', '"STEPS": [30000]'),
    Difference("a key: WARMUP_MODE", "config_defaults.py", '"WARMUP_METHOD"', '"WARMUP_MODE"'),
    Difference("long shards last", "data.py", "rank * share + min(rank, left)", "rank * share + max(0, rank - left)"),
    Difference(
        "unbiased running variance",
        "layers.py",
        "momentum * (variance.detach() - self",
        "momentum * (variance.detach() * x[:, 0].numel() / (x[:, 0].numel() - 1) - self",
    ),
    Difference("every process counts its images twice", "layers.py", "counted * num_images", "counted * num_images**2"),
    Difference(
        "a missing pixel_mean is worth a warning",
        "checkpoint.py",
        '("pixel_mean", "pixel_std")',
        '("pixel_std",)',
    ),
    Difference("a catalog without its check", "data.py", "if name in self:", "if name in ():"),
    Difference("the default input has 1 channel", "modeling.py", "channels=len(cfg.MODEL.PIXEL_MEAN)", "channels=1"),
    Difference(
        "hooks in reverse order after a step",
        "train_loop.py",
        "for hook in self._hooks:\n            hook.after_step()",
        "for hook in self._hooks[::-1]:\n            hook.after_step()",
    ),
    Difference(
        "the last of two hooks' states kept",
        "train_loop.py",
        "states.setdefault(type(hook).__qualname__, state)",
        "states[type(hook).__qualname__] = state",
    ),
    Difference("EvalHook evaluates twice at the end", "hooks.py", " and next_iter != self.trainer.max_iter", ""),
    Difference(
        "checkpoints named by the next iteration",
        "hooks.py",
        "self.step(self.trainer.iter)",
        "self.step(self.trainer.iter + 1)",
    ),
    Difference(
        "learning rate put after the scheduler's step",
        "hooks.py",
        'self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)\n        self.scheduler.step()',
        'self.scheduler.step()\n        self.trainer.storage.put_scalar("lr", self._optimizer.param_groups['
        'self._best_param_group_id]["lr"], smoothing_hint=False)',
    ),
    Difference(
        "smoothing over one sample more",
        "events.py",
        "samples[-1][1] - window_size",
        "samples[-1][1] - window_size - 1",
    ),
    Difference("three digits printed", "evaluation.py", "{score:.4f}", "{score:.3f}"),
    Difference("the same seed on every rank", "defaults.py", "seed + rank)", "seed)"),
    Difference("gather to every rank", "comm.py", "dist.get_rank(group) == dst else None", "True else None"),
    Difference(
        "a batch less of warm-up in inference", "evaluation.py", "min(5, num_batches - 1)", "min(4, num_batches - 1)"
    ),
)


def plant(difference: Difference, copy: Path) -> None:
    """Makes the edit in the copy. Raises ValueError where it does not apply to exactly one place."""
    file = copy / STANDALONE / difference.file
    text = file.read_text()
    if text.count(difference.old) != 1:
        raise ValueError(f"{difference.what}: {difference.old!r} is {text.count(difference.old)} times in {file.name}")
    file.write_text(text.replace(difference.old, difference.new))


def first_failure(copy: Path) -> str | None:
    """The first test of tests/engine that fails in the copy, conformance first; None where all pass.

    A failure that does not repeat (a busy machine, a port that was taken) says nothing, and the tests start again.
    """
    for _ in range(3):
        failure = _run([str(Path("tests/engine", name)) for name in FIRST], copy) or _run(["tests/engine"], copy)
        if failure is None or _run([f"tests/engine/{failure}"], copy) is not None:
            return failure
    raise RuntimeError(f"{failure} fails now and then")


def _run(paths: list[str], copy: Path) -> str | None:
    plain = ["--assert=plain", "--tb=no"]  # a readable difference of long lists takes minutes
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *plain, *paths]
    environment = os.environ | {"PYTHONPATH": str(copy / "projects" / "ScaleEq"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1200)
    found = re.search(r"^(?:FAILED|ERROR) tests/engine/(.+?)(?: - .*)?$", result.stdout, re.MULTILINE)
    if (result.returncode == 0) != (found is None):
        raise RuntimeError(f"the tests did not run: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return found and found[1]


def try_difference(difference: Difference | None) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("projects", "tests", "docs", "tools", "configs"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if difference is not None:
            plant(difference, copy)
        return first_failure(copy)


def check_edits() -> None:
    """Raises ValueError for the first edit that no longer applies."""
    for difference in DIFFERENCES:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / STANDALONE, Path(folder) / STANDALONE)
            plant(difference, Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant differences in the standalone engine; see which are caught.")
    parser.add_argument("--only", default="", metavar="WORD", help="only differences whose description has this word")
    parser.add_argument("--write", action="store_true", help="put the table into docs/engine.md")
    args = parser.parse_args()
    if args.write and args.only:
        parser.error("--write wants all differences")
    check_edits()
    unplanted = try_difference(None)
    if unplanted is not None:
        print(f"without a difference {unplanted} fails already", file=sys.stderr)
        return 1
    rows = ["| planted in standalone/ | file | first test that fails |", "|---|---|---|"]
    print("\n".join(rows), flush=True)
    chosen = [difference for difference in DIFFERENCES if args.only in difference.what]
    caught = 0
    for difference in chosen:
        failure = try_difference(difference)
        caught += failure is not None
        rows.append(f"| {difference.what} | {difference.file} | {failure or 'NOT CAUGHT'} |")
        print(rows[-1], flush=True)
    rows.append(f"\n{caught} of {len(chosen)} caught.")
    print(rows[-1])
    if args.write:
        text = PAGE.read_text().partition(f"{HEADING}\n")[0]
        introduction = "Printed by `python -m tests.engine.plant_differences --write`, one edit at a time:"
        PAGE.write_text("\n".join([f"{text}{HEADING}\n", f"{introduction}\n", *rows]) + "\n")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
