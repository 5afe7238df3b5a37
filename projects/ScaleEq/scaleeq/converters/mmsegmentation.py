"""The heads of mmsegmentation (1.x) under our names: UPerHead, PSPHead, ASPPHead, DepthwiseSeparableASPPHead, FCNHead.

    theirs, below "decode_head."                 ours
    conv_seg                                     classifier
    psp_modules.<i>.1                            (context or fusion).branches.pool<scale i>.lateral.1
    bottleneck                                   the mix of that Fusion, or of the atrous one
    lateral_convs.<i>, fpn_convs.<i>             pyramid.merges.<level i>..., pyramid.outputs.<level i>
    fpn_bottleneck                               fusion.mix
    image_pool.1, aspp_modules.<i>               branches pool, conv and dilated<i>
    c1_bottleneck, sep_bottleneck.<i>            fusion's low level, its mix and refine
    convs.<i>, conv_cat                          body

    head = create_model("uper", "resnet18", num_classes=19).sem_seg_head
    weights = read_checkpoint(Path("upernet.pth"))  # of scaleeq.engine.checkpoint_file
    head.load_state_dict(convert_mmseg_head(head, weights["state_dict"]))

Backbones are not converted: theirs and timm's differ in their stems. An auxiliary head is an FCNHead below
"auxiliary_head.".
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from scaleeq.decoders import ASPP, FCN, PSP, SepASPP, UPer
from scaleeq.decoders.base import Decoder
from scaleeq.fusion import Fusion
from scaleeq.tasks.head import SegmentationHead

from .renaming import State, renamed

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def convert_mmseg_head(
    head: SegmentationHead, state_dict: State, *, prefix: str = "decode_head."
) -> dict[str, torch.Tensor]:
    """A state dict for a head without equalizers, of the tensors below the prefix.

    ValueError: a decoder that mmsegmentation has not; whatever has no counterpart, by its name.
    """
    rules = rules_of(head.decoder)
    return renamed(
        head, state_dict, lambda name: theirs(name, rules), prefix=prefix, peer="mmsegmentation", title=head.title
    )


def theirs(name: str, rules: list[Rule]) -> str:
    """Our name -> mmsegmentation's, without a prefix."""
    for pattern, replacement in [*rules, (r"^classifier\.", "conv_seg."), (r"\.norm\.", ".bn.")]:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^(context|fusion)\.", "", name)


def rules_of(decoder: Decoder) -> list[Rule]:
    """What is exchanged in the names of a decoder. ValueError: one that mmsegmentation has not."""
    if isinstance(decoder, UPer):
        levels = decoder.in_features

        def numbered(name: str) -> Callable[[re.Match[str]], str]:
            return lambda match: f"{name}.{levels.index(match[1])}."

        return [
            _pools(decoder.context),
            (r"^context\.mix\.", "bottleneck."),
            (r"^pyramid\.merges\.(\w+)\.branches\.lateral\.lateral\.", numbered("lateral_convs")),
            (r"^pyramid\.outputs\.(\w+)\.", numbered("fpn_convs")),
            (r"^fusion\.mix\.", "fpn_bottleneck."),
        ]
    if isinstance(decoder, PSP):
        return [_pools(decoder.fusion), (r"^fusion\.mix\.", "bottleneck.")]
    if isinstance(decoder, ASPP):
        return [*_atrous(decoder.fusion), (r"^fusion\.mix\.", "bottleneck.")]
    if isinstance(decoder, SepASPP):
        return [
            *_atrous(decoder.context),
            (r"^context\.mix\.", "bottleneck."),
            (r"^fusion\.branches\.low_level\.lateral\.", "c1_bottleneck."),
            (r"^fusion\.mix\.", "sep_bottleneck.0."),
            (r"^refine\.", "sep_bottleneck.1."),
            (r"\.(depth|point)wise\.", r".\1wise_conv."),
        ]
    if isinstance(decoder, FCN):
        return [
            (r"^body\.branches\.convs\.lateral\.(\d+)\.", r"convs.\1."),
            (r"^body\.mix\.", "conv_cat."),
            (r"^body\.(\d+)\.", r"convs.\1."),
            (r"^fusion\.mix\.", "convs.0."),
        ]
    raise ValueError(f"{type(decoder).__name__} is not a head of mmsegmentation's; uper, psp, aspp, sep_aspp, fcn are")


def _pools(fusion: Fusion) -> Rule:
    scales = [name for name in fusion.branches if name != "input"]
    return (r"\.branches\.(pool\d+)\.lateral\.1\.", lambda match: f".psp_modules.{scales.index(match[1])}.1.")


def _atrous(fusion: Fusion) -> list[Rule]:
    convs = [name for name in fusion.branches if name != "pool"]
    return [
        (r"\.branches\.pool\.lateral\.1\.", ".image_pool.1."),
        (r"\.branches\.(conv|dilated\d+)\.lateral\.", lambda match: f".aspp_modules.{convs.index(match[1])}."),
    ]
