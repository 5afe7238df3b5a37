"""What is recorded of every Fusion's branches in a training step: by the trainer's hook and by `scaleeq analyze`.

Observers read the maps of the forwards that run anyway, hooks of autograd read their gradients, and both leave results
bit-identical. A step may have several forwards (micro-batches) and several processes: their maps count as one batch.

The numbers of a branch, each where it has a meaning, and of the branch as it is before its equalizer:
    source_mean, source_std, source_correlation_{y, x}    before the transfer, over all channels; correlation of
                                                          neighbouring pixels around the branch's mean
    mean, std, correlation_{y, x}                         after the transfer
    std_predicted                                         from what is before the transfer (ops/variance.py)
    energy_share                                          C std^2 over the sum of all branches
    std_equalized, energy_share_equalized                 after its equalizer
    map_gradient                                          root mean square of the loss's gradient by the branch
    weight_gradient                                       that of the weights that consume it, as the optimizer sees it
    map_gradient_<task>, weight_gradient_<task>           the same of each task's share of the loss, where several tasks
                                                          have the fusion in common: which of them pulls the branch
    relative_step                                         |change of these weights| / |weights| in the optimizer's step
and of a fusion, largest over smallest: spread (std), spread_equalized, gradient_spread (weight_gradient) and
map_gradient_spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.forwards import Gather, alone, observed_by
from scaleeq.equalization.gradients import branch_rms
from scaleeq.equalization.moments import BranchMoments
from scaleeq.equalization.result import spread
from scaleeq.fusion import Fusion, Keep, Observation, Resize
from scaleeq.fusion.fusion import Observer
from scaleeq.fusion.ports import Summing, TakesResized
from scaleeq.ops.resize import INTERPOLATIONS
from scaleeq.ops.variance import upsampled_variance_factor
from scaleeq.records import Json

Part = dict[str, Any]  # of a branch in one forward: source, transferred, their sizes, its gradient
Numbers = dict[str, float]  # name -> value, of a branch
Record = dict[str, Json]  # fusion -> {"branches": branch -> name -> value, spreads}

SPREADS = {
    "spread": "std",
    "spread_equalized": "std_equalized",
    "gradient_spread": "weight_gradient",
    "map_gradient_spread": "map_gradient",
}


class Recorder:
    """Watches a model's Fusions in a block.

        with Recorder(model) as recorder:
            loss.backward()
            recorder.read_gradients()  # complete, before they are clipped
            optimizer.step()
        record = recorder.finish()

    Several steps in the block are averaged, but for relative_step, which is the last one's.
    """

    def __init__(self, model: nn.Module, *, maps: bool = True, tasks: bool = False):
        """
        maps: False for compiled models, where an observer would have them compiled again: weights alone.
        tasks: whether `read_tasks` will be called, for which what is combined has to be kept.
        """
        self._tasks = tasks
        self.fusions = fusions_of(model, equalized=False)
        self._watched = self.fusions if maps else {}
        self._seen: dict[str, dict[str, _Branch]] = {}
        self._gradients: dict[str, list[torch.Tensor]] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self._watching = ExitStack()
        self._gradient_scale = 1.0
        self._combined: dict[str, torch.Tensor] = {}  # fusion -> what _watch has shown last, with its graph
        self._of_tasks: dict[str, dict[str, torch.Tensor]] = {}  # fusion -> task -> gradient of its weights, of a step
        self._pulls: dict[str, dict[str, list[torch.Tensor]]] = {}  # fusion -> task -> of each step, (branches,)

    def __enter__(self) -> Recorder:
        observers: dict[Fusion, Observer | None] = {}
        for name, fusion in self._watched.items():
            seen = self._seen[name] = {branch: _Branch() for branch in fusion.branches}
            observers[fusion] = lambda fusion, o, seen=seen: seen[o.branch].observe(fusion, o)  # type: ignore[misc]
            self._watching.enter_context(_watch(fusion, _gradient_reader(fusion, seen)))
            if self._tasks:
                self._watching.enter_context(_watch(fusion, partial(self._keep_combined, name)))
        self._watching.enter_context(observed_by(observers))
        return self

    def __exit__(self, *error: object) -> None:
        self._watching.close()

    def _keep_combined(self, name: str, x: torch.Tensor) -> None:
        if x.requires_grad:
            self._combined[name] = x

    def read_tasks(self, shares: Mapping[str, torch.Tensor]) -> None:
        """After a forward, before its backward: task -> (), its share of the loss, with its graph, which stays.

        Takes a backward pass down to the fusions for each task; parameters get no gradient of it.
        """
        weights = {name: w for name, fusion in self.fusions.items() if (w := _consumed_by(fusion)) is not None}
        maps = dict(self._combined)
        for task, share in shares.items():
            inputs = [*maps.values(), *weights.values()]
            found = torch.autograd.grad(share, inputs, retain_graph=True, allow_unused=True)
            for name, gradient in zip(maps, found, strict=False):
                if gradient is not None:
                    parts = {branch: seen.parts[-1] for branch, seen in self._seen[name].items()}
                    _read(self.fusions[name], parts, gradient, task=task)
            for name, gradient in zip(weights, found[len(maps) :], strict=True):
                if gradient is not None:
                    own = self._of_tasks.setdefault(name, {})
                    own[task] = own[task] + gradient if task in own else gradient
        self._combined.clear()

    def read_gradients(
        self, gradient_scale: float = 1.0, *, average: Callable[[torch.Tensor], torch.Tensor] = lambda each: each
    ) -> None:
        """gradient_scale: what a loss scaler multiplied the losses with, if the weights' gradients are without it.

        average: a gradient of one process -> the mean of all processes, which those of tasks are not yet.
        """
        self._gradient_scale = gradient_scale
        self._combined.clear()
        for name, of_tasks in self._of_tasks.items():
            for task, gradient in of_tasks.items() if len(of_tasks) > 1 else ():
                pulls = self._pulls.setdefault(name, {}).setdefault(task, [])
                pulls.append(branch_rms(self.fusions[name], average(gradient)))
        self._of_tasks = {}
        for name, fusion in self.fusions.items():
            weight = _consumed_by(fusion)
            if weight is not None and weight.grad is not None:
                self._gradients.setdefault(name, []).append(branch_rms(fusion, weight.grad))
                self._weights[name] = weight.detach().clone()

    def finish(self, gather: Gather = alone) -> Record:
        """The record of the block, in the order of the model's fusions; those that did not run are left out.

        gather: all processes' objects, where several share a step.
        """
        shares = gather({n: {b: seen.to_cpu() for b, seen in branches.items()} for n, branches in self._seen.items()})
        record: Record = {}
        for name, fusion in self.fusions.items():
            parts = {b: [s for share in shares for s in share.get(name, {}).get(b, [])] for b in fusion.branches}
            values = {branch: self._summary(fusion, branch, seen, len(shares)) for branch, seen in parts.items()}
            self._add_weights(name, fusion, values)
            record |= {name: _with_shares(fusion, values)} if all(values.values()) else {}
        self._seen, self._gradients, self._weights, self._pulls = {}, {}, {}, {}
        return record

    def _summary(self, fusion: Fusion, branch: str, parts: list[Part], processes: int) -> Numbers:
        """The numbers of one branch that its maps give."""
        if not parts:
            return {}
        # All forwards of all processes as one batch.
        source, transferred = (_merged([part[key] for part in parts]) for key in ("source", "transferred"))
        before, after = _numbers(source, parts, "source"), _numbers(transferred, parts, "transferred")
        values = {f"source_{key}": value for key, value in before.items()} | after
        # What theory says.
        factor = _predicted_factor(fusion, branch, parts[0], before)
        if factor is not None:
            values["std_predicted"] = before["std"] * math.sqrt(factor)
        equalizer = fusion.equalizer_of.get(branch)
        if equalizer is not None:
            scale, shift = (v.detach().double().cpu() for v in (equalizer.scale(), equalizer.shift()))
            # An equalizer is affine: its output need not be looked at.
            mean, squares = transferred.mean * scale + shift, transferred.squares * scale**2
            equalized = BranchMoments(transferred.count, mean, squares)
            values["std_equalized"] = math.sqrt(equalized.scalar()[1])
        # Losses are means over forwards and processes.
        squares, count = (sum(part[key] for part in parts) for key in ("gradient_squares", "gradient_count"))
        if count:
            values["map_gradient"] = math.sqrt(squares / count) / (self._gradient_scale * processes)
        tasks = {task for part in parts for task in part["task_squares"]}
        if count and len(tasks) > 1:
            for task in sorted(tasks):
                squares = sum(part["task_squares"].get(task, 0.0) for part in parts)
                values[f"map_gradient_{task}"] = math.sqrt(squares / count) / processes
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def _add_weights(self, name: str, fusion: Fusion, values: dict[str, Numbers]) -> None:
        """The numbers of the weights that consume a concatenation's branches."""
        if name not in self._gradients:
            return
        # The gradient of all micro-batches, and what the optimizer made of it.
        gradients = torch.stack(self._gradients[name]).square().mean(0).sqrt().tolist()
        old = self._weights[name]
        weight = cast(torch.Tensor, _consumed_by(fusion)).detach()
        steps = (branch_rms(fusion, weight - old) / branch_rms(fusion, old)).tolist()
        for branch, gradient, step in zip(values, gradients, steps, strict=True):
            numbers = {"weight_gradient": gradient, "relative_step": step}
            values[branch] |= {key: value for key, value in numbers.items() if math.isfinite(value)}
        for task, steps_of in self._pulls.get(name, {}).items():
            rms = torch.stack(steps_of).square().mean(0).sqrt()
            for branch, gradient in zip(values, rms.tolist(), strict=True):
                values[branch] |= {f"weight_gradient_{task}": gradient} if math.isfinite(gradient) else {}


