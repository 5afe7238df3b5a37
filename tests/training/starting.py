"""The ways in which a user starts a program of two processes, as commands; and what such a job leaves behind.

A program is a module that hands its main function and the engine's command line to run_job.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAYS = ("--num-gpus 2", "--num-machines 2", "torchrun --nproc_per_node 2")
MARK = "SCALEEQ_TEST_JOB"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commands(way: str, program: list[str], words: list[str]) -> list[list[str]]:
    """The command of every machine.

    way: of WAYS, or "" for one process. program: "-m" and a module, or a file. words: its arguments.
    """
    python = [sys.executable, "-W", "ignore"]
    if way.startswith("torchrun"):
        starter = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
        return [[*python, *starter, *program, *words]]
    if way == "--num-machines 2":
        options = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}", "--machine-rank"]
        return [[*python, *program, *options, str(machine), *words] for machine in range(2)]
    return [[*python, *program, *way.split(), *words]]


@dataclass
class Job:
    """Commands that run together. Each one's output is a file of `folder`, and its processes are a group."""

    machines: list[list[str]]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT / "projects" / "ScaleEq"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {MARK: str(self.folder), **self.environment}
        self.processes = []
        for machine, command in enumerate(self.machines):
            with self._output_file(machine).open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
                    )
                )

    def _output_file(self, machine: int) -> Path:
        return self.folder / f"machine{machine}.txt"

    def output(self, machine: int = 0) -> str:
        return self._output_file(machine).read_text()

    def wait(self, timeout_s: float) -> list[int]:
        """The exit codes. subprocess.TimeoutExpired, after everything was killed, where the job goes on for longer."""
        end = time.monotonic() + timeout_s
        try:
            return [process.wait(max(0.0, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            self.clean_up()
            raise

    def run(self, timeout_s: float = 240.0) -> Job:
        codes = self.wait(timeout_s)
        assert not any(codes), "\n".join(self.output(machine) for machine in range(len(codes)))
        return self

    def kill_machine(self, machine: int) -> None:
        """SIGKILL to the command and everything that it started."""
        os.killpg(self.processes[machine].pid, signal.SIGKILL)

    def left_over(self, patience_s: float = 15.0) -> list[int]:
        """Ids of processes of the job that still run after so long."""
        end = time.monotonic() + patience_s
        while (found := self.pids()) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def pids(self) -> list[int]:
        """Of the job's processes that run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARK}={self.folder}\0".encode() in (entry / "environ").read_bytes()
                if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
            except OSError:  # another user's, or gone
                continue
        return found

    def clean_up(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
