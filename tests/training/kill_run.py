"""The short run that gets killed: its command line, its scenes, and one attempt at it as a process.

Everything is on that must survive: dropout, drop path, batch norm, averaged weights, accumulation, AdamW with warm-up,
a worker process, calibration, evaluations, old checkpoints that go. Ten training images and batches of four, so that
twelve iterations cross four borders between epochs.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from PIL import Image

import scaleeq.training
from scaleeq.data.sets.toy import render_scene

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_net.py"
VOID, VOID_IN_FILES = 255, 11
NUM_SCENES = {"train": 10, "val": 4}
ITERATIONS, EVAL_PERIOD = 12, 3
STEPS_FILE = "steps.jsonl"

OPTIONS: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.TIMM.DROP_PATH_RATE": 0.2,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 11,
    "MODEL.SEM_SEG_HEAD.DROPOUT": 0.3,
    "MODEL.AUX_HEAD.CONVS_DIM": 8,
    "MODEL.SCALE_EQUALIZER.ENABLED": True,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 6,
    "DATASETS.TRAIN": ("camvid_sem_seg_train",),
    "DATASETS.TEST": ("camvid_sem_seg_val",),
    "INPUT.MIN_SIZE_TRAIN": (96, 128),
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.ACCUMULATE": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WARMUP_ITERS": 4,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.KEEP_CHECKPOINTS": 2,
    "TEST.EVAL_PERIOD": EVAL_PERIOD,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "float16"},
    "two processes": {},
}


def write_scenes(root: Path) -> None:
    """Toy scenes as files in CamVid's layout, under root / "CamVid"."""
    for split, count in NUM_SCENES.items():
        images, annotations = root / "CamVid" / split, root / "CamVid" / f"{split}annot"
        for folder in (images, annotations):
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, labels = render_scene(split, index)
            labels[labels == VOID] = VOID_IN_FILES
            Image.fromarray(image).save(images / f"{index:02d}.png")
            Image.fromarray(labels).save(annotations / f"{index:02d}.png")


def arguments(output_dir: Path, variant: str = "float32") -> list[str]:
    """What a user types behind `python tools/train_net.py`, also for the first start."""
    options = {**OPTIONS, **VARIANTS[variant], "OUTPUT_DIR": output_dir}
    processes = ["--num-gpus", "2", "--dist-url", "auto"] if variant == "two processes" else []
    words = [str(word) for pair in options.items() for word in pair]
    return ["--config-file", str(ROOT / "configs" / "Base.yaml"), "--resume", *processes, *words]


class Attempt:
    """One start of the command, with what it has logged since; everything it started dies with it.

    output_dir: the run's; the processes' console output and the watched steps lie beside it.
    watched: forked from this process, which has imported everything already and runs the tool's file as `python` would,
        with a trainer that notes each step; else a process of its own that nobody looks into.
    """

    def __init__(self, output_dir: Path, argv: list[str], *, watched: bool) -> None:
        self.output_dir = output_dir
        self._log = output_dir / "log.txt"
        self._log_start = self._log.stat().st_size if self._log.is_file() else 0
        self._steps = output_dir.parent / STEPS_FILE
        self.first_step = len(read_steps(self._steps))
        console = output_dir.parent / "console.txt"
        self.started, self.started_at = time.perf_counter(), time.time() - 0.01  # file times are coarse
        if watched:
            self.pid = _fork(argv, console, self._steps)
        else:
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            actions = [(os.POSIX_SPAWN_OPEN, 1, str(console), flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
            command = [sys.executable, str(TOOL), *argv]
            self.pid = os.posix_spawn(
                *(sys.executable, command, environment),
                file_actions=actions,
                setpgroup=0,
                setsigdef=[signal.SIGINT, signal.SIGHUP],  # a job in the background, or under nohup, ignores them
            )
        self.status: int | None = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def ended(self) -> bool:
        """Whether the first process is gone; then `status` is its exit status, negative after a signal."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self._kill_group()
        return self.status is not None

    def kill(self) -> bool:
        """SIGKILL to every process of the attempt; returns whether it was still running."""
        if self.ended():
            return False
        self._kill_group()
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status == -signal.SIGKILL

    def send(self, number: int, to: str = "process") -> None:
        """A signal to the first process, to all ("group"), or to one that it has started as a rank ("rank")."""
        with contextlib.suppress(ProcessLookupError):
            if to == "group":
                os.killpg(self.pid, number)
            else:
                ranks = children(self.pid, "spawn_main") if to == "rank" else []
                os.kill(ranks[-1] if ranks else self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether the first process ends within so long; after that it is killed."""
        until = time.perf_counter() + seconds
        while not self.ended():
            if time.perf_counter() > until:
                self.kill()
                return False
            time.sleep(0.002)
        return True

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            while True:  # until every process of it is gone, so that none writes any more
                os.killpg(self.pid, 0)
                if _all_dead(self.pid):
                    break
                time.sleep(0.001)

    def log(self) -> str:
        """What was logged since the start."""
        if not self._log.is_file():
            return ""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def steps(self) -> list[dict[str, Any]]:
        """The steps that this attempt finished, where it is watched."""
        return read_steps(self._steps)[self.first_step :]


def read_steps(path: Path) -> list[dict[str, Any]]:
    """[{"iteration", name: value}] of a steps file, in the order in which they were done."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def children(parent: int, word: str) -> list[int]:
    """Processes that `parent` has started and that have this word in their command lines, in the order of their ids."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if of == parent and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def _all_dead(group: int) -> bool:
    """Whether what is left of a process group are zombies that somebody has yet to wait for."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                return False
    return True


def _fork(argv: list[str], console: Path, steps: Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # the child does the same; whoever comes first
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one under nohup this
        descriptor = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))  # not pytest's
        watch_steps(steps)
        sys.argv = [str(TOOL), *argv]
        runpy.run_path(str(TOOL), run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:  # before the command has come to its own answer
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def watch_steps(path: Path) -> None:
    """From now on the trainer of this process appends to `path`, in one write, what each step's losses were."""

    class Watched(scaleeq.training.Trainer):  # type: ignore[name-defined,misc]
        def run_step(self) -> None:
            super().run_step()
            names = [name for name in self.storage.latest() if "loss" in name or name == "grad_norm"]
            values = {name: self.storage.latest()[name] for name in names}
            now = {name: value for name, (value, iteration) in values.items() if iteration == self.iter}
            now["lr"] = self.optimizer.param_groups[0]["lr"]
            line = json.dumps({"iteration": self.iter, **now}) + "\n"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, line.encode())
            os.close(descriptor)

    scaleeq.training.Trainer = Watched  # type: ignore[misc]
