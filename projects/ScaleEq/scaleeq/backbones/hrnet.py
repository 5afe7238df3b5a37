"""HRNetV2 (arXiv 1908.07919) and GSTO-HRNet (arXiv 2005.13363) on timm's HRNet, whose weights they load.

The parts are timm's; each fuse layer becomes one Fusion per branch that it writes. With gates, a path is: gate, then
convolutions, then upsampling; the identity paths are gated too. The convolution that starts a third or a fourth branch
reads a map gated by class logits, which an auxiliary head computes of all branches before it.

Follows the authors' released code. Deviations: no gate at the first transition, where theirs is never called; no bias
before the auxiliary heads' norm; timm's momentum of batch norms and its initial weights. Differences from timm's HRNet:
bilinear upsampling, to the size that is needed, so images of any size are taken as they are. Its Fusions are seen by
statistics, but never have scale equalizers, whatever SCALE_EQUALIZER.SCOPE: all paths but one end in a batch norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import Branch, Concat, Fusion, Keep, Resize, Sum
from scaleeq.layers import ConvNormAct, Gate, Level, LogitsGate

from .base import PlainBackbone
from .freezing import freeze, keep_in_eval
from .timm import LEVELS, Weights, create_body

GATES = ("both", "unsupervised", "supervised", "none")
AUX_STAGES = ("stage2", "stage3")

Levels = Mapping[str, torch.Tensor]
MakeGate = Callable[[int], nn.Module]


class Exchange(nn.Module):
    """Blocks on each branch, then a Fusion of all of them per branch: timm's HighResolutionModule."""

    def __init__(self, module: Any, channels: Mapping[str, int], *, transfer: str, gate: MakeGate | None):
        """module: timm's, whose parts are taken over; channels: of its levels, finest first."""
        super().__init__()
        self.branches = nn.ModuleDict(dict(zip(channels, module.branches, strict=True)))
        self.fusions = nn.ModuleDict()
        levels = list(channels)
        for target, paths in zip(levels, module.fuse_layers, strict=True):
            branches = {}
            for source, path in zip(levels, paths, strict=True):
                # The gate, then the convolutions of the path; the upsampling becomes the transfer.
                parts: OrderedDict[str, nn.Module] = OrderedDict()
                if gate is not None:
                    parts["gate"] = gate(channels[source])
                parts["convs"] = nn.Sequential(*(c for c in path.children() if not isinstance(c, nn.Upsample)))
                upsampled = levels.index(source) > levels.index(target)
                branches[source] = Branch(
                    channels[target],
                    lateral=nn.Sequential(parts),
                    transfer=Resize(transfer) if upsampled else Keep(),
                )
            self.fusions[target] = Fusion(branches, combine=Sum(), mix=nn.ReLU(), reference=target)

    def forward(self, levels: Levels) -> dict[str, torch.Tensor]:
        """levels: level -> (N, C_level, H_level, W_level) -> the same shapes."""
        levels = {level: branch(levels[level]) for level, branch in self.branches.items()}
        return {level: fusion(levels) for level, fusion in self.fusions.items()}


class AuxiliaryHead(nn.Module):
    """Class logits of several levels: concatenation at the finest one's size, 1x1 convolution, classifier."""

    def __init__(self, channels: Mapping[str, int], num_classes: int):
        super().__init__()
        width = sum(channels.values())
        branches = {level: Branch(wide, transfer=Resize("bilinear")) for level, wide in channels.items()}
        self.fusion = Fusion(branches, combine=Concat(), mix=ConvNormAct(width, width))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, levels: Levels) -> torch.Tensor:
        """levels: level -> (N, C_level, H_level, W_level) -> (N, num_classes, H, W) of the finest level."""
        return self.classifier(self.fusion(levels))


class Transition(nn.Module):
    """The start of the next branch: a convolution of stride 2 of the coarsest level, gated where supervised."""

    def __init__(self, conv: nn.Module, channels: Mapping[str, int], *, num_classes: int = 0, gate: str = ""):
        """channels: of the levels before; gate: kind of the gate by class logits, "" for none."""
        super().__init__()
        self.source = list(channels)[-1]
        self.gate = LogitsGate(num_classes, kind=gate, halvings=len(channels) - 1) if gate else None
        self.aux_head = AuxiliaryHead(channels, num_classes) if gate else None
        self.conv = conv

    def forward(self, levels: Levels) -> tuple[torch.Tensor, torch.Tensor | None]:
        """levels: level -> maps -> the new level (N, C, H, W), and the class logits of those before it."""
        x = levels[self.source]
        if self.aux_head is None or self.gate is None:
            return self.conv(x), None
        logits = self.aux_head(levels)
        return self.conv(self.gate(x, logits)), logits


