"""load_config: YAML files and KEY VALUE pairs into one config, safely, with errors that say where and what instead.

Source: the _BASE_ key of fvcore's config (a path, or a list of paths, relative to the file; here names too). Results
are those of Detectron2's merge_from_file and merge_from_list. Deviations: python tags and keys given twice are refused;
an error names file, key, value and the nearest valid keys; a file of another config VERSION is refused, not converted;
paths are local.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from scaleeq.choices import flatten, nearest
from scaleeq.config import add_scaleeq_config, check_config, config_files
from scaleeq.config.parts import section
from scaleeq.records import Json

from . import is_detectron2_chosen
from .standalone.config import get_cfg as standalone_cfg

if TYPE_CHECKING:
    from . import CfgNode

Tree = Json  # of a YAML file
BASE_KEY = "_BASE_"


def load_config(path: str | Path | None, opts: Sequence[object] = (), *, base: CfgNode | None = None) -> CfgNode:
    """The config of a file over the defaults, then the overrides; not frozen.

    path: a YAML file, or a config's name, each with +overlays (None or "": none);
    opts: KEY VALUE KEY VALUE ..., each value as text or of the right type;
    base: the defaults, left as they are (None: Detectron2's keys and ScaleEq's).
    Raises FileNotFoundError, KeyError for unknown keys, ValueError for all else that is wrong with a file or a pair,
    and for values that cannot be meant (scaleeq.config).
    """
    if base is None:
        from . import get_cfg  # chooses the engine, and loads torch

        base = get_cfg()
        add_scaleeq_config(base)
    cfg = base.clone()
    cfg.defrost()
    # Files, bases first.
    for part in config_files(path) if path else ():
        for file, tree in read_yaml_files(part):
            for key, value in _leaves(tree, cfg):
                _set(cfg, key, value, str(file))
    # Overrides win.
    if len(opts) % 2:
        late = "; options such as --resume go before them" if any(str(word).startswith("--") for word in opts) else ""
        raise ValueError(
            f"overrides come in pairs KEY VALUE{late}, but there are {len(opts)} words: {' '.join(map(str, opts))}"
        )
    for word, value in zip(opts[::2], opts[1::2], strict=True):
        _set(cfg, str(word), value, "command line")
    check_config(cfg, base)
    return cfg


def default_config() -> CfgNode:
    """Detectron2's keys and ScaleEq's, of the standalone side: without torch, and without choosing an engine."""
    cfg = standalone_cfg()
    add_scaleeq_config(cfg)
    return cfg


def read_config(path: str | Path | None, opts: Sequence[object] = ()) -> CfgNode:
    """load_config without torch, as a tree of the standalone side.

    Raises as load_config. A key that Detectron2 0.6 does not have is looked for in the Detectron2 that is here, which
    loads it: one of its own kind may have more.
    """
    try:
        return load_config(path, opts, base=default_config())
    except KeyError:
        if not is_detectron2_chosen():
            raise
        return load_config(path, opts)


def read_yaml_files(path: Path, _children: tuple[Path, ...] = ()) -> Iterator[tuple[Path, Tree]]:
    """A file's trees in the order in which they count: its bases first, each with the file that it stands in."""
    path = path.resolve()
    if path in _children:
        raise ValueError(
            f"{_children[-1]}: {BASE_KEY} goes round in a circle: {' -> '.join(map(str, (*_children, path)))}"
        )
    tree = _parse(path)
    bases = tree.pop(BASE_KEY, None) or []
    for name in bases if isinstance(bases, list) else [bases]:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {BASE_KEY} is a path or a list of paths, not {bases!r}")
        try:
            files = config_files(name, path.parent)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}, the {BASE_KEY} of {path}") from error
        for file in files:
            yield from read_yaml_files(file, (*_children, path))
    yield path, tree


