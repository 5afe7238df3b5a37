"""What counts in the benchmark, each in a process of its own: ScaleEq, a copy of the bytes, and the peers.

    PYTHON peer.py CONTENDER FOLDER NUM_CLASSES

reads the maps of the folder (see contenders.write_maps), answers with its package's version, or with what is missing,
and then for each line with a number of threads prints the seconds an image of a turn, [wall, CPU]; all as JSON. Also
runs in an environment without ScaleEq, with numpy and the peer alone. Processes of their own, since what one contender
leaves in the allocator's lists makes another's temporaries up to five times cheaper.

Excluded everywhere: the model, and the argmax. Peers get what they would have by then, int64 tensors.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

VOID = 255
TURN_S = 0.2  # at least, of each turn: the caches are cold at its start
Step = Callable[[int], Any]  # index of an image -> counted
PREDICTION, TRUTH, INSTANCES = "{}_prediction.png", "{}_labelIds.png", "{}_instanceIds.png"  # as cityscapesscripts asks


class Maps:
    """predictions, truths: (N, H, W) uint8. instances: (N, H, W) int32, or None. files: of an image, by their kind."""

    def __init__(self, folder: str, num_classes: int) -> None:
        self.folder, self.num_classes = Path(folder), num_classes
        self.predictions, self.truths = np.load(self.folder / "predictions.npy"), np.load(self.folder / "truths.npy")
        has_instances = (self.folder / "instances.npy").exists()
        self.instances = np.load(self.folder / "instances.npy") if has_instances else None

    def __len__(self) -> int:
        return len(self.truths)

    def file(self, kind: str, index: int) -> str:
        return str(self.folder / kind.format(index))

    def tensors(self) -> tuple[Any, Any]:
        """Predictions and truths: (N, H, W) int64 tensors."""
        torch = importlib.import_module("torch")
        return tuple(torch.from_numpy(maps.astype(np.int64)) for maps in (self.predictions, self.truths))


def ours(maps: Maps) -> Step:
    matrix = importlib.import_module("scaleeq.evaluation.confusion").ConfusionMatrix(num_classes=maps.num_classes)
    return lambda index: matrix.update(maps.predictions[index], maps.truths[index])


def copied(maps: Maps) -> Step:
    target = np.empty((2, *maps.truths.shape[1:]), np.uint8)

    def step(index: int) -> None:
        np.copyto(target[0], maps.predictions[index])
        np.copyto(target[1], maps.truths[index])

    return step


def detectron2(maps: Maps, *, whole: bool) -> Step:
    """Detectron2's SemSegEvaluator.process. whole: as shipped; else its confusion matrix alone, truth in memory."""
    data = importlib.import_module("detectron2.data")
    module = importlib.import_module("detectron2.evaluation.sem_seg_evaluation")
    files = [maps.file(TRUTH, index) for index in range(len(maps))]
    data.DatasetCatalog.register("maps", lambda: [{"file_name": file, "sem_seg_file_name": file} for file in files])
    classes = [str(label) for label in range(maps.num_classes)]
    data.MetadataCatalog.get("maps").set(stuff_classes=classes, ignore_label=VOID)
    truths = dict(zip(files, maps.truths, strict=True))
    options = {} if whole else {"sem_seg_loading_fn": lambda file, dtype: truths[file].astype(dtype)}
    evaluator = module.SemSegEvaluator("maps", distributed=False, **options)
    if not whole:
        evaluator._compute_boundary_iou = False
        evaluator.encode_json_sem_seg = lambda labels, file: []
    evaluator.reset()
    # In place of logits: their argmax.
    outputs = [{"sem_seg": SimpleNamespace(argmax=lambda dim, labels=labels: labels)} for labels in maps.tensors()[0]]

    def step(index: int) -> None:
        evaluator.process([{"file_name": files[index]}], [outputs[index]])
        evaluator._predictions.clear()

    return step


def torchmetrics(maps: Maps) -> Step:
    classification = importlib.import_module("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(maps.num_classes, ignore_index=VOID, validate_args=False)
    predictions, truths = maps.tensors()
    return lambda index: metric.update(predictions[index], truths[index])


def mmsegmentation(maps: Maps) -> Step:
    metric = importlib.import_module("mmseg.evaluation.metrics").IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": [str(label) for label in range(maps.num_classes)]}
    samples = [
        {"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": truth[None]}}
        for prediction, truth in zip(*maps.tensors(), strict=True)
    ]

    def step(index: int) -> None:
        metric.process({}, [samples[index]])
        metric.results.clear()

    return step


