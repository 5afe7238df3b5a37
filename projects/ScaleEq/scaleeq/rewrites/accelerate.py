"""Any eager model's resize -> concatenation -> convolution, each branch evaluated at its own resolution; exact.

The model keeps its class, its weights and its state-dict keys: it gets forward hooks. One on the model itself watches
its first forward in each mode (watching.py). Those on regions, the smallest modules that hold a whole fusion, put
resizes off while the region runs (deferred.py). Where anything else looks at what happens inside (a compiler, an
export, a hook on a map in between, another mode), they do nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_file
from torch.overrides import _pop_mode, _push_mode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from scaleeq.layers import has_hooks

from .deferred import Call, DeferredTensor, Deferring, plain_tensors, runs
from .paying import LIMIT
from .report import AccelerationReport
from .watching import Region, Watch

Model = TypeVar("Model", bound=nn.Module)

MAX_WATCHES = 8  # of a model whose forwards differ from the ones seen before
MAX_SIZES = 4096  # at which a region is known not to pay

logger = logging.getLogger(__name__)


def accelerate(model: Model, example: object = None, *, limit: float = LIMIT) -> Model:
    """Evaluate every resize -> concatenation -> convolution of a model per branch, where it pays; in place.

    Outputs and gradients stay equal to rounding, in inference and in training. Nothing is deferred before the model
    has run once in a mode (training or not): that forward, which is a plain one, shows what there is. What was found is
    logged, and told by `acceleration_report(model)`; `plain(model)` undoes it. A second call changes nothing.

    Args:
        model: any nn.Module in eager mode, before torch.compile; before or after DistributedDataParallel.
        example: what the model is called with, to look at once without gradients, in eval mode: one positional
            argument, or a tuple of them, or a dict of keyword arguments. A model in which nothing pays for it gets no
            hooks. None: the first forwards are looked at.
        limit: a fusion is evaluated per branch where that takes at most this part of its plain time, as estimated from
            its sizes and widths; float("inf"): always.

    Returns:
        The model.

    Raises:
        ValueError: not a module in eager mode.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}, not an nn.Module")
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        kind = "scripted" if isinstance(model, torch.jit.ScriptModule) else "compiled"
        raise ValueError(f"{type(model).__name__}: the model is {kind}; accelerate the nn.Module that it was made of")
    if _root_of(model) is None:
        plain(model)  # parts of it that were accelerated alone
        _Root(model, limit)
    root = _root_of(model)
    if example is not None and root is not None and False not in root.seen:
        _run(model, example)
        if not root.report.pays:
            plain(model)
    return model


def plain(model: Model) -> Model:
    """Undo `accelerate`: remove its hooks from the model, in place."""
    for module in model.modules():
        for hook in [*module._forward_pre_hooks.values()]:
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, (_Root, _Part)):
                owner.remove()
    return model


def acceleration_report(model: nn.Module) -> AccelerationReport:
    """What the last look at an accelerated model found; nothing before it has run, and after `plain`."""
    root = _root_of(model)
    return AccelerationReport(seen=False) if root is None else root.report


def _run(model: nn.Module, example: object) -> None:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            if isinstance(example, dict):
                model(**example)
            else:
                model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for module, training in modes.items():
            module.training = training


def _root_of(model: nn.Module) -> _Root | None:
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, _Root)), None)


@dataclass
class _Running:
    """A forward that has begun: of what, its frame, and the mode that it pushed."""

    owner: _Hooked
    frame: FrameType
    mode: Watch | Deferring | None = None


class _Stack(threading.local):
    """The forwards of this thread that have begun."""

    def __init__(self) -> None:
        self.running: list[_Running] = []


_stack = _Stack()


class _Hooked:
    """A pair of hooks around a module's forward; both go with a copy of the module, and with a pickled one."""

    def __init__(self, module: nn.Module):
        # First of all hooks, so that others see plain tensors.
        self.handles: list[RemovableHandle] = [
            module.register_forward_pre_hook(self.enter, prepend=True, with_kwargs=True),
            module.register_forward_hook(self.leave, prepend=True, always_call=True),
        ]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def enter(self, module: nn.Module, args: object, kwargs: object) -> None:
        if not torch.compiler.is_compiling():
            _drop_stale()
            _stack.running.append(_Running(self, sys._getframe(1)))
            _stack.running[-1].mode = self.begin(module, args, kwargs)

    def leave(self, module: nn.Module, args: object, output: object) -> object:
        if torch.compiler.is_compiling() or not _stack.running or _stack.running[-1].owner is not self:
            return None
        return self.end(module, _stack.running.pop().mode, output)

    def begin(self, module: nn.Module, args: object, kwargs: object) -> Watch | Deferring | None:
        raise NotImplementedError

    def end(self, module: nn.Module, mode: Any, output: object) -> object:
        raise NotImplementedError


