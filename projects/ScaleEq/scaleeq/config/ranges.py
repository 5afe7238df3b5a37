"""Which values of a key can be meant: one row for every key that is read here, Detectron2's among them.

A row says what a value is, within which bounds, and in which unit; docs/config.md is printed from it. Bounds shut out
what nobody can want (a negative learning rate, a dropout of 1), not what is unwise. Keys that nothing here reads are in
UNREAD. What several keys must agree on is in check.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from scaleeq.choices import one_of

_INTERVAL = re.compile(r"([\[(])(.+), (.+)([\])])")
_SINGULAR = {"integers": "integer", "numbers": "number", "names": "name"}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of one key.

    kind: "integer", "number", "boolean", "text", "name" (text that is not empty), and "integers", "numbers", "names":
        lists of them; "rows": a list whose rows are checked where they are read.
    bounds: an interval, for each number; a name: a regular expression that it matches.
    choices: the only values; of a list: of each entry.
    length: how many entries a list may have; empty: any number.
    filled: whether a list must have an entry.
    none: whether None is a value.
    unit: what the value is, or counts.
    """

    kind: str
    bounds: str = ""
    unit: str = ""
    choices: tuple = ()
    length: tuple[int, ...] = ()
    filled: bool = False
    none: bool = False

    def check(self, key: str, value: object) -> None:
        """ValueError, naming the key, for a value that cannot be meant."""
        if value is None and self.none:
            return
        if self.kind in _SINGULAR:
            entries = list(value) if isinstance(value, (list, tuple)) else None
        else:
            entries = [value]
        if self.none and str(value).lower() in ("none", "null"):
            raise ValueError(f"{key} is {value!r}, a text; write None")
        if entries is None or not self._is_long_enough(entries) or not all(map(self._is_kind, entries)):
            raise ValueError(f"{key} is {value!r}; expected {self.expected}")
        if self.choices:
            for entry in entries:
                one_of(entry, self.choices, key=key)
        elif self.bounds and not all(map(self._is_inside, entries)):
            raise ValueError(f"{key} is {value!r}; expected {self.expected}")

    @property
    def expected(self) -> str:
        """What a value is, in words."""
        text = self.kind
        if self.kind in _SINGULAR:
            count = " or ".join(map(str, self.length)) + " " if self.length else ""
            text = f"a list of {count}{self.kind}{', at least one,' if self.filled else ''}"
        elif self.kind != "text":
            text = f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"
        if self.bounds:
            text += f" that matches {self.bounds}" if self.kind == "name" else f" in {self.bounds}"
        return f"{text}{' or None' if self.none else ''}{f': {self.unit}' if self.unit else ''}"

    def _is_long_enough(self, entries: list) -> bool:
        return (not self.length or len(entries) in self.length) and (bool(entries) or not self.filled)

    def _is_kind(self, value: object) -> bool:
        kind = _SINGULAR.get(self.kind, self.kind)
        if kind == "boolean":
            return isinstance(value, bool)
        if kind in ("integer", "number"):
            return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
        if kind == "rows":
            return isinstance(value, (list, tuple))
        return isinstance(value, str) and (kind == "text" or bool(value.strip()) or "" in self.choices)

    def _is_inside(self, value: object) -> bool:
        if isinstance(value, str):
            return re.fullmatch(self.bounds, value) is not None
        assert isinstance(value, (int, float))
        left, low, high, right = _INTERVAL.fullmatch(self.bounds).groups()  # type: ignore[union-attr]
        if math.isnan(value) or (math.isinf(value) and right == ")"):
            return False
        above = float(low) <= value if left == "[" else float(low) < value
        return above and (value <= float(high) if right == "]" else value < float(high))


def _count(bounds: str, unit: str) -> Range:
    return Range("integer", bounds, unit)


def _real(bounds: str, unit: str, *, none: bool = False) -> Range:
    return Range("number", bounds, unit, none=none)


def _one_of(*choices: str | int, unit: str = "") -> Range:
    return Range("integer" if isinstance(choices[0], int) else "name", unit=unit, choices=choices)


_FLAG, _TEXT = Range("boolean"), Range("text")
_RESIZES = ("bilinear", "nearest", "bicubic", "bilinear_corners")
_WIDTH, _WIDTH_OR_IMPLIED = _count("[1, 65536]", "channels"), _count("[0, 65536]", "channels; 0: as NAME implies")
_SIDE, _LIMIT = "[0, 32768]", _count("[1, inf)", "pixels, of the longer side")
_NORMS = ("BN", "GN", "LN", "SyncBN", "")

