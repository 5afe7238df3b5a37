"""Predictions as files, written while a data set is evaluated: label pictures, overlays, a server's archive.

Under the folder that is given, usually OUTPUT_DIR/inference:

    labels/NAME.png         palette picture: its index is the label 0..K-1, its colours are the data set's
    overlays/NAME.jpg       the image with its labels' colours over it
    submission/, submission.zip or .tar.gz      what the data set's test server takes, see `submission`

NAME is the image's path within the folder of all images of the data set, without suffix: Cityscapes has a folder a
city, most data sets have none. Every process writes the files of its images, to a file system that all share; the main
one makes the archive of them. Files of an earlier run are replaced.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from scaleeq.engine import DatasetCatalog, DatasetEvaluator, MetadataCatalog, comm
from scaleeq.pictures import blend, write_jpeg, write_labels

from .argmax import predicted_labels
from .parts import ModelOutput, Sample
from .submission import SubmissionFiles

KINDS = ("labels", "overlays", "submission")

logger = logging.getLogger(__name__)


def output_writers(
    kinds: Sequence[str], dataset_name: str, output_dir: str | Path, *, image_format: str = "RGB"
) -> list[DatasetEvaluator]:
    """Evaluators that write what TEST.OUTPUT names; they have no results.

    kinds: any of "labels", "overlays", "submission".
    output_dir: a folder of this data set alone, or of data sets whose images have different names.
    image_format: order of the channels of samples' images, INPUT.FORMAT.
    ValueError: an unknown kind; a submission of a data set without a test server.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"TEST.OUTPUT holds {unknown}, valid are {KINDS}")
    if not kinds:
        return []
    makers: dict[str, Callable[[str, str | Path], Output]] = {
        "labels": LabelPictures,
        "overlays": functools.partial(Overlays, image_format=image_format),
        "submission": SubmissionFiles,
    }
    outputs = [makers[kind](dataset_name, output_dir) for kind in dict.fromkeys(kinds)]
    return [PredictionWriter(dataset_name, outputs)]


def prediction_names(dataset_name: str) -> dict[str, str]:
    """An image's file_name -> NAME of its prediction, for all images of a data set.

    ValueError: two images that differ in their suffix alone.
    """
    files = [str(record["file_name"]) for record in DatasetCatalog.get(dataset_name)]
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    if files and MetadataCatalog.get(dataset_name).get("family") == "cityscapes":
        root = os.path.commonpath([root, os.path.dirname(os.path.dirname(files[0]))])  # with one city, too
    names = {file: os.path.splitext(os.path.relpath(file, root))[0] for file in files}
    first: dict[str, str] = {}
    for file, name in names.items():
        if (other := first.setdefault(name, file)) != file:
            raise ValueError(f"{dataset_name}: predictions of {other} and {file} would have the same name, {name}")
    return names


class Output(Protocol):
    """One kind of files."""

    def write(self, name: str, labels: np.ndarray, sample: Sample) -> None:
        """Write an image's file. name: of `prediction_names`. labels: (H, W) uint8."""

    def finish(self, names: Sequence[str], missing: Sequence[str]) -> None:
        """Called on every process when all have written.

        names: of all files that any process has written; missing: those of the data set that nobody has.
        """


class PredictionWriter(DatasetEvaluator):
    """Writes the prediction of each image in several ways; has no results."""

    labels_suffice = True

    def __init__(self, dataset_name: str, outputs: Sequence[Output]) -> None:
        self.dataset_name = dataset_name
        self.outputs = outputs
        self._names: dict[str, str] | None = None
        self.reset()

    def reset(self) -> None:
        """Start again; files of before stay until they are replaced."""
        self._written: list[str] = []

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Write the files of a batch.

        inputs: samples with "file_name". outputs: "sem_seg": (K, H, W) scores.
        ValueError: an image that is not of the data set; a prediction of another size than its image.
        FloatingPointError: scores that are not finite.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            file = str(sample["file_name"])
            if file not in self.names:
                raise ValueError(f"{file} is not an image of {self.dataset_name}")
            labels = predicted_labels(output, file)
            size = (sample.get("height", labels.shape[0]), sample.get("width", labels.shape[1]))
            if labels.shape != size:
                raise ValueError(f"the prediction of {file} is {labels.shape} (height, width), the image {size}")
            for each in self.outputs:
                each.write(self.names[file], labels, sample)
            self._written.append(self.names[file])

    def evaluate(self) -> None:
        """Finish on all processes: archives are made of the files of all."""
        written = sorted({name for part in comm.all_gather(self._written) for name in part})
        missing = sorted(set(self.names.values()).difference(written))
        for each in self.outputs:
            each.finish(written, missing)

    @property
    def names(self) -> dict[str, str]:
        """An image's file_name -> the name of its files."""
        if self._names is None:
            self._names = prediction_names(self.dataset_name)
        return self._names


class _Pictures:
    """Pictures of their own, in a folder that is called as their kind."""

    kind: str
    words: str  # for them, in the log

    def __init__(self, dataset_name: str, output_dir: str | Path) -> None:
        self.folder = Path(output_dir) / self.kind
        self.colors = MetadataCatalog.get(dataset_name).stuff_colors

    def finish(self, names: Sequence[str], missing: Sequence[str]) -> None:
        """Say where they are."""
        if comm.is_main_process():
            logger.info("%d %s in %s", len(names), self.words, self.folder)


class LabelPictures(_Pictures):
    """labels/NAME.png."""

    kind, words = "labels", "label pictures"

    def write(self, name: str, labels: np.ndarray, sample: Sample) -> None:
        """labels: (H, W) uint8."""
        write_labels(self.folder / f"{name}.png", labels, self.colors)


class Overlays(_Pictures):
    """overlays/NAME.jpg: labels over the image as the model saw it, at the original's size."""

    kind = words = "overlays"

    def __init__(self, dataset_name: str, output_dir: str | Path, *, image_format: str = "RGB") -> None:
        """image_format: "RGB" or "BGR", of the samples' images."""
        super().__init__(dataset_name, output_dir)
        self.image_format = image_format

    def write(self, name: str, labels: np.ndarray, sample: Sample) -> None:
        """labels: (H, W) uint8. sample: "image": (3, h, w) uint8."""
        channels = np.asarray(sample["image"])
        image = np.ascontiguousarray((channels if self.image_format == "RGB" else channels[::-1]).transpose(1, 2, 0))
        write_jpeg(self.folder / f"{name}.jpg", blend(image, labels, self.colors))
