"""The table of ranges: it has every key, its words are those of the code, its page shows it, and it refuses."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

import scaleeq.segmentor  # noqa: F401  (registers what names stand for)
from scaleeq import engine, fusion, inference
from scaleeq.backbones import depth, hrnet, timm, vit
from scaleeq.choices import flatten
from scaleeq.config import add_scaleeq_config, check_config
from scaleeq.config.check import OUR_ARCHITECTURES, OUR_BACKBONES
from scaleeq.config.detection import PYRAMID_BACKBONES
from scaleeq.config.ranges import RANGES, UNREAD, Range, markdown_table, unread_table
from scaleeq.data import augmentation, reading
from scaleeq.decoders import extra
from scaleeq.decoders import final as final_fusion
from scaleeq.decoders import pyramid as build
from scaleeq.detection import torchvision_heads
from scaleeq.engine import BACKBONE_REGISTRY, META_ARCH_REGISTRY, load_config
from scaleeq.equalization import spec as equalizer_spec
from scaleeq.evaluation import ABSENT_POLICIES, writing
from scaleeq.evaluation import depth as depth_metrics
from scaleeq.evaluation import saliency as saliency_metrics
from scaleeq.layers import gate, norm
from scaleeq.tasks import joint, weighting
from scaleeq.tasks.losses import ohem, pixels
from scaleeq.training import solver, step
from tests.training.tiny import BASE

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "projects" / "ScaleEq" / "scaleeq"


def defaults() -> Any:
    cfg = engine.get_cfg()
    add_scaleeq_config(cfg)
    return cfg


# ---------------------------------------------------------------------------------------------------- the table


def unread(key: str) -> list[str]:
    return [entry for entry in UNREAD if key == entry or (entry.endswith(".") and key.startswith(entry))]


def test_every_key_is_in_one_place():
    keys = dict(flatten(defaults()))
    assert [key for key in keys if (key in RANGES) + len(unread(key)) != 1] == []
    assert [key for key in RANGES if key not in keys] == []
    assert [entry for entry in UNREAD if not any(entry in unread(key) for key in keys)] == []


def test_every_default_is_in_its_range():
    cfg = load_config(BASE)
    for key, value in flatten(cfg):
        if key in RANGES:
            RANGES[key].check(key, value)


WORDS = {
    "MODEL.GATE": gate.GATES,
    "MODEL.TIMM.OUTPUT_STRIDE": timm.OUTPUT_STRIDES,
    "MODEL.HRNET.GATES": hrnet.GATES,
    "MODEL.VIT.PYRAMID": vit.PYRAMIDS,
    "MODEL.SEM_SEG_HEAD.NORM": (*norm.NORMS, "SyncBN"),
    "MODEL.PYRAMID.NAME": ("", *build.PYRAMIDS),
    "MODEL.PYRAMID.NORM": (*norm.NORMS, "SyncBN"),
    "MODEL.PYRAMID.LATERAL": ("", *fusion.LATERALS),
    "MODEL.PYRAMID.TRANSFER": ("", *build.PYRAMID_TRANSFERS),
    "MODEL.PYRAMID.DOWN_TRANSFER": ("", *fusion.DOWN_TRANSFERS),
    "MODEL.PYRAMID.COMBINE": ("", *build.PYRAMID_COMBINES),
    "MODEL.PYRAMID.RECURSION": ("", *build.RECURSIONS),
    "MODEL.PYRAMID.EXTRA_LEVELS": ("", *extra.EXTRA_LEVELS),
    "MODEL.FUSION.TRANSFER": ("", *final_fusion.FINAL_TRANSFERS),
    "MODEL.FUSION.COMBINE": ("", *fusion.COMBINES),
    "MODEL.FUSION.EVALUATE": fusion.EVALUATIONS,
    "MODEL.LOSS.AVERAGE_OVER": pixels.AVERAGES,
    "MODEL.LOSS.OHEM": ("off", *ohem.OHEM_KINDS),
    "MODEL.SCALE_EQUALIZER.IMPLEMENTATION": equalizer_spec.IMPLEMENTATIONS,
    "MODEL.SCALE_EQUALIZER.GRANULARITY": equalizer_spec.GRANULARITIES,
    "MODEL.SCALE_EQUALIZER.STATISTIC": equalizer_spec.STATISTICS,
    "MODEL.SCALE_EQUALIZER.STATISTICS_OF": equalizer_spec.STATISTICS_OF,
    "MODEL.SCALE_EQUALIZER.CONTROL": equalizer_spec.CONTROLS,
    "MODEL.DETECTOR.NAME": torchvision_heads.DETECTORS,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": augmentation.SAMPLINGS,
    "INPUT.RANDOM_FLIP": augmentation.FLIPS,
    "INPUT.FORMAT": reading.IMAGE_FORMATS,
    "INPUT.CROP.TYPE": augmentation.CROP_TYPES,
    "MODEL.TASKS.SHARE": joint.SHARES,
    "MODEL.TASKS.WEIGHTING": weighting.WEIGHTINGS,
    "SOLVER.OPTIMIZER": solver.OPTIMIZERS,
    "SOLVER.LR_SCHEDULER_NAME": solver.SCHEDULES,
    "SOLVER.WARMUP_METHOD": solver.WARMUPS,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": solver.CLIP_TYPES,
    "SOLVER.LAYER_DECAY_BY": depth.WAYS,
    "SOLVER.AMP.DTYPE": step.DTYPES,
    "TEST.ABSENT_CLASSES": ABSENT_POLICIES,
    "TEST.OUTPUT": writing.KINDS,
    "TEST.DEPTH.CROP": ("", *depth_metrics.CROPS),
    "TEST.SALIENCY.MAX_F": saliency_metrics.KINDS,
    "TEST.SLIDE.AGGREGATE_ON": inference.AGGREGATE_ON,
    "TEST.AUG.COMBINE": inference.COMBINES,
}
# Compared with a literal where they are read, or read by the engine.
ELSEWHERE = {
    "MODEL.FUSION.EVALUATE",
    "MODEL.HRNET.TRANSFER",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
    "MODEL.SCALE_EQUALIZER.SCOPE",
    "MODEL.TIMM.NORM",
    "FLOAT32_PRECISION",
}


def test_the_words_are_those_of_the_code():
    assert {key for key, row in RANGES.items() if row.choices} == WORDS.keys() | ELSEWHERE
    for key, words in WORDS.items():
        assert sorted(map(str, RANGES[key].choices)) == sorted(map(str, words)), key


def test_our_names_are_those_that_are_registered():
    ours = lambda registry: {name for name, made in registry if inspect.getmodule(made).__name__.startswith("scaleeq.")}  # noqa: E731
    assert ours(META_ARCH_REGISTRY) == set(OUR_ARCHITECTURES)
    assert ours(BACKBONE_REGISTRY) == {*OUR_BACKBONES, *PYRAMID_BACKBONES}


def test_the_page_has_the_tables_as_printed():
    page = (ROOT / "docs" / "config.md").read_text()
    assert f"\n\n{markdown_table()}\n\n" in page and f"\n\n{unread_table()}\n" in page


# ---------------------------------------------------------------------------------------------------- who reads what


class Recorder(engine.CfgNode):
    """A config that notes which of its keys are read as attributes."""

    read: ClassVar[set[str]] = set()

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if not isinstance(value, engine.CfgNode) and "path" in self.__dict__:
            Recorder.read.add(f"{self.__dict__['path']}{name}")
        return value


def recording(cfg: Any, path: str = "") -> Recorder:
    node = Recorder({name: value for name, value in cfg.items() if not isinstance(value, engine.CfgNode)})
    for name, value in cfg.items():
        if isinstance(value, engine.CfgNode):
            dict.__setitem__(node, name, recording(value, f"{path}{name}."))
    node.__dict__["path"] = path
    return node


def test_keys_without_effect_are_read_by_nothing(tmp_path):
    """By a whole run: training, a checkpoint, an evaluation; but for the checks that refuse them."""
    from scaleeq.training import Trainer
    from tests.training.tiny import tiny_config

    Recorder.read.clear()
    cfg = recording(tiny_config(tmp_path, SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0, MODEL__TIMM__NAME="test_resnet"))
    Trainer(cfg).train()
    read = {key for key in Recorder.read if not key.startswith("MODEL.FPN")}
    assert {"SOLVER.BASE_LR", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "INPUT.CROP.SIZE", "TEST.EVAL_PERIOD"} <= read
    assert [key for key in read if unread(key)] == []


def test_keys_with_a_range_are_read_by_something():
    """A name that stands in no file of the package is not read; which of several keys of one name is, does not show."""
    files = [
        path for path in PACKAGE.rglob("*.py") if path.parent.name != "config" and path.name != "config_defaults.py"
    ]
    words = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", "\n".join(path.read_text() for path in files)))
    assert [key for key in RANGES if key.rpartition(".")[2] not in words] == []


# ---------------------------------------------------------------------------------------------------- refusals


def refused(key: str, value: Any, message: str, *words: Any) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(key)} .*{message}"):
        load_config(BASE, [*words, key, value])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("SOLVER.BACKBONE_MULTIPLIER", [-1.0, 1e12, float("nan")]),
        ("SOLVER.BIAS_LR_FACTOR", [-1.0, 1e12]),
        ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", [0.0, -1.0, 1e12, float("inf")]),
        ("MODEL.AUX_HEAD.LOSS_WEIGHTS", [[-0.4], [float("nan")], ["a"], [True], 0.4]),
        ("SOLVER.WEIGHT_DECAY", [-0.1, 1e12]),
        ("SOLVER.WEIGHT_DECAY_NORM", [-0.1, 1e12]),
        ("SOLVER.WEIGHT_DECAY_BIAS", [-0.1, "none", "x", [0.1]]),
        ("SOLVER.WEIGHT_DECAY_EMBED", [-0.1]),
        ("SOLVER.POLY_LR_POWER", [-1.0, 1e12]),
        ("SOLVER.POLY_LR_CONSTANT_ENDING", [-1.0, 2.0]),
        ("SOLVER.WARMUP_FACTOR", [-1.0, 1e12]),
        ("SOLVER.BASE_LR", [0.0, -0.1, float("nan"), float("inf"), None]),
        ("MODEL.TIMM.BN_MOMENTUM", [-0.1, 1.0, 2.0]),
        ("MODEL.SEM_SEG_HEAD.DROPOUT", [1.0, -0.1]),
        ("MODEL.PIXEL_STD", [[0.0, 1.0, 1.0], [-58.0, 57.0, 57.0], [58.0], [0.229, 0.224, 0.225]]),
        ("MODEL.PIXEL_MEAN", [[0.0], [-1.0, 2.0, 3.0]]),
        ("INPUT.MAX_SIZE_TEST", [0, -1]),
        ("INPUT.MIN_SIZE_TRAIN", [(64.5,), (), (-1,)]),
        ("TEST.EVAL_PERIOD", [-1]),
        ("MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD", [-1]),
        ("SEED", [-2, None]),
        ("DATALOADER.NUM_WORKERS", [-1]),
        ("SOLVER.STEPS", [(1.5,), (0,), ("a",)]),
        ("MODEL.DEVICE", ["gpu", "", "cuda:x"]),
        ("OUTPUT_DIR", ["", " "]),
        ("TEST.OUTPUT", [["lables"], [1]]),
        ("TEST.SLIDE.WINDOW", [[0], [1, 2, 3], [8.5]]),
    ],
)
def test_values_that_cannot_be_meant(key, values):
    for value in values:
        refused(key, value, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.LOSS.CLASS_WEIGHTS", [0.0] * 3, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3], "without any weight"),
        (["MODEL.LOSS.CLASS_WEIGHTS", [1.0] * 3, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4], "3 numbers for 4 classes"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 2, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3], "one of the classes 0 to 2"),
        (["DATASETS.TRAIN", ("a", "b", "a")], "DATASETS.TRAIN .* name a once"),
        (["DATASETS.TEST", ("a", "a")], "DATASETS.TEST .* name a once"),
        (["INPUT.MIN_SIZE_TEST", 2000, "INPUT.MAX_SIZE_TEST", 1333], "raise INPUT.MAX_SIZE_TEST"),
        (["INPUT.MIN_SIZE_TRAIN", (64, 5000)], "raise INPUT.MAX_SIZE_TRAIN"),
        (["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [64.5, 64]], "whole pixels"),
        (["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [64, 64]], "needs shares"),
        (["SOLVER.BASE_LR", 1.0, "SOLVER.WEIGHT_DECAY", 1.0], "SOLVER.WEIGHT_DECAY is 1.0 at SOLVER.BASE_LR 1.0"),
        (["SOLVER.BASE_LR_END", 1.0], "SOLVER.BASE_LR_END is 1.0"),
        (["SOLVER.OPTIMIZER", "SGD", "SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0], "SOLVER.NESTEROV is True"),
    ],
)
def test_values_that_contradict_each_other(words, message):
    with pytest.raises(ValueError, match=message):
        load_config(BASE, words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("DATALOADER.REPEAT_THRESHOLD", 0.1),
        ("SOLVER.REFERENCE_WORLD_SIZE", 8),
        ("SOLVER.NUM_DECAYS", 4),
        ("TEST.PRECISE_BN.ENABLED", True),
        ("VIS_PERIOD", 10),
        ("MODEL.RPN.NMS_THRESH", 0.5),
        ("MODEL.MASK_ON", True),
        ("MODEL.RESNETS.DEPTH", 101),
        ("MODEL.FPN.NORM", "BN"),
    ],
)
def test_keys_that_nothing_reads(key, value, tmp_path):
    refused(key, value, "but nothing reads it: ")
    file = tmp_path / "a.yaml"
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    file.write_text(yaml.safe_dump({"_BASE_": str(BASE), **tree}))
    with pytest.raises(ValueError, match="but nothing reads it"):
        load_config(file)
    load_config(BASE, [key, dict(flatten(defaults()))[key]])
    load_config(BASE, [key, value, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"])
    if key.startswith(("MODEL.RESNETS", "MODEL.FPN")):
        load_config(BASE, [key, value, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"])


def test_trees_of_others_are_checked_for_what_they_have():
    check_config(engine.CfgNode({"A": {"B": -1}}))
    with pytest.raises(ValueError, match="SEED is -5"):
        check_config(engine.CfgNode({"SEED": -5}))


@pytest.mark.parametrize(
    ("range_", "value", "told"),
    [
        (Range("integer", "[1, 4]", "pixels"), 9, "A.B is 9; expected an integer in [1, 4]: pixels"),
        (Range("name", "[a-z]+"), "X", "A.B is 'X'; expected a name that matches [a-z]+"),
        (Range("numbers", "(0, 1]", length=(0, 2)), [0.5], "A.B is [0.5]; expected a list of 0 or 2 numbers in (0, 1]"),
    ],
)
def test_a_refusal_says_what_is_expected(range_, value, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        range_.check("A.B", value)


def test_bounds_are_read_as_they_are_printed():
    for bounds, inside, outside in (
        ("[0, 1)", (0, 0.5), (1, -1e-9, float("nan"))),
        ("(0, 1]", (1, 1e-300), (0, 1.1)),
        ("[1, inf)", (1, 1e300), (0.9, float("inf"))),
        ("[1, inf]", (1, float("inf")), (float("nan"), -float("inf"))),
    ):
        row = Range("number", bounds)
        for value in inside:
            row.check("KEY", value)
        for value in outside:
            with pytest.raises(ValueError, match="KEY is "):
                row.check("KEY", value)
