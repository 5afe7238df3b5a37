"""Scenarios of the training loop and its hooks: engine, empty folder -> what happened, as plain data.

Each is run through both engines and compared at zero tolerance; Detectron2's record is also kept as a golden.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

from tests.engine.running_sides import captured_log, outcome, read_tensorboard

Engine = SimpleNamespace


def _recorder(engine: Engine, name: str, calls: list[Any]) -> Any:
    class Recorder(engine.HookBase):
        def _note(self, method: str) -> None:
            storage = engine.get_event_storage()
            trainer = self.trainer
            calls.append([name, method, trainer.iter, storage.iter, trainer.start_iter, trainer.max_iter])

        def before_train(self) -> None:
            self._note("before_train")

        def after_train(self) -> None:
            self._note("after_train")

        def before_step(self) -> None:
            self._note("before_step")

        def after_backward(self) -> None:
            self._note("after_backward")

        def after_step(self) -> None:
            self._note("after_step")

    return Recorder()


def _trainer(engine: Engine, step: Any = None) -> Any:
    class Trainer(engine.TrainerBase):
        def run_step(self) -> None:
            if step is not None:
                step(self)
            self.after_backward()

    return Trainer()


def training_calls(engine: Engine, folder: Path) -> Any:
    """Order of hooks and values of iter: whole, continued, empty and trainings that run backwards."""
    record = {}
    for start, stop in ((0, 3), (3, 5), (4, 4), (5, 2)):
        calls: list[Any] = []
        trainer = _trainer(engine)
        trainer.register_hooks([_recorder(engine, "first", calls), None, _recorder(engine, "second", calls)])
        with captured_log(engine) as log:
            trainer.train(start, stop)
        record[f"{start}-{stop}"] = [calls, trainer.iter, trainer.state_dict(), log]
    record["not a hook"] = outcome(trainer.register_hooks, ["not a hook"])
    record["no run_step"] = outcome(engine.TrainerBase().train, 0, 1)
    return record


def training_failures(engine: Engine, folder: Path) -> Any:
    """after_train runs after a failure anywhere; only exceptions, not interrupts, are logged."""
    record = {}
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        for where in ("before_train", "before_step", "run_step", "after_step", "after_train"):
            calls: list[Any] = []

            def fail(trainer: Any = None, error: BaseException = error) -> None:
                if trainer is None or trainer.iter == 3:
                    raise error

            trainer = _trainer(engine, fail if where == "run_step" else None)
            bad = _recorder(engine, "bad", calls)
            if where.endswith("train"):
                setattr(bad, where, fail)
            elif where != "run_step":
                setattr(bad, where, lambda bad=bad, fail=fail: fail(bad.trainer))
            trainer.register_hooks([bad, _recorder(engine, "good", calls)])
            with captured_log(engine) as log:
                raised = outcome(trainer.train, 2, 6)
            key = f"{type(error).__name__} in {where}"
            record[key] = [raised, calls, trainer.iter, trainer.storage.iter, log, outcome(engine.get_event_storage)]
    return record


def evaluation_times(engine: Engine, folder: Path) -> Any:
    """At which iterations EvalHook evaluates, and what it puts."""
    record: dict[str, Any] = {}
    for period, start, stop, after_train in (
        (0, 0, 6, True),
        (0, 0, 6, False),
        (2, 0, 6, True),
        (2, 0, 6, False),
        (2, 0, 7, True),
        (2, 3, 7, True),
        (9, 0, 6, True),
        (6, 0, 6, False),
        (1, 0, 3, True),
    ):
        for fails_at in (None, 1, stop - 1):
            times: list[int] = []

            def step(trainer: Any, fails_at: int | None = fails_at) -> None:
                if trainer.iter == fails_at:
                    raise RuntimeError

            trainer = _trainer(engine, step)

            def evaluate(trainer: Any = trainer, times: list[int] = times) -> dict[str, Any]:
                times.append(trainer.iter)
                return {"task": {"score": len(times), "deep": {"er": "2.5"}}, "flat": torch.tensor(3.0)}

            hook = engine.EvalHook(period, evaluate, eval_after_train=after_train)
            trainer.register_hooks([hook])
            raised = outcome(trainer.train, start, stop)
            key = f"period {period}, {start}-{stop}, after_train {after_train}, fails at {fails_at}"
            put = {name: history.values() for name, history in trainer.storage.histories().items()}
            record[key] = [raised, times, put, trainer.storage.smoothing_hints(), hasattr(hook, "_func")]
    for result in (None, {}, [1], {"a": {"b": "c"}}, 3, 0):
        trainer = _trainer(engine)
        trainer.register_hooks([engine.EvalHook(1, lambda result=result: result)])
        with captured_log(engine):
            record[f"result {result}"] = [outcome(trainer.train, 0, 2), trainer.storage.latest()]
    return record


def hook_states(engine: Engine, folder: Path) -> Any:
    """State is kept by class name: of two hooks of one class, the first one's; missing hooks are warned about."""

    class Stateful(engine.HookBase):
        def __init__(self, value: int) -> None:
            self.value = value

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value} if self.value else {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    class Other(Stateful):
        pass

    record = {}
    for values in ((1, 2, 3), (0, 2, 3), (0, 0, 0)):
        trainer = _trainer(engine)
        hooks = [Stateful(values[0]), engine.HookBase(), Stateful(values[1]), Other(values[2])]
        trainer.register_hooks(hooks)
        trainer.train(0, 2)
        state = trainer.state_dict()
        state = {**state, "hooks": {name.rpartition(".")[2]: value for name, value in state.get("hooks", {}).items()}}
        record[f"saved {values}"] = [state, "hooks" in trainer.state_dict()]

        loaded = _trainer(engine)
        targets = [Stateful(10), Stateful(20)]
        loaded.register_hooks(targets)
        with captured_log(engine) as log:
            loaded.load_state_dict(trainer.state_dict())
        record[f"loaded {values}"] = [[hook.value for hook in targets], loaded.iter, loaded.start_iter, len(log)]
    with captured_log(engine) as log:
        loaded.load_state_dict({"iteration": 7, "hooks": {"Unknown": {}}})
    record["unknown"] = [log, loaded.iter]
    record["no iteration"] = outcome(loaded.load_state_dict, {})
    return record


def _optimizer(sizes: list[int], rates: list[float]) -> torch.optim.Optimizer:
    groups = [
        {"params": [nn.Parameter(torch.ones(())) for _ in range(size)], "lr": rate}
        for size, rate in zip(sizes, rates, strict=True)
    ]
    return torch.optim.SGD(groups, lr=1.0)


def learning_rates(engine: Engine, folder: Path) -> Any:
    """The logged rate, its group and the scheduler's state: torch's and fvcore's schedulers, fresh and resumed."""
    groups = [([3, 5, 5], [0.1, 0.2, 0.3]), ([1, 1, 1, 1], [0.1, 0.2, 0.2, 0.1]), ([1, 1, 1], [0.1, 0.2, 0.2])]
    groups += [([1], [0.4]), ([2, 1], [0.3, 0.4])]
    record: dict[str, Any] = {
        "groups": [engine.LRScheduler.get_best_param_group_id(_optimizer(*group)) for group in groups]
    }

    def run(make: Any, from_trainer: bool, start: int, stop: int, state: Any = None) -> Any:
        optimizer = _optimizer([2, 3], [0.1, 0.2])
        if start:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        trainer = _trainer(engine, lambda trainer: optimizer.step())
        trainer.optimizer, trainer.scheduler = optimizer, make(optimizer)
        hook = engine.LRScheduler() if from_trainer else engine.LRScheduler(optimizer, trainer.scheduler)
        trainer.register_hooks([hook])
        before = hook.state_dict()
        if state is not None:
            hook.load_state_dict(state)
        trainer.train(start, stop)
        put = trainer.storage.history("lr").values()
        state = hook.state_dict()
        after = {key: state[key] for key in ("base_lrs", "last_epoch", "_last_lr") if key in state}
        rates = [group["lr"] for group in optimizer.param_groups]
        return [sorted(before), put, after, rates, trainer.storage.smoothing_hints(), trainer.state_dict()["iteration"]]

    def step_lr(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)

    def linear(optimizer: torch.optim.Optimizer) -> Any:
        return LinearParamScheduler(1.0, 0.125)

    for from_trainer in (True, False):
        record[f"torch {from_trainer}"] = run(step_lr, from_trainer, 0, 5)
        record[f"fvcore {from_trainer}"] = run(linear, from_trainer, 0, 5)
        record[f"fvcore resumed {from_trainer}"] = run(linear, from_trainer, 3, 6)
    saved = step_lr(_optimizer([2, 3], [0.1, 0.2]))
    saved.optimizer.step()
    saved.step()
    with captured_log(engine) as log:
        record["torch loaded"] = [run(step_lr, True, 0, 3, saved.state_dict()), log]
    return record


def whole_training(engine: Engine, folder: Path) -> Any:
    """All hooks at work: what lies in the output folder and what was printed, fresh (0-11), then continued (7-17)."""
    record = {}
    for start, stop in ((0, 11), (7, 17)):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.bias, 0.25)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(trainer: Any, model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            model.bias.grad = torch.ones(1)  # exact on every machine, as are the rates below
            optimizer.step()
            trainer.storage.put_scalars(total_loss=1 / (1 + trainer.iter), data_time=0.125 * trainer.iter)
            if trainer.iter % 3 == 0:
                trainer.storage.put_scalar("[metric]/odd", trainer.iter, cur_iter=trainer.iter - 1)

        trainer = _trainer(engine, step)
        trainer.optimizer = optimizer
        trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: 0.5**iteration)
        checkpointer = Checkpointer(model, str(folder), optimizer=optimizer, trainer=trainer)
        trainer.register_hooks(
            [
                engine.IterationTimer(),
                engine.LRScheduler(),
                engine.PeriodicCheckpointer(checkpointer, 3, max_to_keep=2),
                engine.EvalHook(5, lambda trainer=trainer: {"sem_seg": {"mIoU": float(trainer.iter)}}),
                engine.PeriodicWriter(engine.default_writers(str(folder), stop), period=4),
            ]
        )
        with captured_log(engine) as log:
            trainer.train(start, stop)
        states = {}
        for path in sorted(folder.glob("*.pth")):
            content = torch.load(path, weights_only=True)
            bias = content["model"]["bias"].item()
            states[path.name] = [sorted(content), content["iteration"], content["trainer"], bias]
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        for line in lines:
            line.update({key: "<seconds>" for key in ("time", "eta_seconds") if key in line})
        last = (folder / "last_checkpoint").read_text()
        timed = [iteration for _, iteration in trainer.storage.history("time").values()]
        record[f"{start}-{stop}"] = [states, lines, last, log, trainer.iter, timed, read_tensorboard(folder)]
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
    return record


TRAINING_SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        training_calls,
        training_failures,
        evaluation_times,
        hook_states,
        learning_rates,
        whole_training,
    )
}
