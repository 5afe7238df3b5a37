"""What several commands' words have in common: where names end and KEY VALUE pairs begin, and that both are right."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaleeq.config.detection import other_training
from scaleeq.config.parts import config_files, list_configs
from scaleeq.files import require_checkpoint
from scaleeq.zoo import read_table, weights_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # of a config


def positive(text: str) -> int:
    """The type of an option: a number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def counting(text: str) -> int:
    """The type of an option: a number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def is_key(word: str) -> bool:
    """Whether a word has the form of a config's key."""
    return bool(KEY.fullmatch(word))


def split_at_key(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first key, and the KEY VALUE pairs from there on."""
    at = next((at for at, word in enumerate(words) if is_key(word)), len(words))
    return list(words[:at]), list(words[at:])


def one_name(words: Sequence[str], *, given: str = "", what: str) -> tuple[str, list[str]]:
    """The one name among a command's words, and the KEY VALUE pairs after it.

    given: by an option, instead of the first word. what: it is, for the message. ValueError: none, or several.
    """
    names, opts = split_at_key(words)
    names = [*filter(None, [given]), *names]
    if len(names) != 1:
        raise ValueError(f"give one {what}; got {' '.join(names) or 'none'}")
    return names[0], opts


def refuse_early(config: str, opts: Sequence[object]) -> CfgNode:
    """Raise what is wrong with a config's name, its keys and values, before torch is loaded: the name even before YAML.

    Returns the config, as read_config does.
    FileNotFoundError, KeyError, ValueError: as load_config has them; ValueError: a detector of Detectron2's.
    """
    if config:
        config_files(config)
    from scaleeq.engine import is_detectron2_chosen
    from scaleeq.engine.config_io import read_config

    cfg = read_config(config, opts)
    architecture = cfg.MODEL.META_ARCHITECTURE
    if reason := other_training(config, architecture, list_configs(), has_detectron2=is_detectron2_chosen()):
        raise ValueError(reason if config else "give a config's name or path; scaleeq models lists the names")
    return cfg


def refuse_weights(config: str, cfg: CfgNode, weights: str = "", *, needed: bool = True) -> None:
    """Raise that there is no file of weights, before torch is loaded.

    cfg: of the config. weights: of --weights, instead of MODEL.WEIGHTS. needed: a model without any is refused, too.
    FileNotFoundError: no such file; ValueError: none is named, and the name has none.
    """
    if path := weights or cfg.MODEL.WEIGHTS:
        require_checkpoint(path, key="--weights" if weights else "MODEL.WEIGHTS")
    elif needed and config not in read_table():
        weights_of(config, cfg)  # raises


def refuse_missing(paths: Sequence[str]) -> None:
    """FileNotFoundError: some of the files and folders are not there; names them."""
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise FileNotFoundError(f"there is no file or folder {', '.join(missing)}")


def refuse_detectors(config: str, opts: Sequence[object], *, why: str) -> None:
    """ValueError: the config is of a detector. why: what the command does not do with one, and the way out."""
    from scaleeq.engine.config_io import read_config

    tasks = list(read_config(config, opts).MODEL.TASKS.NAMES)
    if "instances" in tasks:
        raise ValueError(f"MODEL.TASKS.NAMES of {config} is {tasks}: {why}")


def refuse_no_folder(path: str) -> None:
    """FileNotFoundError: there is no such folder."""
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is no folder {os.path.abspath(path)}")


def shortened(config: str, opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The KEY VALUE pairs of a run, and what was added to them where it is shorter than its config says: in words.

    A MAX_ITER below the config's own has a warm-up that fits it, a tenth, and expects no results: those of the config
    are of the whole schedule. Whoever gives these keys has them as given.
    """
    from scaleeq.engine.config_io import read_config

    given, added = dict(zip(opts[::2], opts[1::2], strict=False)), list(opts)
    told: list[str] = []
    whole, run = read_config(config), read_config(config, opts)
    length = run.SOLVER.MAX_ITER
    if "SOLVER.MAX_ITER" not in given or not 0 < length < whole.SOLVER.MAX_ITER:
        return added, told
    why = f"SOLVER.MAX_ITER is {length} instead of {whole.SOLVER.MAX_ITER}"
    if "SOLVER.WARMUP_ITERS" not in given and (warmup := length // 10) < run.SOLVER.WARMUP_ITERS:
        added += ["SOLVER.WARMUP_ITERS", str(warmup)]
        told.append(f"{why}: SOLVER.WARMUP_ITERS is {warmup} instead of {run.SOLVER.WARMUP_ITERS}")
    if "TEST.EXPECTED_RESULTS" not in given and run.TEST.EXPECTED_RESULTS:
        added += ["TEST.EXPECTED_RESULTS", "[]"]
        told.append(f"{why}: TEST.EXPECTED_RESULTS, of the whole schedule, are not compared")
    return added, told