class HRNetBody(nn.Module):
    """timm's HRNet, taken apart: image -> all levels, and the auxiliary logits by stage.

    Args:
        body: of timm.create_model(features_only=True, feature_location=""); not to be used after.
        channels: level -> channels.
        gates: kind of the gates ("paper", "reference") by place: "unsupervised", "supervised"; "" for none.
    """

    def __init__(
        self, body: Any, channels: Mapping[str, int], *, num_classes: int, gates: Mapping[str, str], transfer: str
    ):
        super().__init__()
        names = list(channels)

        def stage(modules: nn.Module, num_levels: int) -> nn.Sequential:
            of_stage = {level: channels[level] for level in names[:num_levels]}
            kind = gates["unsupervised"]
            gate = (lambda width: Gate(width, kind=kind)) if kind else None
            return nn.Sequential(*(Exchange(m, of_stage, transfer=transfer, gate=gate) for m in modules.children()))

        def transition(convs: nn.ModuleList, num_levels: int) -> Transition:
            before = {level: channels[level] for level in names[:num_levels]}
            return Transition(convs[-1], before, num_classes=num_classes, gate=gates["supervised"])

        # In the order in which they run: freezing and layer-wise learning rates rely on it.
        self.stem = nn.Sequential(body.conv1, body.bn1, body.act1, body.conv2, body.bn2, body.act2)
        self.layer1 = body.layer1
        self.transition1 = nn.ModuleDict(dict(zip(names, body.transition1, strict=False)))
        self.stage2 = stage(body.stage2, 2)
        self.transition2 = transition(body.transition2, 2)
        self.stage3 = stage(body.stage3, 3)
        self.transition3 = transition(body.transition3, 3)
        self.stage4 = stage(body.stage4, 4)

    def forward(self, image: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """image: (N, 3, H, W) -> level -> (N, C, H / stride, W / stride), rounded up; stage -> logits at stride 4."""
        x = self.layer1(self.stem(image))
        levels = self.stage2({level: conv(x) for level, conv in self.transition1.items()})
        aux_logits = {}
        for stage, transition, following in zip(
            AUX_STAGES, (self.transition2, self.transition3), (self.stage3, self.stage4), strict=True
        ):
            new, logits = transition(levels)
            if logits is not None:
                aux_logits[stage] = logits
            levels = following({**levels, list(LEVELS.values())[len(levels)]: new})
        return levels, aux_logits


class HRNetBackbone(PlainBackbone):
    """HRNetV2 or GSTO-HRNet: image -> {"res2": stride 4, "res3": 8, "res4": 16, "res5": 32}.

    In training, with supervised gates, also "aux_logits": stage -> (N, num_classes, H / 4, W / 4), which
    ScaleEqSegmentor trains with the weights of `aux_loss_weights`. Detectron2's own segmentors do not, and its wrapper
    Backbones pass them by: there, choose gates "unsupervised".
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        pretrained: bool | Weights = False,
        gates: str = "both",
        gate: str = "paper",
        num_classes: int = 0,
        aux_loss_weights: Sequence[float] = (0.3, 0.5),
        transfer: str = "bilinear",
        freeze_at: int = 0,
    ) -> None:
        """
        name, in_channels, pretrained, freeze_at: as TimmBackbone's; of an HRNet.
        gates: where: "both", "unsupervised" (fuse layers), "supervised" (transitions), "none".
        gate: their kind, "paper" or "reference" (see layers/gate.py).
        num_classes: of the supervised gates' logits.
        aux_loss_weights: of the losses after stage 2 and 3.
        transfer: upsampling in the fuse layers, "bilinear" or "nearest".

        Raises ValueError for another model, for an unknown value, and whatever TimmBackbone raises for the weights.
        """
        super().__init__()
        # What cannot be meant.
        if not name.startswith("hrnet"):
            import timm

            raise ValueError(
                f"MODEL.TIMM.NAME is {name!r}, but this backbone is an HRNet; choose one of "
                f"{', '.join(timm.list_models('hrnet*'))}"
            )
        one_of(gates, GATES, key="MODEL.HRNET.GATES")
        if len(aux_loss_weights) != len(AUX_STAGES):
            raise ValueError(
                f"MODEL.HRNET.AUX_LOSS_WEIGHTS is {list(aux_loss_weights)}; give one for each of {AUX_STAGES}"
            )
        # Its body, gated, and the losses of its gates.
        self.name = name
        body = create_body(name, in_channels, pretrained)
        self._channels = dict(zip(LEVELS.values(), cast(Any, body).feature_info.channels(), strict=True))
        kinds = {place: gate if gates in ("both", place) else "" for place in ("unsupervised", "supervised")}
        self.body = HRNetBody(body, self._channels, num_classes=num_classes, gates=kinds, transfer=transfer)
        weights = dict(zip(AUX_STAGES, aux_loss_weights, strict=True))
        self.aux_loss_weights = weights if kinds["supervised"] else {}
        self._frozen = freeze(self.body, freeze_at, name)
        self.train()

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        """image: (N, C, H, W), normalized, any size -> level -> maps; in training also "aux_logits"."""
        levels, aux_logits = self.body(image)
        return levels | ({"aux_logits": aux_logits} if self.training and aux_logits else {})

    def keep_levels(self, levels: Collection[str]) -> None:
        """Drop what only makes other levels than these: the last Fusions of the last stage."""
        last: Any = self.body.stage4[-1]
        for level in [level for level in last.fusions if level not in levels]:
            del last.fusions[level]

    def levels(self) -> dict[str, Level]:
        """Level name -> channels and stride."""
        left = cast(Any, self.body.stage4[-1]).fusions
        strides = {level: stride for stride, level in LEVELS.items() if level in left}
        return {level: Level(self._channels[level], stride) for level, stride in strides.items()}

    def train(self, mode: bool = True) -> HRNetBackbone:
        """Sets the mode of everything but the frozen stages, which stay in eval mode."""
        super().train(mode)
        keep_in_eval(self.body, self._frozen)
        return self
