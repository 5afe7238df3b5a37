"""Draw what a model sees in photos, or in the images of a data set: image, truth, prediction, error and legend.

    scaleeq predict NAME_OR_CONFIG --weights model_final.pth photo.jpg holiday/
    scaleeq predict run/config.yaml --weights W --dataset camvid_sem_seg_val --num 8 --maps features
    scaleeq predict --predictions output/labels --dataset ade20k_150_val --num 20

Give files and folders, or --dataset, and KEY VALUE pairs of the config last. Each image gets OUTPUT/sheets/NAME.png,
and OUTPUT/<kind>/NAME.png for each of --maps; OUTPUT/index.html shows all of them. Files from before are replaced.
Exit code: 0 all is drawn, 1 some images cannot be read (they are named), 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scaleeq import console

from . import visualize

STOPPED = visualize.STOPPED
run = visualize.run


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s NAME_OR_CONFIG [options] [PHOTO_OR_FOLDER ...] [KEY VALUE ...]"
    parser.add_argument("images", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--sheet", action="store_true", help="what is drawn; there is no other form yet")
    visualize.add_options(parser)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The words; the first one is the config, unless --config-file or --predictions stand in its place."""
    arguments = parser.parse_intermixed_args(argv)
    visualize.images_and_options(arguments)
    if arguments.images and not (arguments.config_file or arguments.predictions):
        arguments.config_file = arguments.images.pop(0)
    visualize.check(arguments)
    return arguments
