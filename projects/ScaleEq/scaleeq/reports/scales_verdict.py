"""What a scale equalizer does to a Fusion, or why nothing, in words; from the numbers of probes/scales.py.

The advice is that of the evidence (docs/evidence.md): what a disproportion costs follows the shares of the energy,
C std^2, which count a branch's channels, and not the ratio of the stds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from scaleeq.equalization.result import spread
from scaleeq.fusion import Fusion, Keep, Pool, Resize, Transfer

from .html import Content

NEGLIGIBLE = 1.05  # a spread below this changes nothing that could be seen
# Shares of the energy. Beyond them equalizing gained points of mIoU in the evidence; between them -1 to +2.
SMALL_SHARE, LARGE_SHARE = 0.03, 0.9


@dataclass(frozen=True)
class FusionFacts:
    """What a verdict has to know of a Fusion beyond its record.

    title: for people. widths: branch -> channels. transfers: branch -> how it is brought to size.
    no_effect: why an equalizer's scale changes nothing here; empty where it does. has_weights: each branch is consumed
    by weights of its own, as after a concatenation. pyramid_of: the branch whose pooled copies all others are.
    """

    title: str
    widths: dict[str, int]
    transfers: dict[str, str]
    no_effect: str
    has_weights: bool
    pyramid_of: str = ""


def facts_of(name: str, fusion: Fusion, model: nn.Module) -> FusionFacts:
    """name: of the fusion in the model."""
    return FusionFacts(
        title=title_of(name, model),
        widths=fusion.widths,
        transfers={name: _transfer_name(branch.transfer) for name, branch in fusion.branches.items()},
        no_effect=fusion.no_effect,
        has_weights=fusion.consumer is not None,
        pyramid_of=_pooled_level(fusion),
    )


def title_of(name: str, model: nn.Module) -> str:
    """ "sem_seg_head.fusion" of a UPerHead -> "UPerHead, fusion"; a name outside of a head stays as it is."""
    owner, _, rest = name.partition(".")
    module = getattr(model, owner, None)
    if not rest or not isinstance(module, nn.Module) or isinstance(module, nn.ModuleDict | nn.ModuleList):
        return name
    title = getattr(module, "title", type(module).__name__)
    return f"{title}, {rest.replace('.', ' ')}"


def verdict(
    facts: FusionFacts,
    record: Content,
    equalized: Content | None,
    *,
    not_equalized: str = "MODEL.SCALE_EQUALIZER.SCOPE 'head' is the head's own Fusions, 'all' is all",
) -> tuple[bool, str]:
    """Whether equalizing changes something at a Fusion, and a sentence or two, the last one advice.

    Args:
        record: of the model as it is.
        equalized: of the same weights with equalizers; `record` itself where the model has them.
        not_equalized: why equalized is None.
    """
    # No effect.
    gap = record.get("spread")
    if facts.no_effect:
        return False, f"{facts.title}: no effect here, because {facts.no_effect}."
    if gap is None:
        return False, f"{facts.title}: a branch is constant, so there is no ratio of scales."
    if gap < NEGLIGIBLE:
        why = f"all standard deviations are within {percent(NEGLIGIBLE)} of each other ({percent(gap)})"
        if all(name in ("none", "nearest") for name in facts.transfers.values()):
            why += f", and its transfers ({', '.join(dict.fromkeys(facts.transfers.values()))}) keep them"
        return False, f"{facts.title}: no effect here, because {why}."
    # An effect: where the spread comes from, and what equalizing does.
    before = spread(branch["source_std"] for branch in record["branches"].values())
    cause = "made by the transfers" if before < NEGLIGIBLE else f"{percent(before)} before the transfers"
    change = _change(facts, record, equalized) if equalized is not None else f"not equalized: {not_equalized}"
    return True, f"{facts.title}: {percent(gap)} spread ({cause}); {change}. {advice(facts, record)}"


def advice(facts: FusionFacts, record: Content) -> str:
    """Whether to equalize a Fusion, in one sentence, by the shares of the energy of its branches."""
    shares = {name: branch["energy_share"] for name, branch in record["branches"].items()}
    small, large = min(shares, key=lambda name: shares[name]), max(shares, key=lambda name: shares[name])
    if facts.pyramid_of:
        held = f"{facts.pyramid_of} holds {_share(shares[facts.pyramid_of])} of the energy"
        return f"{held}, but the others are pooled copies of it: leave it; equalizing pyramid pooling cost points."
    if shares[large] >= LARGE_SHARE:
        return f"One source, {large}, holds {_share(shares[large])} of the energy: equalize."
    if shares[small] <= SMALL_SHARE:
        return f"One source, {small}, holds {_share(shares[small])} of the energy: equalize if it should count."
    low, high = (_share(shares[name]) for name in (small, large))
    every = f"Shares of the energy from {low} to {high}"
    if not facts.has_weights:
        return f"{every}: little to gain, but in a sum without norms, where smaller initial weights do as much."
    return f"{every}: little to gain."


def pull(record: Content, *, balanced: bool = False) -> str:
    """Which task pulls a Fusion that several share, in words; "" where none or one does.

    Each task's gradient, its weight included, is the root mean square over branches. balanced: the equalizers balance
    gradients.
    """
    start = "map_gradient_"
    branches = list(record["branches"].values())
    tasks = {key.removeprefix(start) for numbers in branches for key in numbers if key.startswith(start)}
    found = {
        task: math.sqrt(sum(numbers.get(start + task, 0.0) ** 2 for numbers in branches) / len(branches))
        for task in sorted(tasks)
    }
    total = sum(found.values())
    if not total:
        return ""
    ordered = sorted(found, key=lambda task: -found[task])
    shares = ", ".join(f"{task} {100 * found[task] / total:.0f} %" for task in ordered)
    text = f"{ordered[0]} pulls most: of the tasks' gradients, weights of losses included, {shares}"
    if balanced:
        text += "; STATISTIC 'grad' balances their total, and so depends on these weights"
    return f"{text}."


def percent(ratio: float) -> str:
    """1.26 -> "26 %"."""
    return f"{100 * (ratio - 1):.0f} %"


def ratios(record: Content, number: str) -> list[float]:
    """A number of all branches relative to the first one's; empty where a branch has none."""
    branches = list(record["branches"].values())
    if any(number not in branch for branch in branches) or not branches[0][number] > 0:
        return []
    return [branch[number] / branches[0][number] for branch in branches]