_MODEL = {
    "META_ARCHITECTURE": Range("name", unit="registered"),
    "DEVICE": Range("name", r"(cpu|mps|xpu|hpu|cuda)(:\d+)?", "cpu, cuda, cuda:1"),
    "WEIGHTS": Range("text", unit="a file or URL; empty: none"),
    "WEIGHTS_STRICT": _FLAG,
    "CHANNELS_LAST": _FLAG,
    "COMPILE": _FLAG,
    "GATE": _one_of("paper", "reference"),
    "PIXEL_MEAN": Range("numbers", "[0, 255]", "grey levels 0 to 255, in INPUT.FORMAT's order", length=(3,)),
    "PIXEL_STD": Range("numbers", "[1, 255]", "grey levels 0 to 255 (0.229 of 0 to 1 is 58.395)", length=(3,)),
    "BACKBONE.NAME": Range("name", unit="registered"),
    "BACKBONE.FREEZE_AT": _count("[0, 5]", "stages"),
    "TIMM.NAME": Range("name", unit="a model of timm"),
    "TIMM.PRETRAINED": _FLAG,
    "TIMM.PRETRAINED_FILE": Range("text", unit="a file; empty: none"),
    "TIMM.DROP_PATH_RATE": _real("[0, 1)", "a probability"),
    "TIMM.WIDTH_MULTIPLIER": _real("(0, 100]", "a factor on channels"),
    "TIMM.DEPTH_MULTIPLIER": _real("(0, 100]", "a factor on blocks"),
    "TIMM.BN_MOMENTUM": _real("[0, 1)", "the weight of a new batch; 0: timm's"),
    "TIMM.NORM": _one_of("FrozenBN", ""),
    "TIMM.OUTPUT_STRIDE": _one_of(8, 16, 32, unit="pixels"),
    "TIMM.LEVEL_NORM": _FLAG,
    "VIT.PYRAMID": _one_of("simple", ""),
    "VIT.PYRAMID_CHANNELS": _WIDTH,
    "VIT.PATCH_SIZE": _count("[0, 64]", "pixels; 0: the model's own"),
    "VIT.FINAL_NORM": _FLAG,
    "HRNET.GATES": _one_of("both", "unsupervised", "supervised", "none"),
    "HRNET.TRANSFER": _one_of("bilinear", "nearest"),
    "HRNET.AUX_LOSS_WEIGHTS": Range("numbers", "[0, 1000]", "factors on losses", length=(2,)),
    "SEM_SEG_HEAD.NAME": Range("name", unit="registered"),
    "SEM_SEG_HEAD.IN_FEATURES": Range("names", unit="levels of the backbone", filled=True),
    "SEM_SEG_HEAD.IGNORE_VALUE": _count("[0, 255]", "a label"),
    "SEM_SEG_HEAD.NUM_CLASSES": _count("[1, 255]", "classes"),
    "SEM_SEG_HEAD.CONVS_DIM": _WIDTH,
    "SEM_SEG_HEAD.COMMON_STRIDE": _count("[1, 1024]", "pixels"),
    "SEM_SEG_HEAD.NORM": _one_of(*_NORMS),
    "SEM_SEG_HEAD.LOSS_WEIGHT": _real("(0, 1000]", "a factor on the loss"),
    "SEM_SEG_HEAD.LOSS_TYPE": _one_of("cross_entropy"),
    "SEM_SEG_HEAD.DROPOUT": _real("[0, 1)", "a probability"),
    "SEM_SEG_HEAD.POOL_SCALES": Range("integers", "[1, 256]", "cells per side", filled=True),
    "SEM_SEG_HEAD.CONTEXT_GATE": _FLAG,
    "SEM_SEG_HEAD.ASPP_DILATIONS": Range("integers", "[1, 1024]", "pixels of the level"),
    "SEM_SEG_HEAD.ASPP_CHANNELS": _count("[0, 65536]", "channels; 0: CONVS_DIM"),
    "SEM_SEG_HEAD.PROJECT_CHANNELS": Range("integers", "[1, 65536]", "channels", filled=True),
    "TASKS.NAMES": Range("names", unit="registered tasks", filled=True),
    "TASKS.HEADS": Range("names", unit="one a task; empty: SEM_SEG_HEAD.NAME for all"),
    "TASKS.SHARE": _one_of("backbone", "pyramid", "decoder"),
    "TASKS.WEIGHTS": Range("numbers", "(0, 1e6]", "factors on losses, one a task; empty: all 1"),
    "TASKS.INTERACTION": Range("text", unit="a registered interaction, such as pad_net; empty: none"),
    "TASKS.WEIGHTING": _one_of("fixed", "uncertainty", "pcgrad"),
    "DEPTH.MEAN": _real("(0, 1e5]", "metres"),
    "EDGES.POSITIVE_WEIGHT": _real("[0, 1)", "a weight; 0: of each image, its share of negatives"),
    "EDGES.FREQUENCY": _real("(0, 1)", "a share of the pixels"),
    "SALIENCY.POSITIVE_WEIGHT": _real("[0, 1)", "a weight; 0: of each image, its share of negatives"),
    "SALIENCY.FREQUENCY": _real("(0, 1)", "a share of the pixels"),
    "AUX_HEAD.IN_FEATURES": Range("names", unit="levels of the backbone"),
    "AUX_HEAD.LOSS_WEIGHTS": Range("numbers", "[0, 1000]", "factors on losses"),
    "AUX_HEAD.CONVS_DIM": _WIDTH,
    "PYRAMID.NAME": _one_of("none", "fpn", "fapn", "bifpn", ""),
    "PYRAMID.CHANNELS": _WIDTH_OR_IMPLIED,
    "PYRAMID.NORM": _one_of(*_NORMS),
    "PYRAMID.LATERAL": _one_of("conv", "select", "squeeze_excite", ""),
    "PYRAMID.TRANSFER": _one_of(*_RESIZES, "deconv", "gated", "aligned", "aligned_self", "aligned_realtime", ""),
    "PYRAMID.DOWN_TRANSFER": _one_of("max", "avg", ""),
    "PYRAMID.COMBINE": _one_of("sum", "softmax", "fast_normalized", ""),
    "PYRAMID.OUTPUT_CONVS": Range("integers", "[0, 64]", "convolutions"),
    "PYRAMID.OUT_FEATURES": Range("names", unit="levels of the pyramid"),
    "PYRAMID.RECURSION": _one_of("merged", "smoothed", ""),
    "PYRAMID.REPEATS": _count("[0, 64]", "cells"),
    "PYRAMID.BOTTOM_UP": Range("text", unit="a registered backbone; empty: as BACKBONE.NAME implies"),
    "PYRAMID.EXTRA_LEVELS": _one_of("max_pool", "convs_from_res5", "convs_from_p5", ""),
    "FUSION.TRANSFER": _one_of(*_RESIZES, "gated", "supervised_gated", "aligned", ""),
    "FUSION.COMBINE": _one_of("concat", "sum", "softmax", "fast_normalized", ""),
    "FUSION.EVALUATE": _one_of("plain", ""),
    "LOSS.CLASS_WEIGHTS": Range("numbers", "[0, 1e6]", "factors on losses, one a class"),
    "LOSS.AVERAGE_OVER": _one_of("valid", "all"),
    "LOSS.LABEL_SMOOTHING": _real("[0, 1)", "a share"),
    "LOSS.FOCAL_GAMMA": _real("[0, 100]", "an exponent"),
    "LOSS.OHEM": _one_of("off", "top_k", "threshold"),
    "LOSS.OHEM_TOP_K": _real("(0, 1]", "a share of the pixels"),
    "LOSS.OHEM_ANNEAL_ITERS": _count("[0, inf)", "iterations"),
    "LOSS.OHEM_THRESHOLD": _real("[0, 1]", "a probability"),
    "LOSS.OHEM_MIN_KEPT": _count("[1, inf)", "pixels an image"),
    "LOSS.DICE_WEIGHT": _real("[0, 1000]", "a factor on the loss"),
    "LOSS.LOVASZ_WEIGHT": _real("[0, 1000]", "a factor on the loss"),
    "DETECTOR.NAME": _one_of("faster_rcnn", "mask_rcnn", "retinanet", "fcos"),
    "DETECTOR.NUM_CLASSES": _count("[1, 65535]", "classes of objects, without background"),
    "DETECTOR.SCORE_THRESH": _real("[0, 1)", "a probability"),
    "DETECTOR.ANCHOR_SIZES": Range("integers", "[1, 65536]", "pixels, one a level; empty: 32, 64, 128, ..."),
    "DETECTOR.REGIONS_PER_IMAGE": _count("[1, 65536]", "regions"),
    "DETECTOR.BOX_DIM": _WIDTH,
    "DETECTOR.MASK_DIM": _WIDTH,
    "DETECTOR.THING_LABELS": Range("integers", "[0, 255]", "labels, one a class; empty: no panoptic segments"),
    "SCALE_EQUALIZER.ENABLED": _FLAG,
    "SCALE_EQUALIZER.SCOPE": _one_of("head", "all"),
    "SCALE_EQUALIZER.IMPLEMENTATION": _one_of("reparametrize", "module", "init", "init_scaled"),
    "SCALE_EQUALIZER.GRANULARITY": _one_of("branch", "channel"),
    "SCALE_EQUALIZER.STATISTIC": _one_of("std", "rms", "grad"),
    "SCALE_EQUALIZER.STATISTICS_OF": _one_of("upsampled", "source"),
    "SCALE_EQUALIZER.CONTROL": _one_of(
        "common", "permuted", "balanced", "batch_norm", "learnable", "learnable_from_std", "noise", "learning_rate", ""
    ),
    "SCALE_EQUALIZER.NUM_IMAGES": _count("[-1, inf)", "images; 0: as many as needed; -1: all"),
    "SCALE_EQUALIZER.STATISTICS_PERIOD": _count("[0, inf)", "iterations; 0: never"),
}

