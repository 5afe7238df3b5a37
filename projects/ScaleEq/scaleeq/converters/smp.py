"""UPerNet of segmentation_models_pytorch, encoder and all, under our names.

    theirs                                            ours
    encoder.<name>, of "tu-" encoders encoder.model   backbone.body.<name>
    decoder.feature_norms.<i>                         backbone.level_norms.<level i>
    decoder.psp.blocks.<i>.1, psp.out_conv            sem_seg_head.context.branches.pool<scale i>.lateral.1, context.mix
    decoder.fpn_lateral_blocks.<i>, coarsest first    sem_seg_head.pyramid.merges.<level>...
    decoder.fpn_conv_blocks.<i>, coarsest first       sem_seg_head.pyramid.outputs.<level>
    decoder.fusion_block, segmentation_head.0         sem_seg_head.fusion.mix, classifier

    theirs = smp.UPerNet("tu-resnet18", classes=19)
    backbone = TimmBackbone(name="resnet18", level_norm=True)
    model = create_model("uper", backbone, num_classes=19, channels=256)
    model.load_state_dict(convert_smp_upernet(model, theirs.state_dict()))

Logits are equal at the finest level's stride; to the image's size theirs are interpolated with align_corners True, ours
without. Images of other sizes than multiples of 32 pixels are padded here, and refused there. Their FPN is no decoder
that our keys describe: it doubles maps with align_corners True between its convolutions; `FPN_DIFFERS` names them.
"""

from __future__ import annotations

import re

import torch

from scaleeq.decoders import UPer
from scaleeq.model import Segmentation

from .mmsegmentation import rules_of, theirs
from .renaming import State, renamed

PEER = "segmentation_models_pytorch"
# mmsegmentation's names -> theirs, below "decoder.".
RULES = (
    (r"^psp_modules\.(\d+)\.1\.", r"decoder.psp.blocks.\1.1."),
    (r"^bottleneck\.", "decoder.psp.out_conv."),
    (r"^fpn_bottleneck\.", "decoder.fusion_block."),
    (r"^conv_seg\.", "segmentation_head.0."),
)
FPN_DIFFERS = "decoder.seg_blocks"


def convert_smp_upernet(model: Segmentation, state_dict: State) -> dict[str, torch.Tensor]:
    """A state dict for a model of the UPer decoder on a TimmBackbone with level norms, without equalizers.

    ValueError: another model; a checkpoint of their FPN, with the layers that differ; whatever has no counterpart.
    """
    if different := [name for name in state_dict if name.startswith(FPN_DIFFERS)]:
        between = sorted(
            {".".join(name.split(".")[:5]) for name in different if not name.startswith(f"{FPN_DIFFERS}.3.")}
        )
        raise ValueError(
            f"this is {PEER}'s FPN, which no decoder here equals: after {', '.join(between)} it doubles the map "
            "bilinearly with align_corners True, SemanticFPN with align_corners False; equalize(model, loader) takes "
            "theirs as it is"
        )
    if model.is_joint or not isinstance(model.sem_seg_head.decoder, UPer):
        raise ValueError(f"the model is not {PEER}'s UPerNet; create_model('uper', TimmBackbone(...)) makes that")
    if not any(name.startswith("backbone.level_norms.") for name in model.state_dict()):
        raise ValueError(
            f"{PEER}'s UPerNet has a layer norm on each level; build the backbone with TimmBackbone(level_norm=True)"
        )
    decoder = model.sem_seg_head.decoder
    levels, rules = decoder.in_features, rules_of(decoder)
    body = "encoder.model." if any(name.startswith("encoder.model.") for name in state_dict) else "encoder."

    def name_of(name: str) -> str:
        if name.startswith("backbone.body."):
            return name.replace("backbone.body.", body, 1)
        if match := re.fullmatch(r"backbone\.level_norms\.(\w+)\.(\w+)", name):
            return f"decoder.feature_norms.{levels.index(match[1])}.{match[2]}"
        return _of_head(theirs(name.removeprefix("sem_seg_head."), rules), len(levels))

    return renamed(model, state_dict, name_of, prefix="", peer=PEER, title="model")


def _of_head(name: str, num_levels: int) -> str:
    """mmsegmentation's name of a tensor of the head -> theirs."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    # Theirs counts from the coarsest level but one, mmsegmentation's from the finest.
    if match := re.match(r"(lateral_convs|fpn_convs)\.(\d+)\.", name):
        place = num_levels - 2 - int(match[2])
        block = "fpn_conv_blocks.{}." if match[1] == "fpn_convs" else "fpn_lateral_blocks.{}.conv_norm_relu."
        name = "decoder." + block.format(place) + name[match.end() :]
    return re.sub(r"\.bn\.", ".1.", re.sub(r"\.conv\.", ".0.", name))
