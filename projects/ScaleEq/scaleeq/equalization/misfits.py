"""What a checkpoint's equalizers lack, for the model that it is to be loaded into: told before anything is loaded.

The checkpointer takes `other_equalizers` as its `other_model`: a plain comparison of keys would only list the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# What a ScaleEqualizer keeps in a state dict, and what fold_equalizers leaves there in its place.
_EQUALIZER = re.compile(r"(?:^|\.)equalizers\.[^.]+\.(?:mean|std|num_images)$")
_FOLDED = re.compile(r"(?:^|\.)(?:offset_weight|combine\.(?:coefficients|offset))$")


def other_equalizers(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """How the scale equalizers of a file differ from a model's, in words with the ways out; empty where they agree.

    own: the model's state dict, which may be without values; saved: the file's.
    """
    folded_in_file, folded_in_model = ({n for n in names if _FOLDED.search(n)} for names in (saved, own))
    if folded_in_file != folded_in_model:
        places = _places(folded_in_file ^ folded_in_model)
        folded, other = ("file", "model") if folded_in_file - folded_in_model else ("model", "file")
        return (
            f"the {folded}'s scale equalizers were folded into its weights ({places}), the {other}'s were not. Either "
            "load the checkpoint from before the folding, with MODEL.SCALE_EQUALIZER.ENABLED True, and fold after "
            "loading (scaleeq.fold_equalizers), or load the folded weights into a model that was folded in the same way"
        )
    in_file, in_model = ({n: t.shape for n, t in d.items() if _EQUALIZER.search(n)} for d in (saved, own))
    if in_file == in_model:
        return ""
    if not in_model:
        return (
            f"the file is of a model with scale equalizers ({_places(in_file)}), and this model has none: it would "
            "compute something else. Set MODEL.SCALE_EQUALIZER.ENABLED True to use it as it was trained, or load it so "
            "and take scaleeq.fold_equalizers(model), a model without equalizers that computes the same"
        )
    if not in_file:
        return (
            f"this model has scale equalizers ({_places(in_model)}), and the file is of a model without: it knows no "
            "statistics for them. Set MODEL.SCALE_EQUALIZER.ENABLED False to use it as it was trained, or start a "
            "fresh run from the backbone's weights alone (MODEL.TIMM), which calibrates its equalizers at the beginning"
        )
    return (
        f"the scale equalizers differ: the file's are in {_places(in_file)}, the model's in {_places(in_model)}, or "
        "they have other shapes. Set MODEL.SCALE_EQUALIZER.SCOPE and GRANULARITY as they were in the file's training"
    )


def _places(names: Iterable[str]) -> str:
    """The Fusions that hold these tensors."""
    fusions = (re.sub(r"\.?(equalizers|combine|mix)\..*$", "", name) or "the model" for name in names)
    return ", ".join(sorted(set(fusions)))
