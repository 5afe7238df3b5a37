"""The head of transformers' UperNetForSemanticSegmentation under our names: mmsegmentation's, spelled otherwise.

theirs, below "decode_head.", or "auxiliary_head." for an FCN     mmsegmentation's
classifier                                                        conv_seg
<block>.batch_norm                                                <block>.bn

head.load_state_dict(convert_upernet_head(head, upernet.state_dict()))
"""

from __future__ import annotations

import torch

from scaleeq.decoders import FCN, UPer
from scaleeq.tasks.head import SegmentationHead

from .mmsegmentation import rules_of, theirs
from .renaming import State, renamed


def convert_upernet_head(
    head: SegmentationHead, state_dict: State, *, prefix: str = "decode_head."
) -> dict[str, torch.Tensor]:
    """A state dict for a UPer head, or an FCN for the auxiliary one, without equalizers.

    ValueError: whatever has no counterpart, by its name.
    """
    if not isinstance(head.decoder, UPer | FCN):
        raise ValueError(f"{head.title} is not the head of transformers' UperNet; create_model('uper', ...) makes that")
    rules = rules_of(head.decoder)

    def name_of(name: str) -> str:
        other = theirs(name, rules).replace(".bn.", ".batch_norm.")
        return other.replace("conv_seg.", "classifier.")

    return renamed(head, state_dict, name_of, prefix=prefix, peer="transformers", title=head.title)
