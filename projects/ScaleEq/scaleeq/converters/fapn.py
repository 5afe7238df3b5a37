"""The weights of FaPN's authors (github.com/EMI-Group/FaPN), renamed for our pyramid.

    theirs, level 2 as an example                ours, of fapn(...)
    fan_align2.lateral_conv.conv_atten           merges.res2.branches.lateral.lateral.importance
    fan_align2.lateral_conv.conv                 merges.res2.branches.lateral.lateral.conv
    fan_align2.offset, its .norm                 merges.res2.branches.top_down.transfer.mix.0, .1
    fan_align2.dcpack_L2.conv_offset_mask        merges.res2.branches.top_down.transfer.predictor
    fan_align2.dcpack_L2                         merges.res2.branches.top_down.transfer
    fan_align5, its .norm                        top_lateral.conv, top_lateral.norm
    fpn_output2, its .norm                       outputs.res2.conv, outputs.res2.norm

Values stay as they are: their three chunks of offsets and mask, joined again, are one layout, the one used here.

    checkpoint = read_checkpoint(Path("model_final.pth"))["model"]  # of scaleeq.engine.checkpoint_file
    pyramid = fapn({"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}, 256)
    pyramid.load_state_dict(convert_fapn_weights(checkpoint))
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from scaleeq.engine.checkpoint_numbers import weight_fault

SELECTION = "merges.res{level}.branches.lateral.lateral."
ALIGNMENT = "merges.res{level}.branches.top_down.transfer."

# A released name -> ours, where {level} is the number of a backbone's stage.
RULES = (
    (
        r"fan_align(\d)\.lateral_conv\.conv_atten\.(weight)",
        "merges.res{level}.branches.lateral.lateral.importance.{rest}",
    ),
    (r"fan_align(\d)\.lateral_conv\.conv\.(weight)", "merges.res{level}.branches.lateral.lateral.conv.{rest}"),
    (r"fan_align(\d)\.offset\.norm\.(\w+)", "merges.res{level}.branches.top_down.transfer.mix.1.{rest}"),
    (r"fan_align(\d)\.offset\.(weight)", "merges.res{level}.branches.top_down.transfer.mix.0.{rest}"),
    (
        r"fan_align(\d)\.dcpack_L2\.conv_offset_mask\.(weight|bias)",
        "merges.res{level}.branches.top_down.transfer.predictor.{rest}",
    ),
    (r"fan_align(\d)\.dcpack_L2\.(weight|bias)", "merges.res{level}.branches.top_down.transfer.{rest}"),
    (r"fan_align(\d)\.norm\.(\w+)", "top_lateral.norm.{rest}"),
    (r"fan_align(\d)\.(weight|bias)", "top_lateral.conv.{rest}"),
    (r"fpn_output(\d)\.norm\.(\w+)", "outputs.res{level}.norm.{rest}"),
    (r"fpn_output(\d)\.(weight|bias)", "outputs.res{level}.conv.{rest}"),
)


def convert_fapn_weights(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pyramid in a released checkpoint, as a state dict of fapn(...) over levels res2 to res5.

    Whatever precedes "fan_align" and "fpn_output" in a name is dropped; names without them (backbone, heads) are left
    out. ValueError: a name of the pyramid that has no place here; no name of a pyramid at all; a value that no
    checkpoint may hold.
    """
    converted = {}
    for full_name, value in state_dict.items():
        if not (found := re.search(r"(?:^|\.)((?:fan_align|fpn_output)\d\..*)", full_name)):
            continue
        for pattern, ours in RULES:
            if match := re.fullmatch(pattern, found[1]):
                if fault := weight_fault(full_name, value, is_parameter=True):
                    raise ValueError(f"{full_name} {fault}")
                converted[ours.format(level=match[1], rest=match[2])] = value
                break
        else:
            raise ValueError(f"{full_name!r} is not a name of FaPN's released pyramid; see converters/fapn.py")
    if not converted:
        raise ValueError(f"no 'fan_align' in the checkpoint, whose names start with {list(state_dict)[:3]}")
    return converted
