"""What a saved state may differ in from the present one, and how the rest is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaleeq.engine.checkpoint_misfits import optimizer_misfits, state_misfits


@pytest.mark.parametrize(
    ("own", "saved"), [(True, False), (True, None), (None, 3), (3, 0.5), ([1], (2, 3)), ({}, {"a": 1})]
)
def test_states_of_one_kind_fit(own: Any, saved: Any) -> None:
    assert state_misfits({"key": own}, {"key": saved}, "state") == []


@pytest.mark.parametrize(
    ("own", "saved"), [(True, "yes"), (True, 1), (3, None), (3, True), ("text", None), ([1], None), ({"a": 1}, [1])]
)
def test_a_state_of_another_kind_is_named(own: Any, saved: Any) -> None:
    (line,) = state_misfits({"key": own}, {"key": saved}, "state")
    assert line.startswith(f"of another kind: state.key is a {type(saved).__name__}")


@pytest.mark.parametrize("flags", [{}, {"foreach": True}, {"foreach": False}])
def test_torch_s_own_choice_of_a_loop_may_differ(flags: dict[str, bool]) -> None:
    """Oracle: torch takes every one of these states for every other."""
    for own_flags in ({}, {"foreach": True}):
        optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1, **own_flags)
        saved = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.2, **flags).state_dict()
        assert optimizer_misfits(optimizer, saved, "optimizer") == []
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["lr"] == 0.2