_INPUT = {
    "MIN_SIZE_TRAIN": Range("integers", _SIDE, "pixels, of the shorter side; 0: the image's", filled=True),
    "MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "MAX_SIZE_TRAIN": _LIMIT,
    "MIN_SIZE_TEST": _count(_SIDE, "pixels, of the shorter side; 0: the image's"),
    "MAX_SIZE_TEST": _LIMIT,
    "RANDOM_FLIP": _one_of("horizontal", "vertical", "none"),
    "FORMAT": _one_of("RGB", "BGR"),
    "CROP.ENABLED": _FLAG,
    "CROP.TYPE": _one_of("absolute", "relative", "relative_range", "absolute_range"),
    "CROP.SIZE": Range("numbers", "(0, 65536]", "pixels, or shares of the image's sides", length=(2,)),
    "CROP.SINGLE_CATEGORY_MAX_AREA": _real("(0, 1]", "a share of the crop"),
    "COLOR_AUG_SSD": _FLAG,
    "AUGMENTATION": Range("text", unit="module:function, a user's; empty: none"),
}

_DATA = {
    "DATASETS.TRAIN": Range("names", unit="registered, or folder:PATH/SPLIT"),
    "DATASETS.TEST": Range("names", unit="registered, or folder:PATH/SPLIT"),
    "DATASETS.TRAIN_FRACTION": _real("(0, 1]", "a share of the images"),
    "DATASETS.ALLOW_OVERLAP": _FLAG,
    "DATALOADER.WEIGHTS": Range("numbers", "(0, 1e6]", "shares, one a set of DATASETS.TRAIN; empty: by their sizes"),
    "DATALOADER.NUM_WORKERS": _count("[0, 1024]", "processes; 0: this one"),
}

