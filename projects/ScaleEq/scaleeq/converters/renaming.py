"""Strict renaming: every tensor of a peer's head, or model, has a place in ours, and every place gets one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from scaleeq.engine.checkpoint_numbers import weight_fault

State = Mapping[str, torch.Tensor]


def renamed(
    head: nn.Module, state_dict: State, name_of: Callable[[str], str], *, prefix: str, peer: str, title: str
) -> dict[str, torch.Tensor]:
    """The tensors of a peer's head under the names of ours: what head.load_state_dict takes.

    name_of: our name -> the peer's, without the prefix. peer: whose layout it is; title: what ours is; for messages.

    ValueError, with the name: nothing begins with the prefix; a tensor without a counterpart on either side; another
    shape; a value that no checkpoint may hold.
    """
    theirs = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    if not theirs:
        raise ValueError(f"no name begins with {prefix!r}; they begin with {list(state_dict)[:3]}; give another prefix")
    ours = head.state_dict()
    wanted = {name: name_of(name) for name in ours}
    if strangers := [name for name in theirs if name not in set(wanted.values())]:
        raise ValueError(f"{prefix}{strangers[0]} has no counterpart in this {title}, of {peer}{_more(strangers)}")
    if missing := [name for name in wanted.values() if name not in theirs]:
        raise ValueError(f"{prefix}{missing[0]} is not in the file of {peer}; this {title} needs it{_more(missing)}")
    parameters = {name for name, _ in head.named_parameters()}
    for name, other in wanted.items():
        found, needed = tuple(theirs[other].shape), tuple(ours[name].shape)
        if found != needed:
            raise ValueError(f"{prefix}{other} is {found}, and {name} of this {title} {needed}; build it as theirs")
        if fault := weight_fault(other, theirs[other], is_parameter=name in parameters):
            raise ValueError(f"{prefix}{other} {fault}")
    return {name: theirs[other] for name, other in wanted.items()}


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
