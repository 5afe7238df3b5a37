"""Some images of an evaluation with what the model made of them, and a plain picture of them: no fonts, no plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from scaleeq.engine import CfgNode, DatasetEvaluator, MetadataCatalog
from scaleeq.evaluation.argmax import LABELS
from scaleeq.evaluation.parts import ModelOutput
from scaleeq.pictures import colorize, draw_segments, palette
from scaleeq.records import JsonView, RecordView
from scaleeq.tasks import Task, build_tasks
from scaleeq.tasks.views import TaskView

WIDTH = 320  # of one image in the picture, pixels


@dataclass(frozen=True)
class Example:
    """image: (h, w, 3) uint8 RGB, as the model saw it; prediction, truth: (H, W) uint8 labels; None: there is none.

    views: task -> its pictures, of other tasks than classes.
    """

    file_name: str
    image: np.ndarray
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None
    views: Mapping[str, TaskView] = field(default_factory=dict)


class ExampleCollector(DatasetEvaluator):
    """Keeps some of the images that it is shown, evenly from all of them; has no results.

    examples: one list for good, filled again by each evaluation.
    """

    labels_suffice = True

    def __init__(self, cfg: CfgNode, num: int, *, total: int) -> None:
        """total: images that will be shown."""
        self.tasks = build_tasks(cfg)
        self.is_bgr = cfg.INPUT.FORMAT != "RGB"
        self.examples: list[Example] = []
        self._chosen = {index * total // num for index in range(num)}
        self._index = 0

    def reset(self) -> None:
        self.examples.clear()
        self._index = 0

    def process(self, inputs: Sequence[RecordView], outputs: Sequence[ModelOutput]) -> None:
        """Of outputs that an evaluator has made labels of, as ours do; others are passed over.

        inputs: samples with "image": (3, h, w) uint8.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            if self._index in self._chosen:
                # To (H, W, 3) RGB.
                image, truth = np.asarray(sample["image"]), sample.get("sem_seg_truth")
                image = (image[::-1] if self.is_bgr else image).transpose(1, 2, 0).astype(np.uint8, order="C")
                views = task_views(self.tasks, sample, output, image)
            if self._index in self._chosen and (LABELS in output or views):
                truth = None if truth is None else np.asarray(truth)
                name = str(sample.get("file_name", self._index))
                self.examples.append(Example(name, image, output.get(LABELS), truth, views))
            self._index += 1

    def evaluate(self) -> None:
        """Nothing."""


def task_views(
    tasks: Mapping[str, Task], sample: RecordView, output: ModelOutput, image: np.ndarray
) -> dict[str, TaskView]:
    """What people see of each task but that of classes: its prediction and, where the sample has one, its truth.

    image: (h, w, 3) uint8 in RGB, of any size; objects and segments are drawn over it.
    """
    size = int(sample.get("width", image.shape[1])), int(sample.get("height", image.shape[0]))
    image = image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    found = {}
    for name, task in tasks.items():
        if name == "sem_seg" or name not in output:
            continue
        prediction, truth = output[name], sample.get(f"{task.target_key}_truth")
        found[name] = TaskView(
            task.picture_on(image, prediction),
            None if truth is None else task.picture_on(image, truth),
            scale=task.scale,
            legend=task.legend(),
            score="" if truth is None else task.image_score(prediction, truth),
        )
    if "panoptic_seg" in output:
        truth = sample.get("panoptic_truth")
        segments = draw_panoptic(image, *output["panoptic_seg"])
        found["panoptic"] = TaskView(segments, None if truth is None else draw_panoptic(image, *truth))
    return found


def draw_panoptic(image: np.ndarray, ids: Any, segments: Sequence[JsonView]) -> np.ndarray:
    """Segments over an image, things of one class in several shades: (H, W, 3) uint8."""
    colors, seen = {}, Counter()  # type: ignore[var-annotated]
    base = palette(max([0, *(segment["category_id"] for segment in segments)]) + 2)[1:]
    for segment in segments:
        kind = segment["category_id"]
        shade = 1 - 0.18 * (seen[kind] % 4) if segment.get("isthing") else 1
        colors[segment["id"]] = [round(shade * channel) for channel in base[kind]]
        seen[kind] += 1
    return draw_segments(image, np.asarray(torch.as_tensor(ids).cpu()), colors)


def draw_examples(dataset_name: str, examples: Sequence[Example]) -> np.ndarray:
    """A row each of image, truth (where there is one) and prediction, in the data set's colours, and those of other
    tasks: (H, W, 3) uint8.
    """
    metadata = MetadataCatalog.get(dataset_name)
    colors, ignore_label = metadata.get("stuff_colors", []), metadata.get("ignore_label", 255)
    rows = []
    for example in examples:
        # Nearest, so that labels stay labels.
        pairs = [(view.truth, view.prediction) for view in example.views.values()]
        others = [picture for pair in pairs for picture in pair if picture is not None]
        height, width = (others[0] if example.prediction is None else example.prediction).shape[:2]
        size = WIDTH, max(1, round(height * WIDTH / width))
        # A row: image, truth, prediction.
        maps = [labels for labels in (example.truth, example.prediction) if labels is not None]
        small = [cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST) for labels in maps]
        panels = [cv2.resize(example.image, size, interpolation=cv2.INTER_AREA)]
        panels += [colorize(each, colors, ignore_label) for each in small]
        panels += [cv2.resize(each, size, interpolation=cv2.INTER_NEAREST) for each in others]
        rows.append(np.concatenate(panels, axis=1))
    # Rows of one width.
    widest = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows])