def ours_with_instances(maps: Maps, *, files: bool) -> Step:
    """Confusion matrix and iIoU. files: decoding prediction, truth and instances, pictures of labelIds."""
    cityscapes = importlib.import_module("scaleeq.evaluation.cityscapes")
    matrix = importlib.import_module("scaleeq.evaluation.confusion").ConfusionMatrix(num_classes=19)
    part, instances = cityscapes.InstanceIoU(cityscapes.CLASSES), maps.instances
    assert instances is not None
    read = importlib.import_module("scaleeq.data.reading")
    label_map = importlib.import_module("scaleeq.evaluation.predictions").CITYSCAPES_IDS

    def step(index: int) -> None:
        if files:
            prediction, truth = (
                read.read_labels({"sem_seg_file_name": maps.file(kind, index), "label_map": label_map})
                for kind in (PREDICTION, TRUTH)
            )
            ids = read.read_instances({"instance_file_name": maps.file(INSTANCES, index)})
        else:
            prediction, truth, ids = maps.predictions[index], maps.truths[index], instances[index]
        matrix.update(prediction, truth)
        part.update(prediction, truth, {"file_name": index, "instance_truth": ids})

    return step


class InMemory:
    """In place of a picture: its pixels, decoded already."""

    def __init__(self, file: str) -> None:
        self.pixels = np.array(importlib.import_module("PIL.Image").open(file))
        self.size = self.pixels.shape[::-1]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.pixels


def cityscapesscripts(maps: Maps, *, files: bool) -> Step:
    """evaluatePair with its instances. files: decoding included."""
    vars(np).setdefault("in1d", np.isin)  # it calls in1d, which NumPy 2.4 no longer has
    module = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    if not files:
        every = [maps.file(kind, index) for kind in (PREDICTION, TRUTH, INSTANCES) for index in range(len(maps))]
        pictures = {file: InMemory(file) for file in every}
        vars(module)["Image"] = SimpleNamespace(open=pictures.__getitem__)
    settings = module.args
    settings.quiet, settings.JSONOutput, settings.evalInstLevelScore = True, False, True
    matrix, statistics = module.generateMatrix(settings), module.generateInstanceStats(settings)
    return lambda index: module.evaluatePair(
        maps.file(PREDICTION, index), maps.file(TRUTH, index), matrix, statistics, {}, settings
    )


# Name -> how, and the package whose version is told.
OURS, OURS_IN_MEMORY, OURS_OF_FILES = (
    "ScaleEq, ConfusionMatrix.update",
    "ScaleEq, confusion matrix and iIoU, in memory",
    "ScaleEq, the same of three PNGs",
)
COPY = "a copy of the bytes"
DETECTRON2, DETECTRON2_CONFUSION = "Detectron2, SemSegEvaluator.process", "Detectron2, its confusion matrix alone"
MMSEGMENTATION = "mmsegmentation, IoUMetric.process"
TORCHMETRICS = "torchmetrics, MulticlassJaccardIndex without validation"
CITYSCAPES_IN_MEMORY = "cityscapesscripts, evaluatePair in memory"
CITYSCAPES_OF_FILES = "cityscapesscripts, evaluatePair of three PNGs"
CONTENDERS: dict[str, tuple[Callable[[Maps], Step], str]] = {
    OURS: (ours, "numpy"),
    COPY: (copied, "numpy"),
    DETECTRON2: (functools.partial(detectron2, whole=True), "detectron2"),
    DETECTRON2_CONFUSION: (functools.partial(detectron2, whole=False), "detectron2"),
    MMSEGMENTATION: (mmsegmentation, "mmsegmentation"),
    TORCHMETRICS: (torchmetrics, "torchmetrics"),
    OURS_IN_MEMORY: (functools.partial(ours_with_instances, files=False), "numpy"),
    CITYSCAPES_IN_MEMORY: (functools.partial(cityscapesscripts, files=False), "cityscapesscripts"),
    OURS_OF_FILES: (functools.partial(ours_with_instances, files=True), "pillow"),
    CITYSCAPES_OF_FILES: (functools.partial(cityscapesscripts, files=True), "cityscapesscripts"),
}


def set_threads(count: int) -> None:
    """Of torch and OpenCV, where they are in use."""
    for name, setter in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        if name in sys.modules:
            getattr(sys.modules[name], setter)(count)


def time_passes(step: Step, images: int) -> tuple[float, float]:
    """Seconds an image of passes step(0), ..., step(images - 1) over TURN_S or more: wall, CPU of all threads."""
    wall, cpu, passes = time.perf_counter(), time.process_time(), 0
    while passes == 0 or time.perf_counter() - wall < TURN_S:
        for index in range(images):
            step(index)
        passes += 1
    count = passes * images
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    name, folder, num_classes = sys.argv[1:]
    make, package = CONTENDERS[name]
    maps = Maps(folder, int(num_classes))
    try:
        step, ready = make(maps), {"version": f"{package} {importlib.metadata.version(package)}"}
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        set_threads(int(line))
        print(json.dumps(time_passes(step, len(maps))), file=answers, flush=True)


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are no packages' names
    main()
