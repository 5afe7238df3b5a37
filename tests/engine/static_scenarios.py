"""Scenarios of the static half: engine, empty folder -> what happened, as plain data.

Each is run through both engines and compared at zero tolerance. Detectron2's records of SCENARIOS are also kept as
goldens; those of FLOAT_SCENARIOS are not, since their last bits belong to a machine.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from tests.engine.running_sides import captured_log, outcome

Engine = SimpleNamespace


def as_data(tensor: Tensor) -> list[Any]:
    """Type, shape, strides and every value, to the last bit."""
    return [str(tensor.dtype), list(tensor.shape), list(tensor.stride()), tensor.detach().double().flatten().tolist()]


# --- config ---


def config_tree(engine: Engine, folder: Path) -> Any:
    """Every key in order, with the type and the value of its default."""

    def walk(node: Any, prefix: str = "") -> list[list[Any]]:
        rows = []
        for key, value in node.items():
            is_section = isinstance(value, engine.CfgNode)
            rows.append([prefix + key, type(value).__name__, None if is_section else repr(value)])
            rows += walk(value, f"{prefix}{key}.") if is_section else []
        return rows

    first, second = engine.get_cfg(), engine.get_cfg()
    first.MODEL.PIXEL_MEAN.append(0.0)
    return [walk(second), first.is_frozen(), first.is_new_allowed()]


def config_use(engine: Engine, folder: Path) -> Any:
    """Files with bases, overrides, freezing, the text form, and what is refused with which error."""
    (folder / "a.yaml").write_text("SOLVER: {BASE_LR: 1e-3, STEPS: [1, 2]}\nMODEL:\n  WEIGHTS: a\n  MASK_ON: true\n")
    (folder / "b.yaml").write_text("VERSION: 2\nSOLVER: {MAX_ITER: 7, WEIGHT_DECAY_BIAS: 0.5}\n")
    (folder / "c.yaml").write_text(
        "_BASE_: [a.yaml, b.yaml]\nVERSION: 2\nMODEL: {WEIGHTS: c}\nDATASETS: {TRAIN: [x]}\n"
    )
    (folder / "unknown.yaml").write_text("VERSION: 2\nNO_SUCH: 1\n")
    (folder / "type.yaml").write_text("VERSION: 2\nSOLVER: {MAX_ITER: seven}\n")
    cfg = engine.get_cfg()
    record: dict[str, Any] = {"merged": outcome(cfg.merge_from_file, str(folder / "c.yaml"))}
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.STEPS", "(3, 4)", "SOLVER.NESTEROV", "True", "SEED", 5])
    record["dump"] = yaml.safe_load(cfg.dump())  # which equal values share an anchor is the interpreter's choice
    record["text"] = str(cfg)
    for name in ("unknown.yaml", "type.yaml", "absent.yaml"):
        record[name] = outcome(engine.get_cfg().merge_from_file, str(folder / name))
    for pair in (["SEED"], ["SED", 1], ["SEED", "x"], ["SOLVER.STEPS", 3], ["_BASE_", "x"]):
        record[f"list {pair}"] = outcome(cfg.merge_from_list, pair)
    clone = cfg.clone()
    cfg.freeze()
    record["frozen"] = outcome(setattr, cfg.SOLVER, "MAX_ITER", 1)
    record["clone"] = [type(clone) is type(cfg), clone == cfg, clone.is_frozen(), clone.SOLVER is cfg.SOLVER]
    clone.NEW = engine.CfgNode({"A": {"B": (1, 2)}, "COMPUTED_C": 3})
    record["new"] = [type(clone.NEW.A) is engine.CfgNode, clone.NEW.A.B, clone.NEW.COMPUTED_C]
    record["bad value"] = outcome(setattr, clone, "NEW", object())
    return record


# --- registries and builders ---


def builders(engine: Engine, folder: Path) -> Any:
    """What is built by name, with which arguments, and what an unknown or taken name raises."""

    class TinyBackbone(engine.Backbone):
        def __init__(self, cfg: Any, input_shape: Any) -> None:
            super().__init__()
            self.conv = nn.Conv2d(input_shape.channels, 4, 1)
            self._out_features = ["res2"]
            self._out_feature_channels = {"res2": 4, "res3": 8}
            self._out_feature_strides = {"res2": 4, "res3": 8}

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"res2": self.conv(x)}

    def scenario_head(cfg: Any, input_shape: Any) -> Any:
        return ["head", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, sorted(input_shape)]

    def scenario_not_backbone(cfg: Any, input_shape: Any) -> nn.Module:
        return nn.Identity()

    class ScenarioModel(nn.Module):
        def __init__(self, cfg: Any) -> None:
            super().__init__()
            self.backbone = engine.build_backbone(cfg)

    entries = [
        (engine.BACKBONE_REGISTRY, TinyBackbone), (engine.BACKBONE_REGISTRY, scenario_not_backbone),
        (engine.SEM_SEG_HEADS_REGISTRY, scenario_head), (engine.META_ARCH_REGISTRY, ScenarioModel),
    ]  # fmt: skip
    for registry, thing in entries:
        registry.register(thing)
    try:
        return _build_everything(engine, TinyBackbone)
    finally:
        for registry, thing in entries:
            del registry._obj_map[thing.__name__]


def _build_everything(engine: Engine, backbone_class: Any) -> Any:
    cfg = engine.get_cfg()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = "ScenarioModel", "TinyBackbone"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "scenario_head"
    model = engine.build_model(cfg)
    backbone = engine.build_backbone(cfg, engine.ShapeSpec(channels=5))
    record: list[Any] = [
        [model.training, str(model.backbone.conv.weight.device), list(model.state_dict())],
        [model.backbone.conv.in_channels, backbone.conv.in_channels, backbone.conv.weight.device.type],
        [backbone.size_divisibility, backbone.padding_constraints, repr(backbone.output_shape())],
        outcome(engine.build_sem_seg_head, cfg, backbone.output_shape()),
        outcome(engine.Backbone),
        outcome(engine.BACKBONE_REGISTRY.register, backbone_class),
        ["TinyBackbone" in engine.BACKBONE_REGISTRY, "Nothing" in engine.BACKBONE_REGISTRY],
        [repr(engine.ShapeSpec()), engine.ShapeSpec(1, 2, 3, 4) == engine.ShapeSpec(1, 2, 3, stride=4)],
        outcome(hash, engine.ShapeSpec()),
    ]
    cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.BACKBONE.NAME = cfg.MODEL.SEM_SEG_HEAD.NAME = "Nothing"
    record += [outcome(engine.build_model, cfg), outcome(engine.build_backbone, cfg)]
    record += [outcome(engine.build_sem_seg_head, cfg, {})]
    cfg.MODEL.BACKBONE.NAME = "scenario_not_backbone"
    return [*record, outcome(engine.build_backbone, cfg)]


def batch_norm(engine: Engine, folder: Path) -> Any:
    """Names, printed form, buffers after a step on exact numbers, and refusals, in one process."""
    norm = engine.NaiveSyncBatchNorm(2, momentum=0.5)
    norm(torch.tensor([1.0, 3.0, -2.0, 2.0]).reshape(1, 2, 1, 2))
    record = [repr(norm), list(norm.state_dict()), as_data(norm.running_mean), as_data(norm.running_var)]
    record += [int(norm.num_batches_tracked), repr(engine.NaiveSyncBatchNorm(2, stats_mode="N", eps=1.0))]
    wrong = torch.zeros(2, 1, 2)
    return [*record, outcome(engine.NaiveSyncBatchNorm, 2, stats_mode="mean"), outcome(norm, wrong)]


def batch_norm_floats(engine: Engine, folder: Path) -> Any:
    """Training and evaluation with gradients in one process."""
    generator = torch.Generator().manual_seed(1)
    record = []
    for mode in ("", "N"):
        norm = engine.NaiveSyncBatchNorm(3, stats_mode=mode)
        x = torch.randn(4, 3, 5, 2, generator=generator, requires_grad=True)
        norm(x).square().sum().backward()
        record += [as_data(t) for t in (norm(x), norm.running_mean, norm.running_var, x.grad, norm.eval()(x))]
    return record


# --- datasets ---


def catalogs(engine: Engine, folder: Path) -> Any:
    """Registering, asking and forgetting, and what is refused with which error."""
    datasets, metadata = engine.DatasetCatalog, engine.MetadataCatalog
    record: list[Any] = [outcome(datasets.register, "scenario_a", lambda: [{"file_name": "x"}])]
    try:
        record += [datasets.get("scenario_a"), "scenario_a" in datasets, "scenario_a" in datasets.list()]
        record += [outcome(datasets.register, "scenario_a", list), outcome(datasets.register, "scenario_b", 3)]
        record += [
            outcome(datasets.get, "scenario_b"),
            outcome(datasets.remove, "scenario_b"),
            "scenario_a" in str(datasets),
        ]
        known = metadata.get("scenario_a")
        record += [known is metadata.get("scenario_a"), known.name, known.as_dict(), "scenario_a" in metadata.list()]
        record += [known.set(stuff_classes=["a"], ignore_label=255) is known, known.as_dict()]
        known.stuff_classes = ["a"]
        record += [outcome(setattr, known, "stuff_classes", ["b"]), outcome(setattr, known, "name", "other")]
        record += [
            known.get("ignore_label"),
            known.get("nothing"),
            known.get("nothing", 3),
            outcome(getattr, known, "nothing"),
        ]
        record += [known.get("get", None) is None, hasattr(known, "evaluator_type"), outcome(metadata.get, "")]
        known.as_dict()["ignore_label"] = 0
        record += [known.ignore_label, repr(known), "scenario_a" in str(metadata)]
    finally:
        datasets.pop("scenario_a", None)
        metadata.pop("scenario_a", None)
    return [
        *record,
        "scenario_a" in datasets,
        outcome(metadata.remove, "scenario_a"),
        outcome(datasets.get, "scenario_a"),
    ]


def inference_sampler(engine: Engine, folder: Path) -> Any:
    """Whole streams, and the shards of every rank for sizes below, at and beyond the number of processes."""
    sampler = engine.InferenceSampler(5)
    shard = engine.InferenceSampler._get_local_indices
    shards = [
        [list(shard(size, world, rank)) for rank in range(world)] for size in (1, 2, 7, 8, 9) for world in (1, 2, 4)
    ]
    refused = [outcome(engine.InferenceSampler, size) for size in (0, -1)]
    return [list(sampler), list(sampler), len(sampler), shards, refused]


# --- checkpoints ---


def detection_checkpointer(engine: Engine, folder: Path) -> Any:
    """Which files with which keys, what is loaded back, what is returned and logged."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, width, 1)
            self.register_buffer("pixel_mean", torch.zeros(1))
            nn.init.constant_(self.conv.weight, width)

    model, optimizer = Model(2), torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    checkpointer = engine.DetectionCheckpointer(model, str(folder), optimizer=optimizer)
    record: list[Any] = [checkpointer.has_checkpoint(), checkpointer.get_checkpoint_file(), checkpointer.save_to_disk]
    checkpointer.save("model_0000004", iteration=4, note="x")
    record += [sorted(path.name for path in folder.iterdir()), (folder / "last_checkpoint").read_text()]
    content = torch.load(folder / "model_0000004.pth", weights_only=True)
    record += [list(content), list(content["model"]), Path(checkpointer.get_checkpoint_file()).name]
    record += [[Path(name).name for name in checkpointer.get_all_checkpoint_files()]]
    nn.init.zeros_(model.conv.weight)
    record += [checkpointer.resume_or_load("", resume=True), as_data(model.conv.weight)]
    record += [list(checkpointer.load(str(folder / "model_0000004.pth"), checkpointables=[]))]
    record += [checkpointer.load(""), outcome(checkpointer.load, str(folder / "absent.pth"))]
    record += [outcome(checkpointer.add_checkpointable, "optimizer", optimizer), outcome(checkpointer.save, "a/b")]
    (folder / "other").mkdir()
    state = {f"module.{name}": tensor for name, tensor in Model(3).state_dict().items() if name != "pixel_mean"}
    torch.save(state | {"module.extra": torch.ones(1)}, folder / "other" / "plain.pth")
    logger_root = SimpleNamespace(root="fvcore")
    checkpointer = engine.DetectionCheckpointer(
        model, str(folder), optimizer=optimizer
    )  # an error leaves traces in one
    with captured_log(logger_root) as log:
        record += [
            checkpointer.resume_or_load(str(folder / "other" / "plain.pth"), resume=False),
            as_data(model.conv.weight),
        ]
    record += [[line for line in log if line[1] == "WARNING"]]
    silent = engine.DetectionCheckpointer(Model(1), str(folder / "silent"), save_to_disk=False)
    return [*record, outcome(silent.save, "model"), (folder / "silent").exists(), type(checkpointer.model) is Model]


_GOLDEN = (config_tree, config_use, builders, batch_norm, catalogs)
_GOLDEN += (inference_sampler, detection_checkpointer)
SCENARIOS = {scenario.__name__: scenario for scenario in _GOLDEN}
FLOAT_SCENARIOS = {scenario.__name__: scenario for scenario in (batch_norm_floats,)}
