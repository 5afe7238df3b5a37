"""Draw what a model sees: image, truth, prediction, error and legend; gates, alignments and features too.

    python tools/visualize.py --config-file run/config.yaml --weights run/model_final.pth photo.jpg holiday/
    python tools/visualize.py --config-file C --weights W --dataset camvid_sem_seg_val --num 8 --maps features
    python tools/visualize.py --predictions output/labels --dataset ade20k_150_val --num 20

Give files and folders, or --dataset, and KEY VALUE pairs of the config last. Each image gets OUTPUT/sheets/NAME.png,
and OUTPUT/<kind>/NAME.png for each of --maps; OUTPUT/index.html shows all of them. Files from before are replaced.
Exit code: 0 all is drawn, 1 some images cannot be read (they are named), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaleeq import console
from scaleeq.files import require_writable

from .words import refuse_early, refuse_missing, refuse_no_folder, refuse_weights

if TYPE_CHECKING:
    from scaleeq.reports.pictures.sources import ModelPredictions, StoredPredictions

STOPPED = "stopped; the sheets so far are whole, index.html is not of this run"
MAPS = ("gates", "alignment", "features")


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE_OR_FOLDER")
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", metavar="FILE", help="of the model; a run's config.yaml, for example")
    parser.add_argument("--weights", metavar="FILE", help="default: MODEL.WEIGHTS of the config")
    parser.add_argument("--predictions", metavar="DIR", help="label pictures, NAME.png, instead of a model")
    parser.add_argument("--dataset", default="", metavar="NAME", help="a data set instead of files, with its truth")
    parser.add_argument("--num", type=int, default=0, metavar="N", help="N of its images, evenly; default: all")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="these of its images")
    parser.add_argument("--maps", nargs="+", default=[], metavar="KIND", help=f"of {', '.join(MAPS)}")
    parser.add_argument("--output", type=Path, default=Path("output/visualize"), metavar="DIR")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_intermixed_args(argv)
    images_and_options(arguments)
    check(arguments)
    return arguments


def images_and_options(arguments: argparse.Namespace) -> None:
    """Split the words into images and KEY VALUE pairs, also those that --maps and --names have swallowed."""
    from scaleeq.engine.config_io import default_config

    keys = default_config()

    def cut(words: list[str], is_end: Callable[[str], bool]) -> tuple[list[str], list[str]]:
        at = next((at for at, word in enumerate(words) if is_end(word)), len(words))
        return words[:at], words[at:]

    def is_key(word: str) -> bool:
        return word.split(".")[0] in keys

    maps, after_maps = cut(arguments.maps, lambda word: is_key(word) or os.path.exists(word))
    names, after_names = cut(arguments.names, is_key)
    arguments.maps, arguments.names = list(dict.fromkeys(maps)), names
    arguments.images, arguments.opts = cut([*arguments.images, *after_maps, *after_names], is_key)


def check(arguments: argparse.Namespace) -> None:
    """ValueError: what is asked for does not go together."""
    if bool(arguments.images) == bool(arguments.dataset):
        raise ValueError("give either images and folders, or --dataset NAME")
    if not arguments.dataset and (arguments.num or arguments.names):
        raise ValueError("--num and --names choose images of a --dataset")
    if arguments.num < 0:
        raise ValueError(f"--num is {arguments.num}; it counts images")
    if unknown := [kind for kind in arguments.maps if kind not in MAPS]:
        raise ValueError(f"--maps has {', '.join(unknown)}; choose of {', '.join(MAPS)}")
    if arguments.predictions:
        if not arguments.dataset:
            raise ValueError("--predictions needs --dataset NAME, which says what the labels are")
        if arguments.config_file or arguments.weights or arguments.maps or arguments.opts:
            raise ValueError("--predictions is instead of a model: leave out --config-file, --weights, --maps and keys")
    elif not arguments.config_file:
        raise ValueError("give --config-file and --weights, or --predictions DIR")


def refuse_places(arguments: argparse.Namespace, files: Sequence[str]) -> None:
    """Raise what is wrong with the config, and with the places that are named, before torch is loaded."""
    early = refuse_early(arguments.config_file, arguments.opts) if arguments.config_file else None
    refuse_missing(files)
    if early is not None:
        refuse_weights(arguments.config_file, early, arguments.weights or "", needed=not arguments.dataset)
    if arguments.predictions:
        refuse_no_folder(arguments.predictions)
    require_writable(arguments.output, folder=True, key="--output")


def run(arguments: argparse.Namespace) -> int:
    refuse_places(arguments, arguments.images)
    from scaleeq.data import find_dataset
    from scaleeq.reports.pictures.sources import dataset_images, picture_files
    from scaleeq.reports.pictures.writing import write_sheets

    if arguments.dataset:
        find_dataset(arguments.dataset)
        images = dataset_images(arguments.dataset, num=arguments.num, only=arguments.names)
    else:
        images = picture_files(arguments.images, leave_out=arguments.output)
    look = predictions(arguments, images)
    title = f"{arguments.dataset or 'Images'}: {arguments.predictions or arguments.weights}"
    faults = write_sheets(images, look, look.classes, arguments.output, kinds=arguments.maps, title=title)
    print(f"{len(images) - len(faults)} of {len(images)} images drawn: {arguments.output / 'index.html'}")
    return 1 if faults else 0


def predictions(arguments: argparse.Namespace, images: dict) -> ModelPredictions | StoredPredictions:
    """Where predictions come from."""
    from scaleeq.engine import load_config
    from scaleeq.reports.pictures.sources import ModelPredictions, StoredPredictions
    from scaleeq.training import choose_device
    from scaleeq.zoo import weights_of

    if arguments.predictions:
        everything = not (arguments.num or arguments.names)
        return StoredPredictions(arguments.predictions, arguments.dataset, images, all_images=everything)
    cfg = load_config(arguments.config_file, arguments.opts)
    choose_device(cfg)
    weights = weights_of(arguments.config_file, cfg, arguments.weights or "")
    return ModelPredictions(cfg, weights, dataset_name=arguments.dataset, kinds=arguments.maps)
