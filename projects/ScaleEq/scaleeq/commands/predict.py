"""Draw what a model sees in photos, videos, a webcam, or the images of a data set.

    scaleeq predict NAME_OR_CONFIG --weights model_final.pth photo.jpg holiday/
    scaleeq predict NAME_OR_CONFIG --weights W street.mp4 0 --frames 300     a video, and webcam number 0
    scaleeq predict run/config.yaml --weights W --dataset camvid_sem_seg_val --num 8 --maps features
    scaleeq predict --predictions output/labels --dataset ade20k_150_val --num 20
    scaleeq predict --model transformers:nvidia/segformer-b0-finetuned-ade-512-512 photo.jpg
    scaleeq predict --model smp:runs/unet photo.jpg

Give files and folders, or --dataset, and KEY VALUE pairs of the config last; a name of `scaleeq models` that has
weights needs no --weights. Each image gets OUTPUT/sheets/NAME.png (image, truth, prediction, error and legend), and on
demand masks/, overlays/ and a folder for each of --maps; OUTPUT/index.html shows all of them. A video becomes
OUTPUT/videos/NAME.mp4, with the prediction over each frame. Files from before are replaced.
Exit code: 0 all is drawn, 1 some images or videos cannot be read (they are named), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleeq import console
from scaleeq.choices import one_of

from . import visualize

if TYPE_CHECKING:
    from scaleeq.reports.pictures.sources import Named

STOPPED = "stopped; the pictures so far are whole, index.html is not of this run"
LIBRARIES = ("transformers", "smp")  # of --model
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s NAME_OR_CONFIG [options] [PHOTO_FOLDER_VIDEO_OR_WEBCAM ...] [KEY VALUE ...]"
    parser.add_argument("images", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--sheet", action="store_true", help="draw sheets beside --masks or --overlays, too")
    parser.add_argument("--masks", action="store_true", help="labels as palette pictures; of videos, frame by frame")
    parser.add_argument("--overlays", action="store_true", help="the prediction over the image, at its size")
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="at most N of a video; default: all")
    parser.add_argument(
        "--model", default="", metavar="LIBRARY:PLACE", help="transformers:... or smp:..., for a config"
    )
    visualize.add_options(parser)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The words; the first one is the config, unless --config-file, --predictions or --model stand in its place."""
    arguments = parser.parse_intermixed_args(argv)
    visualize.images_and_options(arguments)
    if arguments.images and not (arguments.config_file or arguments.predictions or arguments.model):
        arguments.config_file = arguments.images.pop(0)
    check(arguments)
    return arguments


def check(arguments: argparse.Namespace) -> None:
    """ValueError: what is asked for does not go together."""
    if arguments.frames < 0:
        raise ValueError(f"--frames is {arguments.frames}; it counts frames")
    if arguments.frames and not any(map(is_video, arguments.images)):
        raise ValueError(f"--frames {arguments.frames} counts those of a video; name one, or a webcam's number")
    if not arguments.model:
        visualize.check(arguments)
        return
    one_of(arguments.model.partition(":")[0], LIBRARIES, key="the library of --model LIBRARY:PLACE")
    if arguments.config_file or arguments.weights or arguments.predictions or arguments.maps or arguments.opts:
        raise ValueError(
            "--model is of another library: leave out --config-file, --weights, --predictions, --maps and keys"
        )
    visualize.check(argparse.Namespace(**vars(arguments) | {"config_file": arguments.model}))


def run(arguments: argparse.Namespace) -> int:
    visualize.refuse_places(arguments, [word for word in arguments.images if not word.isdigit()])  # else a webcam
    from scaleeq.data import find_dataset
    from scaleeq.reports.pictures.sources import dataset_images, picture_files
    from scaleeq.reports.pictures.writing import write_sheets

    # What to look at.
    videos = [word for word in arguments.images if is_video(word)]
    images: Named = {}
    if arguments.dataset:
        find_dataset(arguments.dataset)
        images = dataset_images(arguments.dataset, num=arguments.num, only=arguments.names)
    elif paths := [word for word in arguments.images if word not in videos]:
        images = picture_files(paths, leave_out=arguments.output)
    look = predictions(arguments, images)
    # Images, then videos.
    faults: dict[str, str] = {}
    if images:
        written = [kind for kind in ("masks", "overlays") if getattr(arguments, kind)]
        written += ["sheets"] if arguments.sheet or not written else []
        title = f"{arguments.dataset or 'Images'}: {arguments.predictions or arguments.model or arguments.weights}"
        faults = write_sheets(
            images, look, look.classes, arguments.output, kinds=arguments.maps, written=written, title=title
        )
        print(f"{len(images) - len(faults)} of {len(images)} images drawn: {arguments.output / 'index.html'}")
    return 1 if write_videos(arguments, videos, look) + len(faults) else 0


def is_video(word: str) -> bool:
    """Whether a word names a video, or a webcam by its number."""
    return word.lower().endswith(VIDEO_SUFFIXES) or (word.isdigit() and not os.path.exists(word))


def predictions(arguments: argparse.Namespace, images: Named) -> Any:
    """Where predictions come from: a call (record) -> Seen, with its classes."""
    if not arguments.model:
        return visualize.predictions(arguments, images)
    from scaleeq.reports.pictures.other_models import OtherPredictions

    return OtherPredictions(arguments.model, dataset_name=arguments.dataset)


def write_videos(arguments: argparse.Namespace, videos: Sequence[str], look: Any) -> int:
    """Write each video's prediction, and say what cannot be read, a line each; returns how many those are."""
    if not videos:
        return 0
    import logging

    from scaleeq.reports.pictures.video import write_video

    num_faults = 0
    stems = [f"webcam{word}" if word.isdigit() else Path(word).stem for word in videos]
    for place, (word, stem) in enumerate(zip(videos, stems, strict=True)):
        name = stem if stems.count(stem) == 1 else f"{stem}-{place + 1}"
        path = arguments.output / "videos" / f"{name}.mp4"
        masks = arguments.output / "masks" / name if arguments.masks else None
        source = int(word) if word.isdigit() else word
        try:
            fault = write_video(source, look, look.classes, path, num_frames=arguments.frames, masks=masks)
            print(f"{word}: {path}")
        except (ValueError, OSError) as error:
            fault = str(error)
        if fault:
            logging.getLogger(__name__).error("%s", fault)
            num_faults += 1
    return num_faults
