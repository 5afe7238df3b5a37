"""Detectron2's SemSegFPNHead under our names; its pyramid is in its backbone, so ours is MODEL.PYRAMID.NAME "none".

theirs, below "sem_seg_head."            ours (level "p4" as an example, k from 0)
p4.<2 k>, its .norm                      fusion.branches.p4.transfer.convs.<k>.conv, .norm
predictor                                classifier

levels = {f"p{i}": Level(256, 2**i) for i in range(2, 6)}
decoder = SemanticFPN(levels, 128, pyramid=PyramidOptions(name="none", channels=256))
head = SegmentationHead(decoder, SemanticTask(num_classes=54))
head.load_state_dict(convert_semantic_fpn_head(head, weights))
"""

from __future__ import annotations

import re

import torch

from scaleeq.decoders import NoPyramid, SemanticFPN
from scaleeq.tasks.head import SegmentationHead

from .renaming import State, renamed


def convert_semantic_fpn_head(
    head: SegmentationHead, state_dict: State, *, prefix: str = "sem_seg_head."
) -> dict[str, torch.Tensor]:
    """A state dict for a SemanticFPN head without pyramid and equalizers. ValueError: what has no counterpart."""
    decoder = head.decoder
    if not isinstance(decoder, SemanticFPN) or not isinstance(decoder.pyramid, NoPyramid):
        raise ValueError(f"{head.title} is not Detectron2's: that is SemanticFPN with PyramidOptions(name='none', ...)")
    return renamed(head, state_dict, _theirs, prefix=prefix, peer="Detectron2", title=head.title)


def _theirs(name: str) -> str:
    name = re.sub(r"^classifier\.", "predictor.", name)
    step = re.fullmatch(r"fusion\.branches\.(\w+)\.transfer\.convs\.(\d+)\.(conv|norm)\.(\w+)", name)
    if not step:
        return name
    norm = "norm." if step[3] == "norm" else ""
    return f"{step[1]}.{2 * int(step[2])}.{norm}{step[4]}"
