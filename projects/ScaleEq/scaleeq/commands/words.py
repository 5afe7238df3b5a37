"""What several commands' words have in common: where names end and KEY VALUE pairs begin, and that both are right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scaleeq.config.parts import config_files

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # of a config


def is_key(word: str) -> bool:
    """Whether a word has the form of a config's key."""
    return bool(KEY.fullmatch(word))


def split_at_key(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first key, and the KEY VALUE pairs from there on."""
    at = next((at for at, word in enumerate(words) if is_key(word)), len(words))
    return list(words[:at]), list(words[at:])


def refuse_early(config: str, opts: Sequence[object]) -> None:
    """Raise what is wrong with a config's name, its keys and values, before torch is loaded: the name even before YAML.

    FileNotFoundError, KeyError, ValueError: as load_config has them.
    """
    if config:
        config_files(config)
    from scaleeq.engine.config_io import read_config

    read_config(config, opts)