class _Loader(yaml.SafeLoader):
    """The safe loader, which takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    "a mapping", node.start_mark, f"has the key {key_node.value!r} twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> Tree:
    path, name = section(path)
    with path.open(encoding="utf-8") as file:
        try:
            tree = yaml.load(file, Loader=_Loader)  # a subclass of the safe one
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not a config in plain YAML: it is no text in UTF-8 ({error.reason}); save it as UTF-8"
            ) from error
        except yaml.YAMLError as error:
            hint = "; python tags are not read: write plain values" if "tag:yaml.org,2002:python" in str(error) else ""
            said = " ".join(str(error).split())  # of several lines
            raise ValueError(f"{path} is not a config in plain YAML: {said}{hint}") from error
    if name:
        tree = tree[name]
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, not keys with values")
    return tree


def _leaves(tree: Tree, node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(full key, value) of every value that is not itself a section of the config."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        section = node.get(name)
        if isinstance(value, dict) and isinstance(section, type(node)):
            yield from _leaves(value, section, f"{key}.")
        else:
            yield key, value


def _set(cfg: CfgNode, key: str, value: object, source: str) -> None:
    """Sets one value, converted as Detectron2 does (literals in strings, list to tuple and back)."""
    known = dict(flatten(cfg, sections=True))
    if key not in known:
        raise KeyError(f"{source}: there is no config key {key!r}{_nearest(key, list(known))}")
    old = known[key]
    if isinstance(old, type(cfg)):
        raise ValueError(f"{source}: {key} is a section with keys {', '.join(old)}; it cannot be {value!r}")
    if key == "VERSION" and value != old:
        raise ValueError(f"{source}: config VERSION {value!r} cannot be read, only {old}")
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, AssertionError) as error:
        given = cfg._decode_cfg_value(value)
        raise ValueError(
            f"{source}: {key} is of type {type(old).__name__} (now {old!r}) and cannot be {given!r}, "
            f"of type {type(given).__name__}{_instead(given, old)}"
        ) from error


def _instead(given: object, old: object) -> str:
    """ "; write ..." where a value of another type than `old` looks like one of that type."""
    text = str(given).strip()
    written = ""
    if isinstance(old, bool):
        written = {"true": "True", "yes": "True", "on": "True", "1": "True"}.get(text.lower(), "")
        written = written or {"false": "False", "no": "False", "off": "False", "0": "False"}.get(text.lower(), "")
    elif text.lower() in ("none", "null", "~"):
        written = "None" if old is None else ""
    elif isinstance(old, float) and isinstance(given, int):
        written = str(float(given))
    elif isinstance(old, (int, float)) and re.fullmatch(r"-?\d+,\d+", str(given)):  # a decimal comma
        written = text.replace(",", ".") if isinstance(old, float) else ""
    elif isinstance(old, int) and isinstance(given, float) and given.is_integer():
        written = str(int(given))
    elif isinstance(old, (list, tuple)) and not isinstance(given, dict):
        entries = [entry.strip(" '\"") for entry in text.strip("[]()").split(",")]
        written = f'"{[_literal(entry) for entry in entries if entry]}"'
    elif isinstance(old, str) and isinstance(given, bool):
        return "; in YAML off, on, yes and no are truth values: write it in quotes, as 'off'"
    elif isinstance(old, str) and not isinstance(given, dict):
        written = f"\"'{text}'\""
    return f"; write {written}" if written else ""


def _literal(text: str) -> object:
    try:
        return yaml.safe_load(text) if re.fullmatch(r"[-+.\de]+", text) else text
    except yaml.YAMLError:
        return text


def _nearest(key: str, known: list[str]) -> str:
    """ ", did you mean ...?" with up to four keys: those of the same last word, then those that look alike."""
    if key.startswith("--"):
        return ": options go before the pairs KEY VALUE"
    last_word = key.rpartition(".")[2]
    same_word = [name for name in known if name.rpartition(".")[2] == last_word]
    near = nearest(key, same_word, count=4, cutoff=0.0) + nearest(key, known, count=3)
    near = list(dict.fromkeys(near))[:4]
    return f"; did you mean {', '.join(near)}?" if near else ""
