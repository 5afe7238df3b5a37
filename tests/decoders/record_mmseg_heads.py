"""Records the outputs of mmsegmentation's heads into goldens/. Not needed to run the tests.

In an environment that has torch, from the root of the repository:

    pip install mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine prettytable ftfy
    python -m tests.decoders.record_mmseg_heads

mmcv-lite has no compiled operators, which no head here uses (evidence/decoder_speed/peers.py). Weights and
inputs are those of reference_weights.py, in eval mode, float32, one thread.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence.decoder_speed.peers import module_of
from tests.decoders.reference_weights import reference_inputs, reference_state

GOLDENS = Path(__file__).parent / "goldens"
NUM_CLASSES = 19
CHANNELS = {
    "resnet18": [64, 128, 256, 512],
    "resnet50": [256, 512, 1024, 2048],
    "swin_tiny": [96, 192, 384, 768],
    "hrnet_w18": [18, 36, 72, 144],
    "hrnet_w48": [48, 96, 192, 384],
}
STRIDES = [4, 8, 16, 32]
DILATED = [4, 8, 8, 8]  # of a backbone of output stride 8
HRNET = {"num_convs": 1, "concat_input": False, "kernel_size": 1}
IMAGE_SIZES = {"even": [64, 96], "odd": [97, 61]}  # height, width in pixels; level sizes are rounded up

# Head, backbone whose channels it takes, the head's own options, and the image sizes at which logits are recorded.
CASES: dict[str, dict[str, Any]] = {
    "uper_resnet18_512": {"head": "UPerHead", "backbone": "resnet18", "channels": 512, "record": ["even", "odd"]},
    "uper_resnet18_32": {"head": "UPerHead", "backbone": "resnet18", "channels": 32, "record": ["even", "odd"]},
    "uper_resnet50_512": {"head": "UPerHead", "backbone": "resnet50", "channels": 512, "record": []},
    "uper_swin_tiny_512": {"head": "UPerHead", "backbone": "swin_tiny", "channels": 512, "record": []},
    "fcn_resnet18_256": {
        "head": "FCNHead", "backbone": "resnet18", "channels": 256, "record": ["even", "odd"],
        "options": {"num_convs": 1, "concat_input": False},
    },
    "fcn_resnet18_256_concat": {
        "head": "FCNHead", "backbone": "resnet18", "channels": 256, "record": ["even"],
        "options": {"num_convs": 2, "concat_input": True, "kernel_size": 3},
    },
    "fcn_resnet18_32_concat": {
        "head": "FCNHead", "backbone": "resnet18", "channels": 32, "record": ["even", "odd"],
        "options": {"num_convs": 2, "concat_input": True, "kernel_size": 3},
    },
    "fcn_resnet50_256": {
        "head": "FCNHead", "backbone": "resnet50", "channels": 256, "record": [],
        "options": {"num_convs": 1, "concat_input": False},
    },
    "fcn_swin_tiny_256": {
        "head": "FCNHead", "backbone": "swin_tiny", "channels": 256, "record": [],
        "options": {"num_convs": 1, "concat_input": False},
    },
    "fcn_hrnet_w18_270": {
        "head": "FCNHead", "backbone": "hrnet_w18", "channels": 270, "record": ["even", "odd"], "options": HRNET,
    },
    "fcn_hrnet_w48_720": {
        "head": "FCNHead", "backbone": "hrnet_w48", "channels": 720, "record": [], "options": HRNET,
    },
    "psp_resnet18_32": {
        "head": "PSPHead", "backbone": "resnet18", "channels": 32, "record": ["even", "odd"], "strides": DILATED,
    },
    "psp_resnet50_512": {"head": "PSPHead", "backbone": "resnet50", "channels": 512, "record": []},
    # Dilations that reach inside the small maps of the recorded cases.
    "aspp_resnet18_32": {
        "head": "ASPPHead", "backbone": "resnet18", "channels": 32, "record": ["even", "odd"], "strides": DILATED,
        "options": {"dilations": [1, 2, 4, 6]},
    },
    "aspp_resnet50_512": {
        "head": "ASPPHead", "backbone": "resnet50", "channels": 512, "record": [],
        "options": {"dilations": [1, 12, 24, 36]},
    },
    "sep_aspp_resnet18_32": {
        "head": "DepthwiseSeparableASPPHead", "backbone": "resnet18", "channels": 32, "record": ["even", "odd"],
        "strides": DILATED, "options": {"dilations": [1, 2, 4, 6], "c1_in_channels": 64, "c1_channels": 48},
    },
    "sep_aspp_resnet50_512": {
        "head": "DepthwiseSeparableASPPHead", "backbone": "resnet50", "channels": 512, "record": [],
        "options": {"dilations": [1, 12, 24, 36], "c1_in_channels": 256, "c1_channels": 48},
    },
}  # fmt: skip


def make_head(case: dict[str, Any]) -> torch.nn.Module:
    """The mmsegmentation head of one case, with reference weights, in eval mode."""
    decode_heads = module_of("mmseg.models.decode_heads")
    channels = CHANNELS[case["backbone"]]
    common = {
        "channels": case["channels"],
        "num_classes": NUM_CLASSES,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
    }
    options = case.get("options", {})
    if case["head"] == "UPerHead":
        levels: dict[str, Any] = {"in_channels": channels, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6)}
    elif options == HRNET:
        levels = {"in_channels": channels, "in_index": [0, 1, 2, 3], "input_transform": "resize_concat"}
    elif case["head"] == "FCNHead":  # the auxiliary head of mmsegmentation's configs: on the level of stride 16
        levels = {"in_channels": channels[2], "in_index": 2}
    else:
        levels = {"in_channels": channels[3], "in_index": 3}
    head = getattr(decode_heads, case["head"])(**levels, **options, **common)
    head.load_state_dict(reference_state((name, list(t.shape)) for name, t in head.state_dict().items()))
    return head.eval()


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    described: dict[str, Any] = {}
    outputs: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        head = make_head(case)
        described[name] = {
            **{key: value for key, value in case.items() if key != "record"},
            "in_channels": CHANNELS[case["backbone"]],
            "num_classes": NUM_CLASSES,
            "parameters": sum(parameter.numel() for parameter in head.parameters()),
            "outputs": {},
        }
        if case["record"]:
            described[name]["state_dict"] = [[key, list(tensor.shape)] for key, tensor in head.state_dict().items()]
        for size in case["record"]:
            image = IMAGE_SIZES[size]
            strides = case.get("strides", STRIDES)
            sizes = [[math.ceil(pixels / stride) for pixels in image] for stride in strides]
            logits = head(reference_inputs(CHANNELS[case["backbone"]], sizes))
            described[name]["outputs"][f"{name}.{size}"] = {
                "image": image,
                "levels": sizes,
                "logits": list(logits.shape),
            }
            outputs[f"{name}.{size}"] = logits.numpy()
    GOLDENS.mkdir(exist_ok=True)
    source = {"mmsegmentation": "1.2.2", "torch": torch.__version__}
    text = json.dumps({"recorded_with": source, "heads": described}, indent=1)
    (GOLDENS / "mmseg_heads.json").write_text(text + "\n")
    np.savez_compressed(GOLDENS / "mmseg_heads.npz", **outputs)
    for name, description in described.items():
        print(name, description["parameters"], list(description["outputs"]))


if __name__ == "__main__":
    main()
