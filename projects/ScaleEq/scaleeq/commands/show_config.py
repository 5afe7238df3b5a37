"""Print the config that a name or a path, its overlays and KEY VALUE pairs stand for.

    scaleeq config ade20k/uper_swin_tiny+scale_equalizer SOLVER.MAX_ITER 100
    scaleeq config NAME_OR_CONFIG --plain > config.yaml

All keys with their values, after a line for each file that they come from. --plain: what differs from the defaults, as
one file without _BASE_, which Detectron2's own loader reads after scaleeq.add_scaleeq_config.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from scaleeq import console
from scaleeq.config.parts import config_files

from .words import split_at_key

STOPPED = "stopped"

Tree = dict[str, object]


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s NAME_OR_CONFIG [--plain] [KEY VALUE ...]"
    parser.add_argument("--config-file", default="", metavar="C", help="instead of the first word")
    parser.add_argument("--plain", action="store_true", help="what differs from the defaults, for Detectron2's loader")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments, words = parser.parse_known_args(argv)  # a value may start with a minus
    names, arguments.opts = split_at_key(words)
    names = [*filter(None, [arguments.config_file]), *names]
    if len(names) != 1:
        parser.error(f"give one config's name or path, then KEY VALUE pairs; here are {len(names)}: {' '.join(names)}")
    (arguments.config_file,) = names
    return arguments


def run(arguments: argparse.Namespace) -> None:
    files = config_files(arguments.config_file)
    from scaleeq.engine.config_io import default_config, read_config

    cfg = read_config(arguments.config_file, arguments.opts)
    if arguments.plain:
        print(as_yaml({"VERSION": cfg.VERSION, **differences(cfg, default_config())}), end="")
        return
    for file in files:
        print(f"# {file}")
    print(as_yaml(differences(cfg, {})), end="")


def differences(cfg: Mapping[str, object], defaults: Mapping[str, Any]) -> Tree:
    """The part of a tree of keys whose values are not those of the defaults, as plain dicts."""
    found: Tree = {}
    for name, value in cfg.items():
        if isinstance(value, type(cfg)):
            if part := differences(value, defaults.get(name, {})):
                found[name] = part
        elif name not in defaults or value != defaults[name] or type(value) is not type(defaults[name]):
            found[name] = value
    return found


def as_yaml(tree: Tree) -> str:
    """The tree in plain YAML, in its own order; a value that stands in two places is written twice."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(tree, Dumper=Dumper, sort_keys=False)
