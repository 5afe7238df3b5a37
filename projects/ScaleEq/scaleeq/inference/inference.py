"""A model called for each window, scale and flip of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from scaleeq.geometry import OF_VIEW
from scaleeq.ops import resize
from scaleeq.records import Record

from .options import InferenceOptions
from .predicted import Classes, Maps, Predicted
from .views import Scores, Values, look_at_views
from .windows import slide_all

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Inference(nn.Module):
    """A model of dense tasks, called for every window, scale and flip of each image in turn, once for all tasks.

    model: in eval mode, with Detectron2's batch format: [{"image", "height", "width"}] -> [{"sem_seg"}].
    flip_pairs: classes that a mirror image exchanges.
    tasks: what the model predicts, by default classes. task: one alone.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        options: InferenceOptions,
        flip_pairs: Sequence[tuple[int, int]] = (),
        task: Predicted | None = None,
        tasks: Sequence[Predicted] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.flip_pairs = tuple(flip_pairs)
        self.tasks = tuple(tasks) or (task or Classes(),)  # a tuple: a module in an attribute would be a part of this
        self.training = model.training  # whoever restores this module's mode restores the model's

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        *,
        flip_pairs: Sequence[tuple[int, int]] = (),
        tasks: Sequence[Predicted] = (),
    ) -> nn.Module:
        """The model as TEST.SLIDE and TEST.AUG call it; the model itself where they are off."""
        options = InferenceOptions.from_config(cfg)
        return model if options.is_plain else cls(model, options=options, flip_pairs=flip_pairs, tasks=tasks)

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Record]) -> list[Maps]:
        """One dict per image: "image" (3, H, W); "height" and "width" of the result, by default the image's.

        Returns {"sem_seg": (K, height, width)} per image: logits, or, augmented, logarithms of mean probabilities; of
        other tasks, their values. They are on the model's device, or on the CPU with aggregate_on "cpu".
        ValueError: the model is in training mode, or of another task.
        """
        if self.model.training:
            raise ValueError(f"{type(self.model).__name__} is in training mode; call .eval() before inference")
        return [self._predictions(record) for record in batched_inputs]

    def _predictions(self, record: Record) -> Maps:
        image = record["image"].to(getattr(self.model, "device", None) or record["image"].device)
        size = (int(record.get("height", image.shape[-2])), int(record.get("width", image.shape[-1])))

        def predict(view: torch.Tensor) -> Maps:
            return self._maps(view, size)

        # One view, or the mean of several.
        scales, flip = self.options.scales, self.options.flip
        if scales:
            means = {task.name: self._mean(task) for task in self.tasks}
            found = look_at_views(image, predict, means, scales=scales, flip=flip)
        else:
            found = predict(image)
            found = {task.name: task.settled(found[task.name]) for task in self.tasks}
        for task in self.tasks:  # from the picture as it was given to the result's size
            if task.geometry.zoom_power:
                found[task.name] = found[task.name] * task.geometry.factor(image.shape[-2:], size)
        return found

    def _mean(self, task: Predicted) -> Scores | Values:
        """What takes a task's predictions of all views of an image."""
        if task.averages == "values":
            return Values(task, flip=self.options.flip)
        pairs = self.flip_pairs if task.geometry.labels else ()  # of the data set's labels, no other task's
        return Scores(flip=self.options.flip, combine=self.options.combine, flip_pairs=pairs)

    def _maps(self, image: torch.Tensor, size: tuple[int, int]) -> Maps:
        """image: (3, h, w) -> task -> (K, *size)."""
        window, stride = self.options.window, self.options.stride
        if window is None or stride is None:
            return self._call({"image": image, "height": size[0], "width": size[1]})
        device = torch.device("cpu") if self.options.aggregate_on == "cpu" else None
        maps = slide_all(image, lambda view: self._call({"image": view}), window=window, stride=stride, device=device)
        return {name: resize(values[None], size)[0] for name, values in maps.items()}

    def _call(self, record: Record) -> Maps:
        result = self.model([{**record, OF_VIEW: True}])[0]
        for task in self.tasks:
            if task.name not in result:
                raise ValueError(
                    f"{type(self.model).__name__} gives {', '.join(sorted(result))}, but no {task.name!r}: windows, "
                    "scales and flips are for semantic segmentation and other dense tasks. Leave TEST.SLIDE and "
                    "TEST.AUG at their defaults"
                )
        return {task.name: result[task.name].float() for task in self.tasks}
