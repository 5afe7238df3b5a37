"""Parameters and multiply-adds of a model, by part (backbone, pyramid, head) and by kind of layer.

Counted where operators are dispatched, so functional calls count, with torch's own formulas (torch.utils.flop_counter).
A multiply-add is one; biases, norms, activations, pooling and resizing are none. Works on meta tensors, at full size in
seconds, with the numbers that real tensors give.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from scaleeq.fusion import Aligned

PARTS = ("backbone", "pyramid", "head", "other")
AUXILIARY = "auxiliary"
# Convolutions; linear layers; a deformable convolution's weights; products of two maps, which attention is.
KINDS = ("conv", "linear", "deformable", "attention")


@dataclasses.dataclass(frozen=True)
class Count:
    """What inference needs.

    params_by_part and macs_by_part: those of PARTS that the model has; the pyramid is not counted with the head.
    macs_by_kind: one of KINDS -> multiply-adds. auxiliary_params: of heads that training alone needs.
    """

    params_by_part: dict[str, int]
    macs_by_part: dict[str, int]
    macs_by_kind: dict[str, int]
    auxiliary_params: int

    @property
    def params(self) -> int:
        return sum(self.params_by_part.values())

    @property
    def macs(self) -> int:
        return sum(self.macs_by_part.values())

    def as_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {"params": self.params, "macs": self.macs, **dataclasses.asdict(self)}


@contextmanager
def counting(model: nn.Module) -> Iterator[OperationCounter]:
    """Count what `model` computes in the block, in eval mode; the modes of its modules are restored.

    with counting(model) as counter:
        model(images)
    counter.count()
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    counter = OperationCounter(model)
    try:
        # With this choice attention is the two products that it is, on every device.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield counter
    finally:
        for module, mode in modes:
            module.training = mode


def count(model: nn.Module, *inputs: object, call: Callable[..., object] | None = None) -> Count:
    """Count `model(*inputs)`.

    call: what takes the inputs instead of the model, and calls it, perhaps several times.
    """
    with counting(model) as counter:
        (call or model)(*inputs)
    return counter.count()


def count_on_meta(build: Callable[[], nn.Module], size: Sequence[int]) -> Count:
    """The model that `build` makes, on one image of `size` (height, width), pixels; weights and maps take no memory."""
    with torch.device("meta"):
        model = build()
    return count(model, [{"image": torch.empty(3, *size, device="meta")}])


def parts_of(model: nn.Module) -> dict[nn.Module, str]:
    """Every module of `model` -> the part that it belongs to: one of PARTS, or AUXILIARY."""
    # One head, or the decoders of several tasks, which may share a pyramid.
    parts = dict(model.named_children())
    heads = [parts[name] for name in ("sem_seg_head", "decoders", "tasks") if name in parts]
    decoders = [*heads[:1], *(parts["decoders"].children() if "decoders" in parts else ())]
    pyramids = [getattr(decoder, "pyramid", None) for decoder in decoders]
    auxiliary, backbone = parts.get("aux_heads"), parts.get("backbone")
    pyramids += [getattr(backbone, name, None) for name in ("pyramid", "extra")]  # of a backbone that has one
    part_of: dict[nn.Module, str] = {}
    owners_of: dict[str, list[Any]] = {AUXILIARY: [auxiliary], "pyramid": pyramids, "backbone": [backbone]}
    for part, owners in (owners_of | {"head": heads, "other": [model]}).items():
        for module in (module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()):
            part_of.setdefault(module, part)
    return part_of


class OperationCounter(TorchDispatchMode):
    """Adds up the multiply-adds of every operator, by the part of the model and by the layer that it runs in."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.part_of = parts_of(model)
        self.macs_by_part: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
        self.macs_by_kind: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._running: list[nn.Module] = []
        self._hooks = ExitStack()

    def count(self) -> Count:
        """What was computed so far, and the parameters."""
        # A parameter that two modules share counts once.
        params = Counter(dict.fromkeys(self.macs_by_part, 0))
        seen: set[nn.Parameter] = set()
        for module, part in self.part_of.items():
            own = set(module.parameters(recurse=False)) - seen
            params[part] += sum(parameter.numel() for parameter in own)
            seen |= own
        auxiliary = params.pop(AUXILIARY, 0)
        macs = {part: macs for part, macs in self.macs_by_part.items() if macs or params[part]}
        return Count({part: params[part] for part in macs}, macs, dict(self.macs_by_kind), auxiliary)

    def __enter__(self) -> OperationCounter:
        for module in self.part_of:
            self._hooks.enter_context(module.register_forward_pre_hook(self._enter_module))
            self._hooks.enter_context(module.register_forward_hook(self._leave_module))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def _enter_module(self, module: nn.Module, inputs: object) -> None:
        self._running.append(module)

    def _leave_module(self, module: nn.Module, inputs: object, output: object) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        # Torchvision's operator is in nobody's registry.
        packet = func._overloadpacket
        if packet is torch.ops.torchvision.deform_conv2d:
            weight = args[1]
            self._add("deformable", output.numel() * weight[0].numel())
        elif packet in flop_registry:
            macs = flop_registry[packet](*args, **kwargs, out_val=output) // 2
            self._add("conv" if "conv" in str(packet) else self._kind_of_product(), macs)
        return output

    def _kind_of_product(self) -> str:
        if isinstance(self._innermost, nn.Linear):
            return "linear"
        return "deformable" if isinstance(self._innermost, Aligned) else "attention"

    @property
    def _innermost(self) -> nn.Module | None:
        return self._running[-1] if self._running else None

    def _add(self, kind: str, macs: int) -> None:
        part = "other" if self._innermost is None else self.part_of[self._innermost]
        self.macs_by_part[part] += macs
        self.macs_by_kind[kind] += macs
