"""How a Fusion is evaluated: plainly, or with each small branch at its own resolution. One rule, for every model.

Most of what a mix's convolution reads of resized and concatenated branches is interpolated. Both ways compute the same
function, equal up to rounding (see ops/resized_conv.py, and for sums ops/weighted_sum.py); the rule chooses the second
where it is known to be less work, and where nothing looks at a map that it does not make.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.layers import Named, has_hooks, is_recorded

from .branch import Branch
from .ports import Combine, EndsWithResize, Mix, SumsResized, TakesResized, Transfer

EVALUATIONS = ("", "plain")  # MODEL.FUSION.EVALUATE: by the rule below; never per branch
SHARE = 2  # a branch is small if the reference has this many times its pixels


def small_branches(
    combine: Combine,
    mix: Mix,
    branches: Named[Branch],
    sources: Mapping[str, torch.Tensor],
    reference: torch.Tensor,
    scaled: bool = False,
) -> frozenset[str]:
    """The branches that the mix, or a sum, evaluates before their resize; none: the plain way.

    sources: branch -> (N, C, h, w), after its lateral; reference: (N, C', H, W); scaled: equalizers change branches.
    """
    reader = mix if combine.concatenates and isinstance(mix, TakesResized) else None
    sums = not combine.concatenates and isinstance(combine, SumsResized) and combine.takes_resized(scaled)
    if not (sums or reader is not None) or has_hooks(combine) or is_recorded(reference):
        return frozenset()
    small = [name for name, x in sources.items() if _is_small(branches[name].transfer, x, reference)]
    pays = not small or reader is None or reader.takes_resized([sources[name].shape[1] for name in small])
    return frozenset(small if pays else ())


def _is_small(transfer: Transfer, x: torch.Tensor, reference: torch.Tensor) -> bool:
    small = SHARE * x.shape[-2] * x.shape[-1] <= reference.shape[-2] * reference.shape[-1]
    return small and isinstance(transfer, EndsWithResize) and not has_hooks(transfer)
