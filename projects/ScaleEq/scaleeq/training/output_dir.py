"""What must be true of OUTPUT_DIR before a run writes there: it is this run's alone, and it has room.

No other run is writing there, a fresh run does not overwrite another one's checkpoints, a resumed run is the one that
the folder holds, and a disk that is too small is noticed before the first checkpoint is due.
"""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path

import yaml
from torch import nn

from scaleeq.choices import flatten
from scaleeq.data.fingerprint import DataFingerprint
from scaleeq.engine import CfgNode, comm
from scaleeq.engine.checkpoint_file import read_checkpoint
from scaleeq.engine.config_io import read_yaml_files
from scaleeq.files import remove_parts
from scaleeq.folder_lock import FolderInUse, FolderLock
from scaleeq.records import JsonView

logger = logging.getLogger(__name__)

# A resumed run may change these of MODEL: where weights come from, where and how they compute, what is watched.
FREE_MODEL_KEYS = (
    "MODEL.WEIGHTS",
    "MODEL.WEIGHTS_STRICT",
    "MODEL.DEVICE",
    "MODEL.COMPILE",
    "MODEL.CHANNELS_LAST",
    "MODEL.TIMM.PRETRAINED",
    "MODEL.TIMM.PRETRAINED_FILE",
    "MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD",
)
# A resumed run has the digits that it began with. What a run did that began before there was the key:
KEPT_KEYS = {"MODEL.FUSION.EVALUATE": "plain", "SOLVER.FUSED": False}
# These make no difference to the run, or cannot be compared.
IGNORED_KEYS = ("OUTPUT_DIR", "VERSION", "DATALOADER.NUM_WORKERS", "TEST.EXPECTED_RESULTS")
STATES_PER_PARAMETER = {"SGD": 1, "ADAMW": 2}  # tensors that the optimizer keeps (SGD: where there is momentum)


def evaluation_config(cfg: CfgNode) -> CfgNode:
    """The config with OUTPUT_DIR/inference as its folder: an evaluation's log and config.yaml are no training's."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "inference")
    cfg.freeze()
    return cfg


class RunLock:
    """Keeps other runs out of the folders that this one writes to; the main process holds the locks, for all ranks.

        with RunLock(cfg) as warnings:

    A training holds OUTPUT_DIR, and OUTPUT_DIR/inference where TEST.OUTPUT has its evaluations write there; an
    evaluation holds OUTPUT_DIR/inference. A process may hold them several times.
    """

    def __init__(self, cfg: CfgNode, *, eval_only: bool = False) -> None:
        folder = Path(cfg.OUTPUT_DIR)
        folders = ([] if eval_only else [folder]) + ([folder / "inference"] if eval_only or cfg.TEST.OUTPUT else [])
        self._locks = [FolderLock(each) for each in folders]
        self._taken = False

    def acquire(self) -> list[str]:
        """Take the locks, and remove what earlier writers have left; to be called on every rank. Returns warnings.

        FolderInUse: another run writes there; on every rank, nothing is touched. OSError: a folder cannot be made.
        """
        if self._taken:
            return []
        warnings: list[str] = []
        problem: OSError | None = None
        if comm.is_main_process():
            try:
                warnings = [warning for lock in self._locks if (warning := lock.acquire())]
                for lock in self._locks:
                    remove_parts(lock.folder, locked=True)
            except OSError as error:
                problem = error
        problem = comm.all_gather(problem)[0]  # nobody goes on, and writes, before the folder is this run's
        if problem is not None:
            self.release()
            raise problem
        self._taken = True
        return warnings

    def check(self) -> None:
        """FolderInUse, as `acquire` raises it, of this process alone; nothing is taken."""
        for lock in self._locks:
            lock.check()

    def release(self) -> None:
        for lock in self._locks:
            lock.release()
        self._taken = False

    def __enter__(self) -> list[str]:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def check_output_dir(cfg: CfgNode, *, resume: bool, eval_only: bool = False) -> list[str]:
    """Refuse a folder that holds another run; before anything is written there.

    Returns the keys that a resumed run changes, as "KEY: old -> new", for log_changes; on every rank, as the main
    process sees the folder. ValueError: another run writes there; a fresh run where there are checkpoints, or a resumed
    one with another model or other data.
    """
    changes: list[str] = []
    problem = None
    if comm.is_main_process():
        try:
            RunLock(cfg, eval_only=eval_only).check()
            changes = [] if eval_only else _check_output_dir(cfg, resume=resume)
        except (FolderInUse, ValueError) as error:
            problem = str(error)
    changes, problem = comm.all_gather((changes, problem))[0]  # nobody goes on, and writes, before the check is done
    if problem is not None:
        raise ValueError(problem)
    return changes


def _check_output_dir(cfg: CfgNode, *, resume: bool) -> list[str]:
    folder = Path(cfg.OUTPUT_DIR)
    # A fresh run needs an empty folder.
    checkpoints = sorted(path.name for path in (*folder.glob("last_checkpoint"), *folder.glob("model_*.pth")))
    if not checkpoints:
        return []
    if not resume:
        raise ValueError(
            f"OUTPUT_DIR {folder} holds the checkpoints of another run ({', '.join(checkpoints[:4])}"
            f"{', ...' if len(checkpoints) > 4 else ''}). Go on with that run: --resume. Start a new one elsewhere: "
            "OUTPUT_DIR another/folder. Or delete the folder first"
        )
    # A resumed run needs the model that is there.
    changes = _changed_keys(cfg, folder / "config.yaml")
    other = [key for key in changes if key in KEPT_KEYS or (key.startswith("MODEL.") and key not in FREE_MODEL_KEYS)]
    refused = [f"{key}: {changes[key]}" for key in other]
    if refused:
        lines = "\n  ".join(refused)
        raise ValueError(
            f"--resume in {folder}, but its checkpoints are of another model or optimizer; in its config.yaml -> now:"
            f"\n  {lines}\n"
            "Resume with the config of that run, or start a new one in another OUTPUT_DIR"
        )
    # And its data.
    saved = _data_of_last_checkpoint(folder)
    if saved is not None and (problem := other_data(cfg, _fingerprint(cfg), saved)):
        raise ValueError(problem)
    return [f"{key}: {text}" for key, text in changes.items()]


def other_data(cfg: CfgNode, now: DataFingerprint | None, saved: JsonView) -> str:
    """The refusal of a resumed run whose data sets have changed; "" where they have not.

    now: None: unknown. saved: what the checkpoint says of them.
    """
    if now is None or not (differences := now.differences(saved)):
        return ""
    return (
        f"--resume in {cfg.OUTPUT_DIR}, but its data have changed: {'; '.join(differences)}. Put the files back as "
        "they were, or start a new run in another OUTPUT_DIR (with MODEL.WEIGHTS: from this one's weights)"
    )


def _data_of_last_checkpoint(folder: Path) -> JsonView | None:
    """What the last checkpoint says of the run's data sets; None where it cannot be read, or says nothing.

    Where another checkpoint has to be taken instead, the trainer compares with that one.
    """
    try:
        name = (folder / "last_checkpoint").read_text().strip()
        return read_checkpoint(folder / name, mapped=True).get("trainer", {}).get("data")
    except (OSError, ValueError):
        return None


def _fingerprint(cfg: CfgNode) -> DataFingerprint | None:
    try:
        return DataFingerprint(cfg)
    except (OSError, ValueError, KeyError, AssertionError):  # missing: the checks of the data sets say it better
        return None


def _changed_keys(cfg: CfgNode, file: Path) -> dict[str, str]:
    """Key -> "old -> new" for every key that both a run's config.yaml and this config have, with other values.

    A file without one of KEPT_KEYS is of a run that began before there was that key.

    The file is written in place at every start, so a kill may have cut it short; then it is not compared.
    """
    if not file.is_file():
        return {}
    new = yaml.safe_load(cfg.dump())
    try:
        [(_, old)] = read_yaml_files(file)
    except ValueError as error:
        return {"config.yaml": f"not compared, {error}"}
    if not old.keys() >= new.keys():
        return {"config.yaml": "not compared, it lacks whole sections"}
    if not file.read_text(encoding="utf-8").endswith("\n"):
        return {"config.yaml": "not compared, it ends within a line"}
    before, now = KEPT_KEYS | dict(flatten(old)), dict(flatten(new))
    return {
        key: f"{before[key]!r} -> {now[key]!r}"
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key] and not key.startswith(IGNORED_KEYS)
    }


def log_changes(changes: list[str]) -> None:
    """One warning in the run's log, where a resumed run is not quite the one that was begun."""
    if changes:
        logger.warning(
            "This run goes on with another config than it began with; in its config.yaml -> now:\n  %s",
            "\n  ".join(changes),
        )


