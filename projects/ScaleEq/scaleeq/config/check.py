"""check_config: every value of a config, alone and with the others, before anything is built or logged.

What only a data set, a backbone or a folder can tell is checked where that is known (training/setup.py and the
constructors).
"""

from __future__ import annotations

from collections import Counter

from scaleeq.choices import flatten

from .detection import PYRAMID_BACKBONES
from .ranges import RANGES, UNREAD
from .tasks import Values, check_tasks

# Under other architectures, which are Detectron2's or a user's own, keys of MODEL and UNREAD may mean something else.
OUR_ARCHITECTURES = ("ScaleEqSegmentor", "TorchvisionDetector")
OUR_BACKBONES = ("build_timm_backbone", "build_gsto_hrnet_backbone", "build_vit_backbone")
_OF_DETECTORS = ("TEST.DETECTIONS_PER_IMAGE", "MODEL.PANOPTIC_FPN.COMBINE.")  # those that ours read
_OF_BACKBONES = ("MODEL.RESNETS.", "MODEL.FPN.")


def check_config(cfg: Values, defaults: Values | None = None) -> None:
    """Refuse values that cannot be meant.

    cfg: a tree of keys; those that it does not have are not checked. defaults: the tree before anything was set; keys
    that nothing reads keep the values that they have there (None: they are not checked).

    ValueError: a value outside its range, a key that is set although nothing reads it, or values that contradict each
    other; names the key and the way out.
    """
    values = dict(flatten(cfg))
    is_ours = values.get("MODEL.META_ARCHITECTURE") in OUR_ARCHITECTURES
    for key, row in RANGES.items():
        if key in values and (is_ours or not key.startswith("MODEL.") or key == "MODEL.DEVICE"):
            row.check(key, values[key])
    if is_ours and defaults is not None:
        _refuse_unread(values, dict(flatten(defaults)))
    if RANGES.keys() <= values.keys():
        for key in ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.AUX_HEAD.IN_FEATURES", "MODEL.PYRAMID.OUT_FEATURES"):
            _refuse_repeated(key, values[key])
        _check_mixture(values)
        _check_sizes(values)
        _check_solver(values)
        if is_ours:
            _check_classes(values)
            _check_pyramid(values)
            check_tasks(values)


def _refuse_unread(values: Values, defaults: Values) -> None:
    foreign_backbone = values["MODEL.BACKBONE.NAME"] not in OUR_BACKBONES
    detects = values["MODEL.META_ARCHITECTURE"] == "TorchvisionDetector"
    for entry, reason in UNREAD.items():
        if entry in _OF_BACKBONES and foreign_backbone:
            continue
        keys = [key for key in values if key.startswith(entry)] if entry.endswith(".") else [entry]
        for key in keys:
            if detects and key.startswith(_OF_DETECTORS):
                continue
            if key in values and _plain(values[key]) != _plain(defaults.get(key, values[key])):
                raise ValueError(
                    f"{key} is set to {values[key]!r}, but nothing reads it: {reason}. Leave it out (the default is "
                    f"{defaults[key]!r})"
                )


def _plain(value: object) -> object:
    """A value whose lists and tuples compare as equal."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _refuse_repeated(key: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{key} is {tuple(names)!r}; name {', '.join(twice)} once")


def _check_mixture(values: Values) -> None:
    weights, sets = values["DATALOADER.WEIGHTS"], values["DATASETS.TRAIN"]
    if weights and len(weights) != len(sets):
        raise ValueError(
            f"DATALOADER.WEIGHTS is {list(weights)}, {len(weights)} for the {len(sets)} data sets of DATASETS.TRAIN "
            f"{tuple(sets)!r}; give one a set, or []"
        )


def _check_sizes(values: Values) -> None:
    for which in ("TRAIN", "TEST"):
        given, limit = values[f"INPUT.MIN_SIZE_{which}"], values[f"INPUT.MAX_SIZE_{which}"]
        largest = given if isinstance(given, int) else max(given)
        if largest > limit:
            raise ValueError(
                f"INPUT.MIN_SIZE_{which} asks for a shorter side of {largest} pixels, but INPUT.MAX_SIZE_{which} keeps "
                f"the longer one at {limit}; raise INPUT.MAX_SIZE_{which}, or lower INPUT.MIN_SIZE_{which}"
            )
    kind, size = values["INPUT.CROP.TYPE"], values["INPUT.CROP.SIZE"]
    if not values["INPUT.CROP.ENABLED"]:
        return
    if kind.startswith("absolute") and any(side != int(side) or side < 1 for side in size):
        raise ValueError(f"INPUT.CROP.SIZE is {tuple(size)!r}; INPUT.CROP.TYPE {kind!r} needs whole pixels, from 1 on")
    if kind.startswith("relative") and max(size) > 1:
        raise ValueError(f"INPUT.CROP.SIZE is {tuple(size)!r}; INPUT.CROP.TYPE {kind!r} needs shares in (0, 1]")


def _check_solver(values: Values) -> None:
    base_lr, ending = values["SOLVER.BASE_LR"], values["SOLVER.BASE_LR_END"]
    if ending > base_lr:
        raise ValueError(f"SOLVER.BASE_LR_END is {ending}; it lies in [0, SOLVER.BASE_LR = {base_lr}]")
    for name in ("WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "WEIGHT_DECAY_EMBED"):
        decay = values[f"SOLVER.{name}"] or 0.0
        if base_lr * decay >= 1:
            raise ValueError(
                f"SOLVER.{name} is {decay} at SOLVER.BASE_LR {base_lr}: each step would take all of a weight away; "
                "their product is below 1"
            )
    if values["SOLVER.OPTIMIZER"] == "SGD" and values["SOLVER.NESTEROV"] and not values["SOLVER.MOMENTUM"]:
        raise ValueError("SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0: set a momentum, or NESTEROV False")


def _check_pyramid(values: Values) -> None:
    if values["MODEL.BACKBONE.NAME"] in PYRAMID_BACKBONES:
        return
    for key in ("MODEL.PYRAMID.BOTTOM_UP", "MODEL.PYRAMID.EXTRA_LEVELS"):
        if values[key]:
            raise ValueError(
                f"{key} is {values[key]!r}, but MODEL.BACKBONE.NAME {values['MODEL.BACKBONE.NAME']!r} has no pyramid; "
                f"leave it empty, or name {PYRAMID_BACKBONES[0]}"
            )


def _check_classes(values: Values) -> None:
    num_classes, ignored = (values[f"MODEL.SEM_SEG_HEAD.{name}"] for name in ("NUM_CLASSES", "IGNORE_VALUE"))
    if ignored < num_classes:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {ignored}, one of the classes 0 to {num_classes - 1} of "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES; give a label that no class has, such as 255"
        )
    weights = values["MODEL.LOSS.CLASS_WEIGHTS"]
    if weights and len(weights) != num_classes:
        raise ValueError(
            f"MODEL.LOSS.CLASS_WEIGHTS has {len(weights)} numbers for {num_classes} classes "
            "(MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
        )
    if weights and not any(weights):
        raise ValueError(
            f"MODEL.LOSS.CLASS_WEIGHTS is {list(weights)}: without any weight there is no loss; [] is all 1"
        )
