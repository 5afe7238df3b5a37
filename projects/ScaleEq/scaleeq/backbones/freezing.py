"""Frozen stages of timm models, as Detectron2's MODEL.BACKBONE.FREEZE_AT counts them (1: stem, 2: stem and res2, ...).

Deviation: Detectron2 replaces the batch normalizations of frozen stages by FrozenBatchNorm2d. Here they stay what they
are, in eval mode, so that freezing changes no key of the state dict; the arithmetic is the same (running statistics and
constant affine). Dropout and stochastic depth of frozen stages are off as well: a frozen stage is a fixed function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

STEM = 1  # stages are numbered as in FREEZE_AT: 1 is the stem, 2 computes res2, ..., 5 computes res5
LAST_STAGE = 5
HRNET_STAGES = ("layer1", "stage2", "stage3", "stage4")


def stages_in_order(names: Iterable[str], level_modules: Sequence[str]) -> dict[str, int]:
    """The stage of every module of a model whose modules are defined in the order in which they run.

    names: dotted module names, in order of definition.
    level_modules: the names of the modules that end res2, res3, res4 and res5. What lies before the first is the stem,
    what lies between two of them belongs to the later.
    """
    stages = {}
    finished = 0  # levels whose module has been met
    for name in names:
        level = next((i for i, m in enumerate(level_modules) if name == m or name.startswith(f"{m}.")), None)
        if level is not None:
            finished = level + 1
            stages[name] = STEM + finished
        else:
            stages[name] = STEM if finished == 0 else min(STEM + finished + 1, LAST_STAGE)
    return stages


def stages_of_twins(names: Iterable[str]) -> dict[str, int]:
    """Twins keeps the parts of its four stages in lists of four. The first patch embedding is the stem."""
    stages = {}
    for name in names:
        if match := re.match(r"model\.(patch_embeds|pos_drops|blocks|pos_block)\.(\d)", name):
            index = int(match[2])
            stages[name] = STEM if match[1] == "patch_embeds" and index == 0 else STEM + 1 + index
    return stages


def num_vit_blocks(names: Iterable[str]) -> int:
    """The number of blocks of a plain ViT of timm's, in vit.py's body; 0: it is another model.

    names: of its modules.
    """
    return sum(re.fullmatch(r"model\.blocks\.\d+\.attn", name) is not None for name in names)


def stages_of_vit(names: Iterable[str], num_blocks: int) -> dict[str, int]:
    """A plain ViT has no stages: here a quarter of its blocks is one. What is before the blocks is the stem, what is
    after them belongs to the last.
    """
    stages, last = {}, STEM
    for name in names:
        if match := re.match(r"model\.blocks\.(\d+)\b", name):
            last = STEM + 1 + 4 * int(match[1]) // num_blocks
        stages[name] = STEM if name == "model.blocks" or last == STEM else last
    return stages


def stages_of(body: nn.Module, model_name: str) -> dict[str, int]:
    """The stage, 1 to 5, of every module of `body`, a timm model made with features_only or hrnet.py's.

    Raises ValueError for a model whose stages are not known.
    """
    from timm.models.twins import Twins

    names = [name for name, _ in body.named_modules() if name]
    if isinstance(getattr(body, "model", None), Twins):
        return stages_of_twins(names)
    if count := num_vit_blocks(names):
        return stages_of_vit(names, count)
    if set(HRNET_STAGES) <= set(names):  # every level of its output needs every stage
        return stages_in_order(names, HRNET_STAGES)
    info: Any = body.feature_info
    level_modules = [name if name in names else name.replace(".", "_") for name in info.module_name()]
    if missing := [name for name in level_modules if name not in names]:
        raise ValueError(
            f"the stages of {model_name} are not known (no {missing}): set MODEL.BACKBONE.FREEZE_AT 0 and "
            "SOLVER.LAYER_DECAY 1"
        )
    return stages_in_order(names, level_modules)


def freeze(body: nn.Module, freeze_at: int, model_name: str) -> frozenset[str]:
    """Exclude the parameters of the first `freeze_at` stages from training.

    Returns the names of these stages' modules, for `keep_in_eval`. Raises ValueError for a number that is no stage.
    """
    if not 0 <= freeze_at <= LAST_STAGE:
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}: it takes 0 (nothing), 1 (stem) to 5 (stem and res2 to res5)"
        )
    if freeze_at == 0:
        return frozenset()
    frozen = frozenset(name for name, stage in stages_of(body, model_name).items() if stage <= freeze_at)
    for name, module in body.named_modules():
        if name in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return frozen


def freeze_batch_norms(body: nn.Module) -> None:
    """Exchange each BatchNorm2d inside `body` for torchvision's FrozenBatchNorm2d with the same values, in place.

    Those of timm that hold an activation keep it. Names in the state dict stay, but for the counts of batches.
    """
    from timm.utils.model import freeze_batch_norm_2d  # not sooner: timm takes a second

    freeze_batch_norm_2d(body)


def keep_in_eval(body: nn.Module, frozen: frozenset[str]) -> None:
    """Put the frozen modules of `body` in eval mode, alone: their children have names of their own."""
    for name, module in body.named_modules():
        if name in frozen:
            module.training = False