def _change(facts: FusionFacts, record: Content, equalized: Content) -> str:
    before, after = ratios(record, "weight_gradient"), ratios(equalized, "weight_gradient")
    if not facts.has_weights or not before or not after:
        # Without weights of its own a branch has a share of the energy alone.
        shares = (
            [branch[key] for branch in source["branches"].values()]
            for source, key in ((record, "energy_share"), (equalized, "energy_share_equalized"))
        )
        text = " to ".join(map(_range, shares))
        return f"no weights of its own consume a branch, but equalizing brings its share of energy from {text}"
    if equalized is record:
        after_them = percent(record["spread_equalized"])
        return f"after its equalizers {after_them}, and gradients of {_range(after[1:])} of the first branch's"
    direction = "closer together" if spread(after) < spread(before) else "further apart"
    return f"equalizing brings gradients from {_range(before[1:])} to {_range(after[1:])}, {direction}"


def _pooled_level(fusion: Fusion) -> str:
    """The branch that keeps its map, where all others are pooled to a few cells, as in PSP and UPer; "" elsewhere."""
    whole = [name for name, branch in fusion.branches.items() if not _is_pooled(branch.lateral)]
    return whole[0] if len(whole) == 1 < len(fusion.branches) else ""


def _is_pooled(lateral: object) -> bool:
    """Whether it is pooling, then more. A pooling inside of a block is none: it weighs channels."""
    if isinstance(lateral, nn.Sequential):
        return any(_is_pooled(module) for module in lateral)
    return isinstance(lateral, nn.AdaptiveAvgPool2d)


def _share(share: float) -> str:
    """0.972 -> "97 %", 0.9997 -> "99.97 %"."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def _transfer_name(transfer: Transfer) -> str:
    if isinstance(transfer, Keep):
        return "none"
    if isinstance(transfer, Resize):
        return transfer.mode
    return transfer.kind if isinstance(transfer, Pool) else type(transfer).__name__.lower()
