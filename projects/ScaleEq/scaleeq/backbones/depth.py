"""How deep a parameter of a timm backbone lies, for learning rates that fall from the head down to the stem.

Two ways to count, 0 being the stem:

- by "stage": stages 1 to 4, as mmsegmentation's "stage_wise" counts ConvNeXt's: the layers between two stages, which
  halve the map, lie at 0 with the stem. Of a plain ViT, a quarter of its blocks is one (freezing.py).
- by "block": every residual block one layer, as BEiT (arXiv 2106.08254) counts and timm's `param_groups_layer_decay`
  groups: what lies between two stages belongs to the first block after it.

Deviation: mmsegmentation's "layer_wise", a third way for ConvNeXt, counts its blocks by threes; it is left out.
"""

from __future__ import annotations

import re
from itertools import accumulate

from torch import nn

from scaleeq.choices import one_of

from .freezing import STEM, num_vit_blocks, stages_of

WAYS = ("stage", "block")
NUM_STAGES = 4
# Names in models made with features_only: Swin and ConvNeXt, Twins, ResNet.
BLOCK = re.compile(r"(?:(?:stages_|layers_)(\d)\.blocks\.|model\.blocks\.(\d)\.|layer(\d)\.)(\d+)\.")
BETWEEN_STAGES = re.compile(r"(?:stages_|layers_)(\d)\.downsample\.|model\.(?:patch_embeds|pos_block)\.(\d)\.")
HALVING = re.compile(r"(?:stages_|layers_)\d\.downsample\.|model\.patch_embeds\.\d\.")


def layer_ids(backbone: nn.Module, by: str) -> tuple[dict[str, int], int]:
    """The depth of every parameter of `backbone.body`, and the number of layers after the stem.

    Returns parameter name, as in backbone.named_parameters() -> 0 (stem) to the number of layers.
    ValueError: an unknown way to count, or a backbone whose stages or blocks are not known.
    """
    one_of(by, WAYS, key="SOLVER.LAYER_DECAY_BY")
    body = getattr(backbone, "body", None)
    if not isinstance(body, nn.Module):
        raise ValueError(f"the layers of {type(backbone).__name__} are not known: set SOLVER.LAYER_DECAY 1")
    names, model_name = [name for name, _ in body.named_parameters()], str(backbone.name)
    if by == "stage":
        ids, count = _by_stage(names, stages_of(body, model_name)), NUM_STAGES
    elif num_blocks := num_vit_blocks(name for name, _ in body.named_modules()):
        ids, count = _by_vit_block(names, num_blocks), num_blocks
    else:
        ids, count = _by_block(names, model_name)
    return {f"body.{name}": number for name, number in ids.items()}, count


def _by_stage(names: list[str], stages: dict[str, int]) -> dict[str, int]:
    return {name: 0 if HALVING.match(name) else stages[name.rpartition(".")[0]] - STEM for name in names}


def _by_vit_block(names: list[str], num_blocks: int) -> dict[str, int]:
    """What embeds patches and positions is the stem, and the last norm belongs to the last block."""
    blocks = {name: int(match[1]) + 1 for name in names if (match := re.match(r"model\.blocks\.(\d+)\.", name))}
    return {name: blocks.get(name, num_blocks if name.startswith("model.norm.") else 0) for name in names}


def _by_block(names: list[str], model_name: str) -> tuple[dict[str, int], int]:
    found = {name: (_first_number(match), int(match[4])) for name in names if (match := BLOCK.match(name))}
    first_stage = min((stage for stage, _ in found.values()), default=0)
    sizes = [1 + max((b for s, b in found.values() if s == first_stage + i), default=-1) for i in range(NUM_STAGES)]
    if 0 in sizes or len(set(found.values())) != sum(sizes):
        raise ValueError(
            f"the blocks of {model_name} are not known: set SOLVER.LAYER_DECAY_BY 'stage', or LAYER_DECAY 1"
        )
    before = [0, *accumulate(sizes)]
    ids = {}
    for name in names:
        if name in found:
            stage, block = found[name]
            ids[name] = before[stage - first_stage] + block + 1
        elif match := BETWEEN_STAGES.match(name):
            ids[name] = before[_first_number(match) - first_stage] + 1
        else:
            ids[name] = 0
    # Twins' first patch embedding is its stem.
    ids.update({name: 0 for name in names if name.startswith("model.patch_embeds.0.")})
    return ids, sum(sizes)


def _first_number(match: re.Match[str]) -> int:
    """The stage: the group that took part, of those that a family's names fill."""
    return int(next(group for group in match.groups() if group is not None))
