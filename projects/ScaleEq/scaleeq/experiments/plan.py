"""The file of a comparison: variants of a config, seeds, and who is compared with whom; checked before anything runs.

    name: short                              # optional: the file's name
    base: ../toy/fpn.yaml                    # relative to this file, as _BASE_ is in a config
    overrides: {SOLVER.MAX_ITER: 400}        # of every variant
    seeds: [0, 1, 2, 3, 4]
    baseline: off                            # or {variant: its baseline}, where there are several
    metric: sem_seg/mIoU                     # as in metrics.json, of the last evaluation; or a list; default: headlines
    variants:
      off: {}
      equalized: {MODEL.SCALE_EQUALIZER.ENABLED: True}
      other: {config: toy/fapn}              # another base, under the same overrides
    single_tasks: {joint: [labels, depth]}   # of a variant with several tasks, those with one of them, for Delta_m

YAML reads the bare words off and on as booleans: as names of variants they are taken as written most often.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scaleeq.choices import did_you_mean, flatten
from scaleeq.config.parts import absolute
from scaleeq.engine.config_io import load_config, read_config, read_yaml_files
from scaleeq.records import Json, JsonView

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode

KEYS = ("name", "base", "overrides", "seeds", "baseline", "metric", "variants", "single_tasks")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # it becomes a folder
OWN_KEYS = ("SEED", "OUTPUT_DIR")  # the comparison sets them
Values = JsonView  # key -> value
# A base's expectation is not that of its variants; a finished run needs no older checkpoints.
DEFAULTS: Values = {"TEST.EXPECTED_RESULTS": [], "SOLVER.KEEP_CHECKPOINTS": 1}


@dataclass(frozen=True)
class Variant:
    """name: of its folder; config: a path or a name, as load_config takes it; overrides: key -> value, all of them."""

    name: str
    config: str
    overrides: Values

    def options(self, seed: int, output_dir: Path) -> list[str]:
        """KEY VALUE ... as train_net takes them."""
        pairs = {**self.overrides, "SEED": seed, "OUTPUT_DIR": str(output_dir)}
        return [
            word for key, value in pairs.items() for word in (key, value if isinstance(value, str) else repr(value))
        ]

    def load(self, seed: int = 0, output_dir: Path = Path("unused")) -> CfgNode:
        """The config of a run. Raises as load_config does."""
        return load_config(self.config, self.options(seed, output_dir))


@dataclass(frozen=True)
class Plan:
    """baselines: variant -> the variant that it is compared with. sha256: of the file. comment: its first lines.

    measured: variant -> the metrics that it has, of those that are compared.
    single_tasks: variant with several tasks -> task -> the variant that has this one alone.
    """

    file: Path
    sha256: str
    name: str
    comment: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    baselines: Mapping[str, str]
    measured: Mapping[str, tuple[str, ...]]
    single_tasks: Mapping[str, Mapping[str, str]]

    @property
    def metrics(self) -> list[str]:
        """All that are compared, the first one first."""
        return list(dict.fromkeys(name for metrics in self.measured.values() for name in metrics))

    def runs(self) -> list[tuple[Variant, int]]:
        """Every variant with one seed, then with the next: a comparison that is stopped early is a balanced one."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants]

    def differing_keys(self) -> dict[str, Json]:
        """Variant -> the keys that are not the same in all variants, with its values."""
        return differing({variant.name: flat(variant.load()) for variant in self.variants})


def read_plan(path: str | Path, *, seeds: Iterable[int] | None = None) -> Plan:
    """Read and check a comparison's file; no data set and no model is touched.

    seeds: instead of the file's.
    FileNotFoundError; KeyError for an unknown key; ValueError for all else that is wrong, with the way out.
    """
    path = Path(path)
    trees = list(read_yaml_files(path))
    if len(trees) > 1:
        raise ValueError(f"{path}: a comparison has no _BASE_; its base config is named by base")
    tree = trees[0][1]
    for key in tree:
        if key not in KEYS:
            known = ", ".join(KEYS)
            raise KeyError(f"{path}: {key!r} is no key of a comparison ({known}){did_you_mean(key, KEYS)}")
    variants = _variants(path, tree)
    seeds = _seeds(path, tree.get("seeds") if seeds is None else list(seeds))
    baselines = _baselines(path, tree.get("baseline"), [variant.name for variant in variants])
    _refuse_early(path, variants)
    from .metrics import read_metrics_key, read_single_tasks  # loads torch, which a mistake above does without

    configs = _configs(path, variants)
    singles = tree.get("single_tasks")
    if isinstance(singles, dict):
        singles = {_name(key): [*map(_name, of)] if isinstance(of, list) else of for key, of in singles.items()}
    return Plan(
        file=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        name=str(tree.get("name", path.stem)),
        comment=_comment(path.read_text(encoding="utf-8")),
        seeds=seeds,
        variants=variants,
        baselines=baselines,
        measured=read_metrics_key(path, tree.get("metric"), configs),
        single_tasks=read_single_tasks(path, singles, configs),
    )