_SOLVER = {
    "OPTIMIZER": _one_of("SGD", "ADAMW"),
    "FUSED": _FLAG,
    "LR_SCHEDULER_NAME": _one_of("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR"),
    "MAX_ITER": _count("[1, 1e9]", "iterations"),
    "IMS_PER_BATCH": _count("[1, 1048576]", "images of a whole step"),
    "ACCUMULATE": _count("[1, 1048576]", "passes a step"),
    "BASE_LR": _real("[1e-12, 100]", "a learning rate"),
    "BASE_LR_END": _real("[0, 100]", "a learning rate"),
    "MOMENTUM": _real("[0, 1)", "the share that is kept"),
    "NESTEROV": _FLAG,
    "WEIGHT_DECAY": _real("[0, 10]", "a factor"),
    "WEIGHT_DECAY_NORM": _real("[0, 10]", "a factor"),
    "WEIGHT_DECAY_BIAS": _real("[0, 10]", "a factor; None: WEIGHT_DECAY", none=True),
    "WEIGHT_DECAY_EMBED": _real("[0, 10]", "a factor"),
    "BIAS_LR_FACTOR": _real("[0, 1000]", "a factor on the learning rate"),
    "BACKBONE_MULTIPLIER": _real("[0, 1000]", "a factor on the learning rate"),
    "LAYER_DECAY": _real("(0, 1]", "a factor on the learning rate"),
    "LAYER_DECAY_BY": _one_of("stage", "block"),
    "LAYER_DECAY_LAYERS": _count("[0, 1024]", "layers; 0: those of the backbone"),
    "GAMMA": _real("(0, 1]", "a factor on the learning rate"),
    "STEPS": Range("integers", "[1, inf)", "iterations"),
    "WARMUP_FACTOR": _real("[0, 1]", "a factor on the learning rate"),
    "WARMUP_ITERS": _count("[0, inf)", "iterations"),
    "WARMUP_METHOD": _one_of("linear", "constant"),
    "RESCALE_INTERVAL": _FLAG,
    "POLY_LR_POWER": _real("[0, 100]", "an exponent"),
    "POLY_LR_CONSTANT_ENDING": _real("[0, 1]", "a factor on the learning rate"),
    "CLIP_GRADIENTS.ENABLED": _FLAG,
    "CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm", "full_model"),
    "CLIP_GRADIENTS.CLIP_VALUE": _real("(0, 1e9]", "the limit"),
    "CLIP_GRADIENTS.NORM_TYPE": _real("[1, inf]", "the p of the norm"),
    "AMP.ENABLED": _FLAG,
    "AMP.DTYPE": _one_of("bfloat16", "float16"),
    "EMA_DECAY": _real("[0, 1)", "the share that is kept; 0: no average"),
    "CHECKPOINT_PERIOD": _count("[1, inf)", "iterations"),
    "KEEP_CHECKPOINTS": _count("[0, inf)", "checkpoints; 0: all"),
    "KEEP_WEIGHTS_ALONE": _FLAG,
    "KEEP_LINKED": _FLAG,
    "EARLY_STOP_PATIENCE": _count("[0, inf)", "evaluations; 0: never"),
}