class _Branch:
    """What one process has seen of one branch: a part for each forward, on the device until `to_cpu`."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    @torch.no_grad()
    def observe(self, fusion: Fusion, seen: Observation) -> None:
        transferred = map_statistics(seen.transferred, seen.scale, seen.offset)
        # A branch that keeps its size is looked at once.
        same = seen.source is seen.transferred or seen.source.data_ptr() == seen.transferred.data_ptr()
        source = transferred if same else map_statistics(seen.source, seen.scale, seen.offset)
        sizes = {"source_size": tuple(seen.source.shape[-2:]), "size": tuple(seen.transferred.shape[-2:])}
        gradient: Part = {"gradient_squares": 0.0, "gradient_count": 0, "task_squares": {}}
        self.parts.append({"source": source, "transferred": transferred, **sizes, **gradient})

    def to_cpu(self) -> list[Part]:
        """The parts as plain numbers and float64 tensors on the CPU."""
        parts = tree_map_only(torch.Tensor, lambda value: value.double().cpu(), self.parts)
        for part in parts:
            part["gradient_squares"] = float(part["gradient_squares"])
            part["task_squares"] = {task: float(squares) for task, squares in part["task_squares"].items()}
        return parts


def map_statistics(x: torch.Tensor, scale: torch.Tensor | float = 1.0, offset: torch.Tensor | float = 0.0) -> Part:
    """Of a branch x * scale + offset, on the device of `x`, without a copy of all of it.

    x: (N, C, H, W); scale, offset: () or (C, 1, 1).

    Returns the count of pixels, mean and variance per channel (C,), and the correlations (2,) of vertical and of
    horizontal neighbours around the mean over all channels; not finite where there are none.
    """
    # Mean and variance, of the branch as it is before its equalizer.
    x = x.detach()
    precise = torch.promote_types(x.dtype, torch.float32)
    scale, offset = (torch.as_tensor(v, device=x.device, dtype=precise).detach() for v in (scale, offset))
    variance, mean = torch.var_mean(x.to(precise), dim=(0, 2, 3), correction=0)
    mean, variance = mean * scale.reshape(-1) + offset.reshape(-1), variance * scale.reshape(-1).square()
    # Neighbours around the mean of all channels.
    center = mean.mean()
    total = variance.mean() + mean.var(correction=0)
    products = torch.zeros(2, dtype=precise, device=x.device)
    for image in x:  # one after another: the memory of one image's map
        centered = image.to(precise) * scale + (offset - center)
        products[0] += (centered[:, 1:] * centered[:, :-1]).sum()
        products[1] += (centered[:, :, 1:] * centered[:, :, :-1]).sum()
    n, channels, height, width = x.shape
    # As correlations.
    pairs = torch.tensor([(height - 1) * width, height * (width - 1)], dtype=precise, device=x.device) * n * channels
    return {"count": n * height * width, "mean": mean, "variance": variance, "correlation": products / (pairs * total)}


def _merged(parts: list[Part]) -> BranchMoments:
    """Moments of several forwards as one batch."""
    moments = BranchMoments()
    for part in parts:
        moments.merge(BranchMoments(part["count"], part["mean"], part["variance"] * part["count"]))
    return moments


def _numbers(moments: BranchMoments, parts: list[Part], key: str) -> Numbers:
    """key: "source" or "transferred", of which the moments are."""
    mean, variance = moments.scalar()
    y, x = torch.stack([part[key]["correlation"] for part in parts]).mean(0).tolist()
    return {"mean": mean, "std": math.sqrt(variance), "correlation_y": y, "correlation_x": x}


def _predicted_factor(fusion: Fusion, branch: str, part: Part, source: Numbers) -> float | None:
    """Variance after over variance before the transfer in closed form; None where there is none."""
    transfer = fusion.branches[branch].transfer
    if isinstance(transfer, Keep):
        return 1.0
    if not isinstance(transfer, Resize):
        return None
    y, x = (value if math.isfinite(value) else 0.0 for value in (source["correlation_y"], source["correlation_x"]))
    mode, align_corners = INTERPOLATIONS[transfer.mode]
    if mode not in ("bilinear", "nearest"):
        return None
    sizes = part["source_size"], part["size"]
    return upsampled_variance_factor(*sizes, (y, x), mode=mode, align_corners=bool(align_corners))


def _with_shares(fusion: Fusion, values: dict[str, Numbers]) -> Json:
    """Adds shares of energy and the fusion's spreads."""
    for share, key in (("energy_share", "std"), ("energy_share_equalized", "std_equalized")):
        # Shares of energy.
        energies = {
            name: fusion.branches[name].channels * numbers[key] ** 2
            for name, numbers in values.items()
            if key in numbers
        }
        if len(energies) == len(values) and (total := sum(energies.values())) > 0:
            for name, energy in energies.items():
                values[name][share] = energy / total
    # Largest over smallest.
    spreads = {
        name: spread(numbers[key] for numbers in values.values())
        for name, key in SPREADS.items()
        if all(key in numbers for numbers in values.values())
    }
    return {"branches": values, **{name: value for name, value in spreads.items() if math.isfinite(value)}}