# ---------------------------------------------------------------------------------------------------- disk


def checkpoint_bytes(model: nn.Module, *, optimizer_states: int, average: bool) -> int:
    """About the size of a checkpoint.

    optimizer_states: tensors that the optimizer keeps per trained parameter. average: EMA weights are kept too.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return weights * (2 if average else 1) + trained * optimizer_states


def check_disk_space(cfg: CfgNode, model: nn.Module, *, free_bytes: int | None = None) -> None:
    """Compare the free space with what the run will write.

    free_bytes: None: what OUTPUT_DIR's file system says to the main process.
    OSError: not even one checkpoint fits (it is written beside the older ones); on every rank. A warning: not all.
    """
    # What one checkpoint takes.
    states = STATES_PER_PARAMETER.get(cfg.SOLVER.OPTIMIZER, 0)
    if cfg.SOLVER.OPTIMIZER == "SGD" and not cfg.SOLVER.MOMENTUM:
        states = 0
    size = checkpoint_bytes(model, optimizer_states=states, average=cfg.SOLVER.EMA_DECAY > 0)
    # What is free.
    folder = Path(cfg.OUTPUT_DIR).absolute()
    if free_bytes is None:
        existing = next(path for path in (folder, *folder.parents) if path.is_dir())
        free_bytes = shutil.disk_usage(existing).free
    free_bytes = comm.all_gather(free_bytes)[0]
    text = f"a checkpoint of this run takes about {size / 1e6:.0f} MB, and OUTPUT_DIR {folder} has {{}} MB free"
    if free_bytes < size:
        raise OSError(errno.ENOSPC, text.format(f"{free_bytes / 1e6:.0f}") + "; free some space, or choose another one")
    # What all of them take.
    periodic = -(-cfg.SOLVER.MAX_ITER // cfg.SOLVER.CHECKPOINT_PERIOD)
    kept = min(cfg.SOLVER.KEEP_CHECKPOINTS or periodic, periodic)
    there = sum(path.stat().st_size for path in folder.glob("*.pth"))
    if comm.is_main_process() and free_bytes + there < (kept + 3) * size:  # final, best, and one beside them
        logger.warning(
            "Little disk space: %s; up to %d will be kept (SOLVER.KEEP_CHECKPOINTS, model_best, model_final)",
            text.format(f"{free_bytes / 1e6:.0f}"),
            kept + 2,
        )