_TEST = {
    "EVAL_PERIOD": _count("[0, inf)", "iterations; 0: at the end alone"),
    "EXPECTED_RESULTS": Range("rows", unit="[task, metric, value, tolerance]"),
    "BEST_METRIC": Range("text", unit="task/metric; empty: the first task's headline"),
    "SINGLE_TASK_RESULTS": Range("text", unit="a JSON file; empty: none"),
    "VALIDATION_LOSS": _FLAG,
    "ABSENT_CLASSES": _one_of("exclude", "zero", "one", "truth"),
    "BOUNDARY": _FLAG,
    "OUTPUT": Range("names", choices=("labels", "overlays", "submission")),
    "DEPTH.CROP": _one_of("eigen_nyu", ""),
    "DEPTH.MIN": _real("[0, 1e5]", "metres"),
    "DEPTH.MAX": _real("[0, 1e5]", "metres; 0: no limit"),
    "EDGES.MATCH": _FLAG,
    "EDGES.MAX_DISTANCE": _real("(0, 1)", "a share of the image's diagonal"),
    "SALIENCY.MAX_F": _one_of("pooled_19", "pooled_255", "images_15"),
    "SLIDE.WINDOW": Range("integers", "[1, 65536]", "pixels: one number, or height and width", length=(0, 1, 2)),
    "SLIDE.STRIDE": Range("integers", "[1, 65536]", "pixels: one number, or height and width", length=(0, 1, 2)),
    "SLIDE.AGGREGATE_ON": _one_of("device", "cpu"),
    "AUG.ENABLED": _FLAG,
    "AUG.FLIP": _FLAG,
    "AUG.SCALES": Range("numbers", "(0, 100]", "factors on the image's size", filled=True),
    "AUG.COMBINE": _one_of("softmax", "exp_sum"),
}


