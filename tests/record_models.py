"""What a config builds, in digests: python -m tests.record_models writes tests/goldens/models.json.

Recorded from models whose constructors made their equalizers. tests/test_model_records.py compares what is built now:
keys in order, values, the random state afterwards, or the exact refusal. Values and random states are those of one
release of torch; keys and refusals are of every one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import scaleeq.data
import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.config.parts import list_configs
from scaleeq.decoders import fapn, fpn
from scaleeq.decoders.bifpn import BiFPN
from scaleeq.decoders.context import atrous_pooling, pyramid_pooling
from scaleeq.decoders.fapn import fapn_realtime
from scaleeq.decoders.plain import smoothed_fpn
from scaleeq.engine import build_model, load_config
from scaleeq.equalization.spec import CONTROLS, IMPLEMENTATIONS
from scaleeq.training.on_meta import build_on_meta

GOLDEN = Path(__file__).parent / "goldens" / "models.json"
BASE = Path(__file__).parents[1] / "configs" / "Base.yaml"
HEAD, PYRAMID, EQUALIZER = "MODEL.SEM_SEG_HEAD", "MODEL.PYRAMID", "MODEL.SCALE_EQUALIZER"
ONE_LEVEL = [f"{HEAD}.IN_FEATURES", "['res5']", f"{HEAD}.COMMON_STRIDE", "32"]
TINY = [
    "MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "test_resnet", "MODEL.TIMM.PRETRAINED", "False",
    "MODEL.AUX_HEAD.CONVS_DIM", "8", f"{HEAD}.CONVS_DIM", "16", f"{HEAD}.NUM_CLASSES", "5",
]  # fmt: skip
MODELS = {
    "FPN": [f"{HEAD}.NAME", "SemanticFPNHead", f"{PYRAMID}.NAME", "fpn", f"{PYRAMID}.CHANNELS", "16"],
    "FaPN": [f"{HEAD}.NAME", "SemanticFPNHead", f"{PYRAMID}.NAME", "fapn", f"{PYRAMID}.CHANNELS", "16"],
    "BiFPN": [f"{HEAD}.NAME", "ESegHead"],
    "UPer": [f"{HEAD}.NAME", "UPerHead"],
    "PSP": [f"{HEAD}.NAME", "PSPHead", *ONE_LEVEL],
    "ASPP": [f"{HEAD}.NAME", "ASPPHead", *ONE_LEVEL],
    "SepASPP": [f"{HEAD}.NAME", "SepASPPHead", f"{HEAD}.IN_FEATURES", "['res2', 'res5']"],
    "FCN": [f"{HEAD}.NAME", "FCNHead", *ONE_LEVEL],
}
CHANNELS = {"p2": 8, "p3": 16, "p4": 24, "p5": 32}
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "fpn": lambda: fpn(CHANNELS, 16),
    "smoothed_fpn": lambda: smoothed_fpn(CHANNELS, 16),
    "fapn": lambda: fapn(CHANNELS, 16),
    "fapn_realtime": lambda: fapn_realtime(CHANNELS, 16),
    "bifpn": lambda: BiFPN(CHANNELS, 16, repeats=2),
    "pyramid_pooling": lambda: pyramid_pooling(8, 4),
    "atrous_pooling": lambda: atrous_pooling(8, 4, separable=True),
}


def cases() -> dict[str, list[str]]:
    """Name -> options of the tiny models: 8 x 2 scopes x 4 implementations, and their relatives."""
    found = {f"{name}-plain": options for name, options in MODELS.items()}
    for (name, options), scope, kind in itertools.product(MODELS.items(), ("head", "all"), IMPLEMENTATIONS):
        found[f"{name}-{scope}-{kind}"] = [*options, *equalized(SCOPE=scope, IMPLEMENTATION=kind)]
    for control in filter(None, CONTROLS):
        found[f"UPer-{control}"] = [*MODELS["UPer"], *equalized(CONTROL=control, IMPLEMENTATION="module")]
    for name in ("UPer", "FaPN"):
        of_source = equalized(STATISTICS_OF="source", GRANULARITY="channel", SCOPE="all")
        found[f"{name}-source-channel"] = [*MODELS[name], *of_source]
        found[f"{name}-grad"] = [*MODELS[name], *equalized(STATISTIC="grad")]
    found["UPer-GN-init"] = [*MODELS["UPer"], f"{HEAD}.NORM", "GN", *WIDE, *equalized(IMPLEMENTATION="init")]
    found["ESeg-concat"] = [*MODELS["BiFPN"], "MODEL.FUSION.COMBINE", "concat", *equalized()]
    return found


WIDE = [f"{HEAD}.CONVS_DIM", "64"]


def equalized(**keys: str) -> list[str]:
    options = {"ENABLED": "True", **keys}
    return [word for key, value in options.items() for word in (f"{EQUALIZER}.{key}", value)]


def digest(pieces: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()[:16]


def keys_of(model: nn.Module) -> dict[str, Any]:
    """How many keys a state dict has, and a digest of them in order, with shape and dtype."""
    state = model.state_dict()
    lines = (f"{name} {tuple(value.shape)} {value.dtype}\n".encode() for name, value in state.items())
    return {"count": len(state), "keys": digest(lines)}


def record(build: Callable[[], nn.Module]) -> dict[str, Any]:
    """A built model's digests, or why it is refused."""
    torch.manual_seed(0)
    try:
        model = build()
    except ValueError as error:
        return {"refusal": str(error)}
    random_state = digest(iter([torch.get_rng_state().numpy().tobytes()]))
    values = digest(value.contiguous().numpy().tobytes() for value in model.state_dict().values())
    return {**keys_of(model), "values": values, "random_state": random_state}


def record_case(options: list[str]) -> dict[str, Any]:
    return record(lambda: build_model(load_config(BASE, [*TINY, *options])))


def record_meta(name: str) -> dict[str, Any]:
    """Keys of a real config, at full width and without memory."""
    try:
        return keys_of(build_on_meta(load_config(name)))
    except ValueError as error:
        return {"refusal": str(error)}


def main() -> None:
    content = {
        "torch": torch.__version__,
        "cases": {name: record_case(options) for name, options in cases().items()},
        "builders": {name: record(build) for name, build in BUILDERS.items()},
        "configs": {name + end: record_meta(name + end) for name in list_configs() for end in ("", "+scale_equalizer")},
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
