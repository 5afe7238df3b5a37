"""The training loop and its hooks' base.

Source: the interface and behaviour of Detectron2's `engine/train_loop.py`: order of calls, what `iter` is in each,
state keyed by the hook's class name (of two hooks of one class only the first one's state is kept).
Deviations: no simple and AMP trainers; the project has its own.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Any

from .events import EventStorage

State = dict[str, Any]


class HookBase:
    """Called by the trainer around its steps. A stateful hook overrides state_dict and adds load_state_dict(state)."""

    trainer: Any = None  # a weak proxy of the trainer, set by register_hooks

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, or after an exception: then trainer.iter < trainer.max_iter."""

    def before_step(self) -> None:
        """Before each iteration; should take no time."""

    def after_backward(self) -> None:
        """After each backward pass, where the trainer's run_step calls it."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> State:
        return {}


class TrainerBase:
    """A loop with hooks; a subclass says in run_step what a step is.

    iter: iteration in progress; equal to max_iter after a training that succeeded. storage: open during train().
    """

    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks, to run in this order; None is skipped."""
        present = [hook for hook in hooks if hook is not None]
        for hook in present:
            assert isinstance(hook, HookBase), hook
            hook.trainer = weakref.proxy(self)  # a strong reference would be a cycle
        self._hooks.extend(present)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter to max_iter - 1."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> State:
        """{"iteration": ..., "hooks": {class name: state}}; without "hooks" where no hook has a state."""
        states: State = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, "hooks": states} if states else {"iteration": self.iter}

    def load_state_dict(self, state_dict: State) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook: Any = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning("Cannot find the hook '%s', its state_dict is ignored.", name)
            else:
                hook.load_state_dict(state)
