"""What is worth its minutes on a machine with one CUDA device, one after the other (`make gpu`).

    python -m evidence.gpu [--output DIR] [--jobs 6] [--minutes 12]

Needs the folder .gpu/ in the project's root, with run.sh, the wheels that the machine lacks and CamVid's pictures:
1. the tests of the marker `cuda`;
2. evidence.benchmark_decoders on the device: times between two of its events, peak memory, waits of a training step;
3. the arms of configs/ablations/camvid_adamw.yaml, several runs at a time.
Each gets what is left of the minutes. DIR, by default $OUT or output/gpu, gets decoders_cuda.json and a log of each.
Exit code 1 where one of them failed or was stopped, 2 where there is no device or no .gpu/.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from scaleeq import console

console.start()

ROOT = Path(__file__).parents[1]
ARMS = "configs/ablations/camvid_adamw.yaml"


def steps(output: Path, jobs: int) -> dict[str, list[str]]:
    """Name -> command, in the order of what a minute is worth."""
    python = "python3"
    return {
        "tests": [python, "-m", "pytest", "-q", "-m", "cuda", "tests"],
        "decoders": [
            *(python, "-m", "evidence.benchmark_decoders", "--device", "cuda", "--rounds", "15"),
            *("--output", str(output / "decoders_cuda.json")),
        ],
        "camvid": [python, "tools/compare.py", ARMS, "--output", "output/camvid", "--jobs", str(jobs)],
    }


def main() -> int:
    parser = console.parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT") or ROOT / "output" / "gpu"))
    parser.add_argument("--jobs", type=int, default=6, help="runs of CamVid at a time")
    parser.add_argument("--minutes", type=float, default=12, help="for all of it")
    arguments = parser.parse_args()
    runner = ROOT / ".gpu" / "run.sh"
    refuse(runner)
    arguments.output.mkdir(parents=True, exist_ok=True)
    return run_all(steps(arguments.output, arguments.jobs), runner, arguments.output, seconds=60 * arguments.minutes)


def refuse(runner: Path) -> None:
    """ValueError: there is no CUDA device, or nothing to run with."""
    import torch  # after the command line, which needs none of it

    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device on this machine, so nothing was run; use one that has one")
    if not runner.is_file():
        raise ValueError(f"{runner.relative_to(ROOT)} is missing; gather .gpu/ on a machine that can download")


def run_all(commands: dict[str, list[str]], runner: Path, output: Path, *, seconds: float) -> int:
    """Each command through `runner`, with a log, whatever became of the one before -> the exit code."""
    started, failed = time.monotonic(), []
    for name, command in commands.items():
        left = seconds - (time.monotonic() - started)
        status = "no time was left"
        if left > 0:
            with (output / f"{name}.log").open("w") as log:
                try:
                    done = subprocess.run(
                        ["bash", str(runner), *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=left
                    )
                    status = f"exit code {done.returncode}"
                except subprocess.TimeoutExpired:
                    status = "stopped, the minutes are over"
        print(f"{name}: {status}, {time.monotonic() - started:.0f} s since the start", flush=True)
        if status != "exit code 0":
            failed.append(name)
    return console.FAILED if failed else 0


if __name__ == "__main__":
    console.run(main)
