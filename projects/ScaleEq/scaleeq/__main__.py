"""The console: `scaleeq VERB ...`, and `python -m scaleeq VERB ...`. One table of verbs; the verb reads its own words.

Needs the standard library alone, and so does every verb until its words are read: a mistake, and --help, take no time.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from scaleeq import __version__, console
from scaleeq.choices import one_of
from scaleeq.commands import start

# A verb, the module of scaleeq.commands that does it, and what it does.
VERBS = {
    "train": ("train", "train what a config describes, or evaluate it (--eval-only)"),
    "eval": ("evaluate", "evaluate a model, or label pictures that any framework has written"),
    "predict": ("predict", "draw what a model sees in photos, videos or a data set"),
    "demo": ("demo", "a page in the browser to try a model on photos"),
    "analyze": ("analyze", "the scales of a config's branches, or what a run has learned"),
    "compare": ("compare", "variants of a config over several seeds, and what their differences are worth"),
    "data check": ("check_data", "say what is wrong with data sets, and what to do"),
    "data prepare": ("prepare_data", "convert labels that are no pictures"),
    "benchmark": ("benchmark", "parameters and multiply-adds of configs, or their time and memory"),
    "export": ("export", "write a trained model as ONNX, .pt2 or TorchScript, checked"),
    "models": ("models", "the names of models, their weights and what was measured with them"),
    "config": ("show_config", "print what a config's name and its overlays stand for"),
    "engine": ("engine", "which training engine runs here, its versions and devices"),
}
GROUPS = sorted({verb.split()[0] for verb in VERBS if " " in verb})


def main() -> NoReturn:
    """Run the verb of this process's words, and end it with its exit code."""
    console.start()
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        try:
            verb, rest = find_verb(words)
        except ValueError as error:
            sys.exit(console.tell(error))
        start(VERBS[verb][0], rest, prog=f"scaleeq {verb}")
    parser = overview()
    parser.parse_args(words)
    parser.error("give a verb")


def find_verb(words: list[str]) -> tuple[str, list[str]]:
    """The verb that the words begin with, and the words after it. ValueError: there is none of that name."""
    group, *rest = words
    if group not in GROUPS:
        known = dict.fromkeys(verb.split()[0] for verb in VERBS)
        return one_of(group, known, key="the verb of scaleeq"), rest
    members = [verb.split()[1] for verb in VERBS if verb.startswith(f"{group} ")]
    if rest[:1] and rest[0] in ("-h", "--help"):
        overview().print_help()
        sys.exit(0)
    member = one_of(rest[0] if rest else "", members, key=f"the verb after scaleeq {group}")
    return f"{group} {member}", rest[1:]


def overview() -> argparse.ArgumentParser:
    """What is read where no verb is given."""
    width = max(map(len, VERBS))
    lines = [f"    scaleeq {verb:{width}}  {what}" for verb, (_, what) in VERBS.items()]
    text = "\n".join(
        ("Multi-level feature fusion for dense prediction.", "", *lines, "", "scaleeq VERB --help says more.")
    )
    parser = console.parser(text)
    parser.prog, parser.usage = "scaleeq", "scaleeq VERB ..."
    parser.add_argument("--version", action="version", version=f"scaleeq {__version__}")
    return parser


if __name__ == "__main__":
    main()