def _rows() -> Iterator[tuple[str, Range]]:
    for section, table in (("MODEL", _MODEL), ("INPUT", _INPUT), ("SOLVER", _SOLVER), ("TEST", _TEST)):
        yield from ((f"{section}.{name}", row) for name, row in table.items())
    yield from _DATA.items()
    yield "OUTPUT_DIR", Range("name", unit="a folder")
    yield "SEED", _count("[-1, 4000000000]", "-1: drawn")
    yield "CUDNN_BENCHMARK", _FLAG
    yield "FLOAT32_PRECISION", _one_of("highest", "high", "medium", "")
    yield "DETERMINISTIC", _FLAG
    yield "WANDB.ENABLED", _FLAG
    yield "WANDB.PROJECT", Range("name", unit="a project")
    yield "WANDB.NAME", _TEXT
    yield "VERSION", _count("[2, 2]", "of Detectron2's config")


RANGES: dict[str, Range] = dict(_rows())

_DETECTORS = "it is of Detectron2's detectors; MODEL.DETECTOR describes a TorchvisionDetector"
_BACKBONES = "it is of Detectron2's own backbones"
_SCALES = "images are scaled by TEST.AUG.SCALES, factors on the size that INPUT.MIN_SIZE_TEST gives them"
_PROPOSALS = "there are no proposals"
# Keys of Detectron2 that nothing reads: a key, or a section with its point -> why.
UNREAD: dict[str, str] = {
    **dict.fromkeys(("MODEL.LOAD_PROPOSALS", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON"), _DETECTORS),
    **{
        f"MODEL.{part}.": _DETECTORS
        for part in (
            "PROPOSAL_GENERATOR",
            "ANCHOR_GENERATOR",
            "RPN",
            "ROI_HEADS",
            "ROI_BOX_HEAD",
            "ROI_BOX_CASCADE_HEAD",
            "ROI_MASK_HEAD",
            "ROI_KEYPOINT_HEAD",
            "PANOPTIC_FPN",
            "RETINANET",
        )
    },
    "TEST.DETECTIONS_PER_IMAGE": _DETECTORS,
    "TEST.KEYPOINT_OKS_SIGMAS": _DETECTORS,
    "VIS_PERIOD": "training draws pictures of its evaluations, every TEST.EVAL_PERIOD, and none of its batches",
    "MODEL.RESNETS.": f"{_BACKBONES}; here MODEL.TIMM describes the backbone",
    "MODEL.FPN.": f"{_BACKBONES}; use MODEL.PYRAMID",
    "INPUT.MASK_FORMAT": "there are no instance masks",
    "DATASETS.PROPOSAL_FILES_TRAIN": _PROPOSALS,
    "DATASETS.PROPOSAL_FILES_TEST": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _PROPOSALS,
    "DATALOADER.ASPECT_RATIO_GROUPING": "images of a batch are padded to one size, or INPUT.CROP cuts them to one",
    "DATALOADER.SAMPLER_TRAIN": "every epoch takes each image once, in an order of its own",
    "DATALOADER.REPEAT_THRESHOLD": "no image is repeated within an epoch",
    "DATALOADER.REPEAT_SQRT": "no image is repeated within an epoch",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "every image of a data set is trained on",
    "SOLVER.NUM_DECAYS": "it is of WarmupStepWithFixedGammaLR, which is not here; use WarmupMultiStepLR with STEPS",
    "SOLVER.REFERENCE_WORLD_SIZE": "IMS_PER_BATCH is the batch of a whole step, with any number of processes",
    "TEST.AUG.MIN_SIZES": _SCALES,
    "TEST.AUG.MAX_SIZE": _SCALES,
    "TEST.PRECISE_BN.": "running statistics of batch norms are used as training leaves them",
    "GLOBAL.HACK": "it has no meaning",
}


def markdown_table() -> str:
    """The table of docs/config.md."""
    lines = ["| key | what it is | values |", "|---|---|---|"]
    for key, row in sorted(RANGES.items()):
        values = ", ".join(f"`{choice}`" if choice != "" else "empty" for choice in row.choices)
        bounds = f"`{row.bounds}`".replace("|", "\\|") if row.bounds else ""
        kind = row.kind + (f", {' or '.join(map(str, row.length))} of them" if row.length else "")
        kind += ", at least one" if row.filled else ", or None" if row.none else ""
        lines.append(f"| {key} | {kind}{f': {row.unit}' if row.unit else ''} | {values or bounds} |")
    return "\n".join(lines)


def unread_table() -> str:
    """The table of docs/config.md: keys, and sections that end with a point, that nothing reads."""
    return "\n".join(["| key | why |", "|---|---|", *(f"| {key} | {reason} |" for key, reason in UNREAD.items())])
