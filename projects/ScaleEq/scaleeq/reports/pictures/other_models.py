"""Predictions of models of other libraries: transformers and segmentation_models_pytorch, as they save themselves.

    OtherPredictions("transformers:nvidia/segformer-b0-finetuned-ade-512-512")     a folder, or a name on its hub
    OtherPredictions("smp:runs/unet")                                              a folder of save_pretrained

transformers' images are prepared by the model's own processor. smp's files do not say how: images are normalized with
ImageNet's mean and standard deviation, as its encoders want them, and padded with zeros to a multiple of 32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from scaleeq.choices import one_of
from scaleeq.console import quiet
from scaleeq.data import find_dataset, read_image, read_labels
from scaleeq.data.reading import has_labels
from scaleeq.data.sets.catalog import Record
from scaleeq.extras import require
from scaleeq.ops import resize
from scaleeq.pictures import palette

from .sheets import Classes, Seen

LIBRARIES = ("transformers", "smp")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of values 0 to 1
WHY = "the model is of another library: "
MULTIPLE = 32  # pixels
MOST_CLASSES = 255  # labels are bytes, and one of them is void


class OtherPredictions:
    """What a model of another library sees in a record."""

    def __init__(self, model: str, *, dataset_name: str = "", device: str = "") -> None:
        """
        model: "transformers:PLACE" or "smp:PLACE".
        dataset_name: whose classes the labels are; "": those that the model names, or numbers.
        device: default a CUDA device where there is one.

        ValueError: another library, or classes of another number; OSError: there is no such model; ImportError: the
        library is not installed.
        """
        library, _, place = model.partition(":")
        one_of(library, LIBRARIES, key="the library of --model LIBRARY:PLACE")
        if not place:
            raise ValueError(f"--model is {model!r}; give a folder, or a name on the hub, after {library}:")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        make = _Transformers if library == "transformers" else _Smp
        try:
            with quiet():  # the hub's, of each of its tries
                self.model: _Transformers | _Smp = make(place, self.device)
        except (OSError, ValueError, KeyError) as error:
            raise OSError(f"--model {model}: {_first_line(error)}") from error
        names = self.model.names
        if len(names) > MOST_CLASSES:
            raise ValueError(f"--model {model} has {len(names)} classes; label pictures have {MOST_CLASSES} at most")
        self.classes = Classes(names, palette(len(names) + 1)[1:])
        if dataset_name:
            self.classes = Classes.of(find_dataset(dataset_name))
            if len(self.classes.names) != len(names):
                raise ValueError(
                    f"--model {model} has {len(names)} classes, and {dataset_name} {len(self.classes.names)}"
                )

    @torch.no_grad()
    def __call__(self, record: Record) -> Seen:
        """ValueError, OSError: a file that cannot be read; it is named."""
        image, truth = read_image(record), None
        if has_labels(record):
            truth = read_labels(record, num_classes=len(self.classes.names), ignore_label=self.classes.ignore_label)
        return Seen(image, self.model.labels(image).astype(np.uint8), truth)


class _Transformers:
    def __init__(self, place: str, device: str) -> None:
        transformers: Any = require("transformers", why=WHY)
        self.processor = transformers.AutoImageProcessor.from_pretrained(place)
        self.model = transformers.AutoModelForSemanticSegmentation.from_pretrained(place).eval().to(device)
        names = self.model.config.id2label
        self.names = [str(names[label]) for label in sorted(names)]
        self.device = device

    def labels(self, image: np.ndarray) -> np.ndarray:
        """image: (H, W, 3) uint8 -> (H, W)."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        logits = resize(self.model(**inputs).logits, (image.shape[0], image.shape[1]))
        return logits[0].argmax(0).cpu().numpy()


class _Smp:
    def __init__(self, place: str, device: str) -> None:
        smp: Any = require("segmentation_models_pytorch", why=WHY)
        self.model = smp.from_pretrained(place).eval().to(device)
        count = self.model.segmentation_head[0].out_channels
        self.names = ["background", "class 1"] if count == 1 else [f"class {label}" for label in range(count)]
        self.device = device

    def labels(self, image: np.ndarray) -> np.ndarray:
        """image: (H, W, 3) uint8 -> (H, W)."""
        height, width = image.shape[:2]
        values = (torch.from_numpy(image).permute(2, 0, 1).float() / 255).to(self.device)
        mean, std = (torch.tensor(numbers, device=self.device)[:, None, None] for numbers in (MEAN, STD))
        padded = F.pad((values - mean) / std, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        logits = self.model(padded[None])[0, :, :height, :width]
        # One map is the logit of the one class.
        found = logits[0] > 0 if len(logits) == 1 else logits.argmax(0)
        return found.cpu().numpy()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
