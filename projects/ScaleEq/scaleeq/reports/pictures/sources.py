"""What is looked at: records of a data set or of anybody's pictures, and where their predictions come from.

A data set's images are chosen evenly over its list: neighbours in it are often frames of one video.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scaleeq.choices import nearest
from scaleeq.data import find_dataset, read_image, read_labels
from scaleeq.data.folder import IMAGE_SUFFIXES
from scaleeq.data.loading import load_records
from scaleeq.data.reading import has_labels, read_pair
from scaleeq.data.sets.listing import files_passed_over, in_words
from scaleeq.engine import CfgNode, DatasetCatalog, MetadataCatalog, SafeCheckpointer
from scaleeq.equalization import other_equalizers
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.evaluation.argmax import predicted_labels
from scaleeq.evaluation.predictions import match_pictures, prediction_record
from scaleeq.evaluation.writing import prediction_names
from scaleeq.fusion import Aligned, Fusion
from scaleeq.layers import Gate, LogitsGate
from scaleeq.model import LABELS_SUFFICE
from scaleeq.probes.maps import capture_fusions, capture_maps
from scaleeq.records import Output, Record, RecordView
from scaleeq.segmentor import without_pretrained
from scaleeq.tasks import build_tasks
from scaleeq.training.examples import task_views
from scaleeq.training.lighten import lighten
from scaleeq.training.recipe import Recipe
from scaleeq.training.setup import build_mapper
from scaleeq.training.testing import build_predictor

from .sheets import Classes, Seen

logger = logging.getLogger(__name__)

Named = dict[str, Record]
"""NAME -> record; sheets are named NAME.png."""


def dataset_images(name: str, *, num: int = 0, only: Collection[str] = ()) -> Named:
    """Images of a data set.

    num: how many, evenly from all of them; 0: all. only: NAMEs, or what they end with after a "/".
    ValueError: unknown names, with the nearest.
    """
    find_dataset(name)
    names = prediction_names(name)
    images = {names[str(record["file_name"])]: record for record in DatasetCatalog.get(name)}
    if only:
        images = _only(images, only, name)
    if 0 < num < len(images):
        chosen = list(images)
        images = {key: images[key] for key in (chosen[index * len(chosen) // num] for index in range(num))}
    return images


def picture_files(paths: Sequence[str | Path], *, leave_out: str | Path = "") -> Named:
    """Files, and all images in folders and below; NAME is the path from what they have in common, without suffix.

    leave_out: a folder whose content is not taken, for it is written there.
    FileNotFoundError: a path that is not there, or nothing that ends like an image.
    """
    if missing := [str(path) for path in paths if not os.path.exists(path)]:
        raise FileNotFoundError(f"there is no file or folder {', '.join(missing)}")
    own = os.path.abspath(leave_out) if leave_out else ""
    files = list(dict.fromkeys(file for path in paths for file in _images_of(os.path.abspath(path), own)))
    if not files:
        shown = ", ".join(map(str, paths))
        raise FileNotFoundError(f"there is no image ({', '.join(IMAGE_SUFFIXES)}) in {shown}")
    # Names: the path below what all have in common, with its suffix where two differ in that alone.
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    relative = [os.path.relpath(file, root) for file in files]
    stems = [os.path.splitext(path)[0] for path in relative]
    names = [path if stems.count(stem) > 1 else stem for path, stem in zip(relative, stems, strict=True)]
    return {name: {"file_name": file, "image_id": name} for name, file in zip(names, files, strict=True)}


class StoredPredictions:
    """Predictions that lie as label pictures in a folder, as evaluate_predictions takes them."""

    def __init__(self, folder: str, dataset_name: str, images: Named, *, all_images: bool) -> None:
        """images: of the data set; all_images: and there are no others. ValueError: pictures are missing."""
        metadata = MetadataCatalog.get(dataset_name)
        family = metadata.get("family", "")
        self.classes = Classes.of(metadata)
        records = list(images.values())
        paths = match_pictures(folder, records, family=family, all_records=all_images)
        files = [str(record["file_name"]) for record in records]
        self.records = {file: prediction_record(path, {}) for file, path in zip(files, paths, strict=True)}

    def __call__(self, record: Record) -> Seen:
        """ValueError, OSError: a file that cannot be read, or sizes that differ; the file is named."""
        # The prediction.
        stored = self.records[str(record["file_name"])]
        num_classes, ignore_label = len(self.classes.names), self.classes.ignore_label
        prediction = read_labels(stored, num_classes=num_classes, ignore_label=ignore_label)
        truth = None
        if has_labels(record):
            image, truth = read_pair(record, num_classes=num_classes, ignore_label=ignore_label)
        else:
            image = read_image(record)
        # Do they fit?
        if prediction.shape != image.shape[:2]:
            raise ValueError(
                f"{stored['file_name']} is {prediction.shape} (height, width), its image {image.shape[:2]}"
            )
        if truth is not None and (prediction[truth != ignore_label] == ignore_label).any():
            raise ValueError(f"{stored['file_name']} holds {ignore_label}, void, where the truth is a class")
        return Seen(image, prediction, truth)


class ModelPredictions:
    """Predictions of a model with given weights, as TEST.SLIDE and TEST.AUG ask for them, and its maps."""

    def __init__(self, cfg: CfgNode, weights: str, *, dataset_name: str = "", kinds: Collection[str] = ()) -> None:
        """
        dataset_name: whose classes the labels are; "": of DATASETS.TEST or TRAIN, the first.
        kinds: "gates", "alignment", "features": the maps that are kept.
        ValueError: no data set to name the classes, or a model that has no such maps.
        """
        # The classes, those of training where a data set has truths of other tasks alone.
        trained = next(iter((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)), "")
        if dataset_name and trained and not find_dataset(dataset_name).get("stuff_classes"):
            dataset_name = trained
        dataset_name = dataset_name or trained
        if not dataset_name:
            raise ValueError("DATASETS.TEST is empty: no data set says what the classes are; set it, or --dataset")
        metadata = find_dataset(dataset_name)
        self.classes = Classes.of(metadata)
        self.tasks = build_tasks(cfg)
        if "sem_seg" in self.tasks and len(self.classes.names) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            load_records(cfg, dataset_name)  # says so
        # The model.
        cfg = without_pretrained(cfg)
        self.model = Recipe.build_model(cfg)
        refuse_kinds(self.model, kinds)
        SafeCheckpointer(self.model, other_model=other_equalizers).load_weights(weights)
        require_calibrated(self.model)
        self.model.eval()
        if not kinds:  # maps are those of the parts as they were trained
            lighten(cfg, self.model)
        # How it is called.
        self.kinds = frozenset(kinds)
        self.mapper = build_mapper(cfg, is_train=False)
        self.predictor = build_predictor(cfg, self.model, flip_pairs=metadata.get("flip_pairs", ()))

    @torch.no_grad()
    def __call__(self, record: Record) -> Seen:
        """ValueError, OSError: a file that cannot be read, or labels that do not fit; the file is named.

        FloatingPointError: the model's scores are not finite.
        """
        sample = self.mapper(record)
        image = read_image(record)
        if not self.kinds:
            sufficient = {LABELS_SUFFICE: True} if set(self.tasks) == {"sem_seg"} else {}
            return self._seen(record, sample, image, self.predictor([{**sample, **sufficient}])[0])
        with contextlib.ExitStack() as stack:
            maps = stack.enter_context(capture_maps(self.model)) if self.kinds - {"features"} else None
            fusions = stack.enter_context(capture_fusions(self.model)) if "features" in self.kinds else None
            visible = stack.enter_context(visible_share(self.model, sample["image"]))
            output = self.model([sample])[0]
        if self.predictor is not self.model:  # maps are of the whole image, seen once
            output = self.predictor([sample])[0]
        seen = self._seen(record, sample, image, output)
        return dataclasses.replace(seen, maps=maps, fusions=fusions, visible=(visible[0], visible[1]))

    def _seen(self, record: Record, sample: RecordView, image: np.ndarray, output: Output) -> Seen:
        """What the tasks predict of an image, and their truths."""
        views = task_views(self.tasks, sample, output, image)
        if "sem_seg" not in self.tasks:
            return Seen(image, views=views)
        truth = np.asarray(sample["sem_seg_truth"]) if "sem_seg_truth" in sample else None
        return Seen(image, predicted_labels(output, str(record["file_name"])), truth, views=views)


def kinds_of(model: nn.Module) -> dict[str, list[str]]:
    """Kind of map -> the modules of a model that have it."""
    types: dict[str, type | tuple[type, ...]] = {"gates": (Gate, LogitsGate), "alignment": Aligned, "features": Fusion}
    modules = list(model.named_modules())
    return {kind: [name for name, module in modules if isinstance(module, of)] for kind, of in types.items()}


def refuse_kinds(model: nn.Module, kinds: Collection[str]) -> None:
    """ValueError: the model has nothing of one of the kinds of maps; what it has is told."""
    has = kinds_of(model)
    if unknown := [kind for kind in kinds if kind not in has]:
        raise ValueError(f"unknown maps {', '.join(unknown)}; choose of {', '.join(has)}")
    if lacking := [kind for kind in kinds if not has[kind]]:
        shown = [
            f"{kind} ({len(names)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)})"
            for kind, names in has.items()
            if names
        ]
        needs = {
            "gates": "MODEL.PYRAMID.TRANSFER 'gated', or GSTO's backbone",
            "alignment": "MODEL.PYRAMID.NAME 'fapn', or a TRANSFER 'aligned'",
            "features": "a head or a pyramid that fuses",
        }
        wanted = "; ".join(f"{kind}: {needs[kind]}" for kind in lacking)
        raise ValueError(
            f"this model has no {' and no '.join(lacking)} to draw (they come with {wanted}); "
            f"it has {'; '.join(shown) or 'none of the kinds'}"
        )


@contextlib.contextmanager
def visible_share(model: nn.Module, image: torch.Tensor) -> Iterator[list[float]]:
    """The shares of height and width of the backbone's input that are the image, the rest being padding.

    image: (3, H, W), as the model takes it. Known after a forward inside the context.
    """
    shares = [1.0, 1.0]

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        shares[:] = [own / padded for own, padded in zip(image.shape[-2:], inputs[0].shape[-2:], strict=True)]

    with model.get_submodule("backbone").register_forward_pre_hook(keep):
        yield shares


def _images_of(path: str, own: str) -> Iterator[str]:
    """The path of a file, or of all images below a folder, sorted, but for the folder `own` and hidden files."""
    if not os.path.isdir(path):
        yield path
        return
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if os.path.join(parent, folder) != own)
        if passed_over := in_words(files_passed_over(parent, IMAGE_SUFFIXES)):
            logger.warning("passed over in %s: %s. Images end in %s", parent, passed_over, ", ".join(IMAGE_SUFFIXES))
        yield from (
            os.path.join(parent, file)
            for file in sorted(files)
            if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")
        )


def _only(images: Named, wanted: Collection[str], dataset_name: str) -> Named:
    by_end: dict[str, list[str]] = {}
    for name in images:
        by_end.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    found = {want: [want] if want in images else by_end.get(want, []) for want in wanted}
    if missing := [want for want, names in found.items() if not names]:
        near = nearest(missing[0], by_end, cutoff=0.3) or list(by_end)[:4]
        raise ValueError(f"{dataset_name} has no image {', '.join(missing)}; near are {', '.join(near)}")
    return {name: images[name] for names in found.values() for name in names}