def _variants(path: Path, tree: Values) -> tuple[Variant, ...]:
    shared, given = _mapping(path, "overrides", tree.get("overrides")), _mapping(path, "variants", tree.get("variants"))
    if len(given) < 2:
        raise ValueError(f"{path}: variants has {len(given)} entries; a comparison has two or more")
    # Each variant, checked.
    variants = []
    for raw_name, raw_options in given.items():
        name, options = _name(raw_name), dict(_mapping(path, f"variants.{raw_name}", raw_options))
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{path}: {name!r} cannot be a variant's name, which is a folder's too; use letters, digits, _ . + -"
            )
        # Its config and overrides.
        config = options.pop("config", tree.get("base"))
        if not isinstance(config, str):
            raise ValueError(f"{path}: variant {name} has no config; set base, or config in the variant")
        overrides = {**DEFAULTS, **shared, **options}
        if own := [key for key in overrides if key in OWN_KEYS]:
            raise ValueError(f"{path}: variant {name} sets {own[0]}, which the comparison does; use seeds and --output")
        variants.append(Variant(name, absolute(config, path.parent), overrides))
    if len({variant.name for variant in variants}) < len(variants):
        raise ValueError(f"{path}: two variants have one name")
    return tuple(variants)


def _mapping(path: Path, key: str, value: object) -> Values:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{path}: {key} is {value!r}; it holds keys with values")
    return value or {}


def _name(value: object) -> str:
    return {False: "off", True: "on"}[value] if isinstance(value, bool) else str(value)


def _seeds(path: Path, value: Any) -> tuple[int, ...]:
    valid = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    if not valid or not value or len(set(value)) < len(value):
        raise ValueError(
            f"{path}: seeds is {value!r}; give a list of different whole numbers from 0 on, such as [0, 1, 2]"
        )
    return tuple(value)


def _baselines(path: Path, value: object, names: list[str]) -> dict[str, str]:
    """One name: the baseline of all others."""
    if value is None:
        raise ValueError(f"{path}: no baseline; name one of {', '.join(names)}")
    if isinstance(value, dict):
        baselines = {_name(variant): _name(baseline) for variant, baseline in value.items()}
    else:
        baselines = {name: _name(value) for name in names if name != _name(value)}
    for name in [*baselines, *baselines.values()]:
        if name not in names:
            raise ValueError(f"{path}: baseline names {name!r}, which is no variant; choose one of {', '.join(names)}")
    if same := [name for name, baseline in baselines.items() if name == baseline]:
        raise ValueError(f"{path}: {same[0]} is its own baseline; name another variant, or leave it out")
    return baselines


def _refuse_early(path: Path, variants: Iterable[Variant]) -> None:
    """Raise what `_configs` finds wrong with a variant's config, its keys and values, without torch."""
    for variant in variants:
        with _about_errors(path, variant):
            read_config(variant.config, variant.options(0, Path("unused")))


@contextlib.contextmanager
def _about_errors(path: Path, variant: Variant) -> Iterator[None]:
    """Let what is wrong with a config name the comparison's file and the variant."""
    try:
        yield
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise about(error, f"{path}, variant {variant.name}") from error


def _configs(path: Path, variants: Iterable[Variant]) -> dict[str, CfgNode]:
    """Every variant's config, built; KeyError and ValueError as load_config has them, naming the variant."""
    seen: dict[str, str] = {}
    configs = {}
    for variant in variants:
        with _about_errors(path, variant):
            cfg = configs[variant.name] = variant.load()
        if not cfg.DATASETS.TEST:
            raise ValueError(f"{path}, variant {variant.name}: DATASETS.TEST is empty, so there is nothing to compare")
        text = cfg.dump()
        if text in seen:
            raise ValueError(
                f"{path}: variants {seen[text]} and {variant.name} are the same config; remove one of them"
            )
        seen[text] = variant.name
    return configs


def about(error: Exception, what: str) -> Exception:
    """An error of the same kind, whose message begins with what it is about."""
    return type(error)(f"{what}: {error.args[0] if len(error.args) == 1 else error}")


def _comment(text: str) -> str:
    """The lines of comment at the head of a file: the question, and what which outcome would mean."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines)


def flat(cfg: CfgNode) -> Json:
    """Full key -> plain value, of every leaf of a config."""
    return dict(flatten(yaml.safe_load(cfg.dump())))


def differing(configs: Mapping[str, Values], *, ignore: tuple[str, ...] = ()) -> dict[str, Json]:
    """name -> the keys, with its values, that are not the same in all configs.

    ignore: beginnings of keys that do not count.
    """
    keys = [
        key
        for key in dict.fromkeys(key for config in configs.values() for key in config)
        if not key.startswith(ignore) and len({repr(config.get(key)) for config in configs.values()}) > 1
    ]
    return {name: {key: config.get(key) for key in keys} for name, config in configs.items()}
