"""A video, or what a webcam sees, with the prediction over each frame, as a video again. By OpenCV.

The file is written beside its place and then renamed. Sound is not taken over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from scaleeq.data.sets.catalog import Record
from scaleeq.files import replacing
from scaleeq.pictures import write_labels

from .progress import watched
from .sheets import Classes, Seen, overlay

logger = logging.getLogger(__name__)

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent; OpenCV reads it where it opens its first video
FRAMES_PER_SECOND = 25.0  # where a source does not say
CODEC = "mp4v"  # MPEG-4 part 2: in every build of OpenCV, and what players know


def write_video(
    source: str | int,
    look: Callable[[Record], Seen],
    classes: Classes,
    path: Path,
    *,
    num_frames: int = 0,
    masks: Path | None = None,
) -> str:
    """Write the video, and return what is wrong with its source, in words; empty: nothing.

    Args:
        source: a file, or the number of a webcam, which is read until Ctrl-C.
        look: of a record.
        path: of the video, whose ending names the container, such as .mp4.
        num_frames: at most so many frames; 0: all.
        masks: a folder for the labels of each frame, 000000.png, ...

    ValueError: a source of which not one frame can be read. OSError: the video cannot be written.
    """
    capture = _opened(source)
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if isinstance(source, str) else 0
    expected = min(announced, num_frames) if num_frames and announced > 0 else num_frames or max(announced, 0)
    written = 0
    with replacing(path) as part:
        draft = part.with_name(part.name + path.suffix)  # OpenCV chooses the container by the ending
        writer = None
        try:
            for number, frame in enumerate(watched(_frames(capture, num_frames), expected, unit="frames")):
                seen = look({"file_name": str(source), "image_id": number, "read_image": lambda frame=frame: frame})
                picture = overlay(seen, classes)
                writer = writer or _writer(draft, picture.shape, capture.get(cv2.CAP_PROP_FPS), path)
                writer.write(np.ascontiguousarray(picture[:, :, ::-1]))
                if masks is not None and seen.prediction is not None:
                    write_labels(masks / f"{number:06}.png", seen.prediction, classes.colors)
                written += 1
        except KeyboardInterrupt:
            if isinstance(source, str) or writer is None:
                raise
            expected = written  # a webcam has as many frames as its user wants
        finally:
            capture.release()
            if writer is not None:
                writer.release()
            if draft.exists():
                os.replace(draft, part)
        if writer is None:
            raise ValueError(f"{source}: there is not one frame in it that OpenCV can read")
    if written < expected:
        return f"{source}: it breaks off after {written} of {expected} frames"
    return ""


def _opened(source: str | int) -> cv2.VideoCapture:
    """The open source. ValueError: OpenCV cannot read it, in one line instead of its own."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        what = "a video that OpenCV can read" if isinstance(source, str) else "the number of a webcam"
        raise ValueError(f"{source}: it is not {what}")
    return capture


def _frames(capture: cv2.VideoCapture, limit: int) -> Iterator[np.ndarray]:
    """Frames: (H, W, 3) uint8 in RGB, at most so many; 0: all."""
    number = 0
    while not limit or number < limit:
        is_frame, frame = capture.read()
        if not is_frame:
            return
        yield np.ascontiguousarray(frame[:, :, ::-1])
        number += 1


def _writer(draft: Path, shape: tuple[int, ...], frames_per_second: float, path: Path) -> cv2.VideoWriter:
    """What frames of a shape (H, W, 3) are written with. OSError: OpenCV cannot write such a file."""
    rate = frames_per_second if 0 < frames_per_second < 1000 else FRAMES_PER_SECOND
    writer = cv2.VideoWriter(str(draft), cv2.VideoWriter_fourcc(*CODEC), rate, (shape[1], shape[0]))  # type: ignore[attr-defined]
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write a video here")
    return writer