def _consumed_by(fusion: Fusion) -> torch.Tensor | None:
    """The weights that consume a concatenation, a part for each branch; None after a sum."""
    return None if fusion.consumer is None else fusion.consumer.weight


def _watch(fusion: Fusion, look: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Call `look` in each forward with what tells the gradient of the combined map: that map itself.

    Or, where a convolution reads a concatenation that need not be made, its result; see _of_combined.
    """
    if _is_read_by_conv(fusion):
        norm = fusion.mix.get_submodule("norm")  # type: ignore[attr-defined]
        return norm.register_forward_pre_hook(lambda module, args: look(args[0]))
    combine = fusion.get_submodule("combine")
    return combine.register_forward_hook(lambda module, args, out: look(out))


def _is_read_by_conv(fusion: Fusion) -> bool:
    """Whether a Fusion may be evaluated before its branches are resized and concatenated."""
    conv = fusion.consumer
    if conv is None or not isinstance(fusion.mix, TakesResized) or isinstance(conv.padding, str):
        return False
    return conv.stride == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"


def _of_combined(fusion: Fusion, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of the combined map, of the gradient of what _watch has shown: that convolution, transposed."""
    conv, scales = fusion.consumer, fusion.equalizers.weight_scales()
    if conv is None or not _is_read_by_conv(fusion):
        return gradient
    precise = torch.promote_types(gradient.dtype, torch.float32)
    weight = conv.weight.detach().to(precise)
    weight = weight if scales is None else weight * scales.detach().to(precise).view(1, -1, 1, 1)
    padding = cast(tuple[int, int], conv.padding)
    return F.conv_transpose2d(gradient.to(precise), weight, padding=padding, dilation=conv.dilation)


def _gradient_reader(fusion: Fusion, seen: dict[str, _Branch]) -> Callable[[torch.Tensor], None]:
    """What _watch calls: when the gradient is there, each branch's share of it is read."""

    def look(x: torch.Tensor) -> None:
        parts = {branch: state.parts[-1] for branch, state in seen.items() if state.parts}
        if x.requires_grad and len(parts) == len(seen):
            x.register_hook(lambda gradient: _read(fusion, parts, gradient.detach()))

    return look


@torch.no_grad()
def _read(fusion: Fusion, parts: dict[str, Part], gradient: torch.Tensor, *, task: str = "") -> None:
    """gradient: of what _watch has shown, of a task's share of the loss or of all of it. Puts the squares of the
    gradients by the branches into `parts`.
    """
    gradient = _of_combined(fusion, gradient)
    precise = torch.promote_types(gradient.dtype, torch.float32)
    # A branch's gradient is that of the combined map, times the slope of the combination.
    per_channel = torch.linalg.vector_norm(gradient, dim=(0, 2, 3), dtype=precise).square()
    pixels, start = gradient.numel() // gradient.shape[1], 0
    for index, (name, part) in enumerate(parts.items()):
        width = fusion.branches[name].channels
        squares = per_channel[start : start + width] if fusion.combine.concatenates else per_channel
        start += width
        squares = (squares * _slope(fusion, name, index).to(squares).square()).sum()
        if task:
            part["task_squares"][task] = squares
            continue
        part["gradient_squares"], part["gradient_count"] = squares, pixels * width


def _slope(fusion: Fusion, branch: str, index: int) -> torch.Tensor:
    """Change of the combined map with the branch before its equalizer, () or (C,)."""
    slope = torch.ones(())
    if isinstance(fusion.combine, Summing):
        weights = fusion.combine.weights()
        slope = slope if weights is None else weights[index].detach().reshape(-1)
    equalizer = fusion.equalizer_of.get(branch)
    if equalizer is None or not fusion.equalizers.in_the_map:
        return slope
    return slope.to(equalizer.std.device) * equalizer.scale().detach()