class _Root(_Hooked):
    """Around the whole model: looks once in each mode, and gives regions what they may do."""

    def __init__(self, model: nn.Module, limit: float):
        super().__init__(model)
        self.limit = limit
        self.report = AccelerationReport(seen=False)
        self.seen: dict[bool, dict[str, Region]] = {}
        self.parts: dict[str, _Part] = {}
        self.watches = 0

    def begin(self, module: nn.Module, args: object, kwargs: object) -> Watch | None:
        known = module.training in self.seen and not self._outdated(module)
        for part in self.parts.values():
            part.armed = True
        if known or self.watches >= MAX_WATCHES or not _nobody_looks() or _has_compiled_parts(module):
            return None
        watch = Watch(module, self.limit)
        watch.begin()
        return watch

    def end(self, module: nn.Module, mode: Watch | None, output: object) -> None:
        if mode is None:
            return
        mode.end()
        if output is None:
            return  # the forward failed
        self.watches += 1
        regions, self.report = mode.finish()
        for part in self.parts.values():
            part.remove()
        self.seen[module.training] = regions
        self.parts = {
            path: _Part(
                module.get_submodule(path), {mode: r[path] for mode, r in self.seen.items() if path in r}, self.limit
            )
            for path in sorted({path for r in self.seen.values() for path in r})
        }
        done = [name for name, fusion in self.report.fusions.items() if fusion.pays]
        kind = type(module).__name__
        if done:
            logger.info("accelerate: %s evaluates %s per branch", kind, ", ".join(done))
        else:
            logger.warning("accelerate: nothing in %s pays at these sizes; it runs as it was. %s", kind, self.report)

    def _outdated(self, module: nn.Module) -> bool:
        """Whether the model was changed since, or does what was not seen."""
        for path, part in self.parts.items():
            try:
                here = part.handles[0].id in module.get_submodule(path)._forward_pre_hooks
            except AttributeError:
                here = False
            if part.outdated or not here:
                self.seen.clear()
                return True
        return False

    def remove(self) -> None:
        super().remove()
        for part in self.parts.values():
            part.remove()


class _Part(_Hooked):
    """Around a region: puts resizes off while it runs.

    armed: from the next forward of the whole model on, so that what recomputes this one (checkpointing) does as it did.
    """

    def __init__(self, module: nn.Module, regions: dict[bool, Region], limit: float):
        super().__init__(module)
        self.regions = regions
        self.limit = limit
        self.armed = False
        self.outdated = False
        self.not_paying: set[object] = set()

    def begin(self, module: nn.Module, args: object, kwargs: object) -> Deferring | None:
        region = self.regions.get(module.training)
        if region is None or not self.armed or self.outdated or not _nobody_looks():
            return None
        if _sizes(args, kwargs) in self.not_paying or not self._untouched(module, region):
            return None
        mode = Deferring(Call(region.allowed, _stack.running[-1].frame, self.limit))
        mode.call.sizes = _sizes(args, kwargs)
        mode.__enter__()
        return mode

    def end(self, module: nn.Module, mode: Deferring | None, output: object) -> object:
        if mode is None:
            return None
        mode.__exit__(None, None, None)
        call = mode.call
        call.frame = None
        if call.seen > len(call.allowed):
            self.outdated = True
        elif not call.paid and call.refused == sum(call.allowed) and len(self.not_paying) < MAX_SIZES:
            self.not_paying.add(call.sizes)
        if all(ref() is None for ref in call.pending):
            return None
        if not any(isinstance(leaf, DeferredTensor) for leaf in tree_leaves(output)):
            return None
        return plain_tensors(output)

    def _untouched(self, module: nn.Module, region: Region) -> bool:
        """Whether the modules that deferred maps go through are those that were seen, and nobody hooks on them."""
        for path, kind in region.touched.items():
            try:
                touched = module.get_submodule(path)
            except AttributeError:
                touched = module
            if type(touched) is not kind:
                self.outdated = True
                return False
            if has_hooks(touched):
                return False
        return True


def _sizes(args: object, kwargs: object) -> object:
    shapes = tuple(tuple(t.shape) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    return torch.is_grad_enabled(), shapes


def _nobody_looks() -> bool:
    """Whether the forward is an eager one that no other mode, hook, tracer or transform watches."""
    modes = range(torch._C._len_torch_function_stack())
    return (
        all(isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in modes)
        and not _len_torch_dispatch_stack()
        and not (module_file._global_forward_hooks or module_file._global_forward_pre_hooks)
        and not (module_file._global_backward_hooks or module_file._global_backward_pre_hooks)
        and not torch.jit.is_tracing()
        and not torch.fx._symbolic_trace.is_fx_symbolic_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def _has_compiled_parts(model: nn.Module) -> bool:
    return any(
        hasattr(m, "_orig_mod") or m._compiled_call_impl is not None or isinstance(m, torch.jit.ScriptModule)
        for m in model.modules()
    )


def _drop_stale() -> None:
    """Forget forwards that ended without their hooks, as after a KeyboardInterrupt, and take their modes off."""
    while _stack.running:
        if runs(_stack.running[-1].frame):
            break
        mode = _stack.running.pop().mode
        if isinstance(mode, Watch):
            mode.unhook()
        if mode is None:
            continue
        above = []
        while torch._C._len_torch_function_stack():
            top = _pop_mode()
            if top is mode:
                break
            above.append(top)
        for other in reversed(above):
            _push_mode(other)
