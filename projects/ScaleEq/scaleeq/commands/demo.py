"""A page in the browser to try a model: drop a photo, see the prediction and the scales of its branches.

    scaleeq demo                                            of camvid/uper_lite0, whose weights come with the package
    scaleeq demo NAME_OR_CONFIG --weights model_final.pth
    scaleeq demo run/config.yaml --weights run/model_final.pth --port 8080 --host 0.0.0.0

A name of `scaleeq models` that has weights needs no --weights; KEY VALUE pairs of the config go last. The page is
served on this machine alone, unless --host says otherwise, until Ctrl-C. Needs gradio: pip install 'scaleeq[demo]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scaleeq import console

from .words import is_key, one_name, refuse_early, refuse_weights

STOPPED = "stopped"
DEFAULT = "camvid/uper_lite0"


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s [NAME_OR_CONFIG] [options] [KEY VALUE ...]"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="", metavar="FILE", help="default: MODEL.WEIGHTS of the config")
    parser.add_argument("--dataset", default="", metavar="NAME", help="whose classes the labels are")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines, too")
    parser.add_argument("--port", type=int, default=0, help="default: the first free one from 7860 on")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_intermixed_args(argv)
    words = arguments.words if arguments.words and not is_key(arguments.words[0]) else [DEFAULT, *arguments.words]
    arguments.config, arguments.opts = one_name(words, what="NAME_OR_CONFIG")
    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port is {arguments.port}; it lies in 1 to 65535")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    refuse_weights(arguments.config, refuse_early(arguments.config, arguments.opts), arguments.weights)
    from scaleeq.extras import require

    require("gradio", why="scaleeq demo needs gradio: ")
    from scaleeq.engine import load_config
    from scaleeq.reports.demo import Demo, build_page, launch
    from scaleeq.training import choose_device
    from scaleeq.zoo import weights_of

    cfg = load_config(arguments.config, arguments.opts)
    choose_device(cfg)
    demo = Demo(cfg, weights_of(arguments.config, cfg, arguments.weights), dataset_name=arguments.dataset)
    page = build_page(demo, title=arguments.config)
    address = launch(page, host=arguments.host, port=arguments.port, block=False)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
