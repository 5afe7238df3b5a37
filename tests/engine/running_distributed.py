"""What every rank of a job of several processes sees: run by `launch`, written to a file per rank."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from scaleeq.engine.parallel import leave_job, wrap_ddp
from tests.engine.running_sides import draws, load_side, outcome, restored_loggers


def run_rank(side: str, folder: str) -> None:
    """One rank of the two-process job. side: of the engine. folder: gets rank<k>.json."""
    engine = load_side(side)
    rank = engine.comm.get_rank()
    parts = (_communication, _barrier, _setup, _inference, _training)
    record = {part.__name__.strip("_"): part(engine, rank, Path(folder)) for part in parts}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(record))
    leave_job(engine.comm)


def run_machine_rank(side: str, folder: str) -> None:
    """One rank of the job over two machines (of one process each)."""
    comm = load_side(side).comm
    ranks = [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    record = [*ranks, comm.all_gather("x"), comm.all_gather("here", group=comm.get_local_process_group())]
    (Path(folder) / f"rank{comm.get_rank()}.json").write_text(json.dumps(record))


def _communication(engine: Any, rank: int, folder: Path) -> Any:
    comm = engine.comm
    values = {"b": torch.tensor(10.0 * rank), "a": torch.tensor(rank + 1.0)}
    if rank == 1:
        values = dict(reversed(values.items()))  # keys in another order on another rank
    reduced = [comm.reduce_dict(values, average=average) for average in (True, False)]
    torch.manual_seed(rank)
    return {
        "ranks": [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()],
        "backend": dist.get_backend(),
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank}),
        "gather": [comm.gather(f"from {rank}"), comm.gather(rank, dst=1)],
        "local": comm.all_gather(rank, group=comm.get_local_process_group()),
        "reduced": [{name: value.item() for name, value in d.items()} for d in reduced] if rank == 0 else None,
        "second local group": outcome(comm.create_local_process_group, 1),
    }


def _barrier(engine: Any, rank: int, folder: Path) -> Any:
    flag = folder / "rank 1 was here"
    if rank == 1:
        time.sleep(0.3)
        flag.touch()
    engine.comm.synchronize()
    return flag.exists()


def _setup(engine: Any, rank: int, folder: Path) -> Any:
    cfg = engine.get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(folder / "output"), 5
    with restored_loggers(engine) as stdout:
        engine.default_setup(cfg, engine.default_argument_parser().parse_args([]))
    record = [draws(), engine.comm.shared_random_seed(), bool(stdout.getvalue())]
    engine.comm.synchronize()
    return [*record, sorted(path.name for path in (folder / "output").iterdir())]


def _inference(engine: Any, rank: int, folder: Path) -> Any:
    class Gathering(engine.DatasetEvaluator):
        def reset(self) -> None:
            self.seen: list[int] = []

        def process(self, inputs: Any, outputs: Any) -> None:
            self.seen.append(outputs)

        def evaluate(self) -> Any:
            everyone = engine.comm.gather(self.seen)
            return {"gathered": everyone} if engine.comm.is_main_process() else None

    class Everywhere(engine.DatasetEvaluator):
        def evaluate(self) -> Any:
            return {"everywhere": engine.comm.get_rank()}

    loader = [10 * rank + index for index in range(2 + rank)]
    run = engine.inference_on_dataset
    return {
        "one": run(lambda x: x, loader, Gathering()),
        "several": run(lambda x: x, loader, [Gathering(), Everywhere()]),
        "everywhere": run(lambda x: x, loader, Everywhere()),
    }


def _training(engine: Any, rank: int, folder: Path) -> Any:
    """Two steps on a different half of the batch each: gradients are the whole batch's, hooks run on both ranks."""
    plain = nn.Linear(2, 1, dtype=torch.float64)
    for parameter, value in zip(plain.parameters(), (1.0 + rank, rank), strict=True):
        nn.init.constant_(parameter, value)  # ranks start apart; wrapping makes them rank 0's
    model = wrap_ddp(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    evaluated: list[int] = []

    class Trainer(engine.TrainerBase):
        def run_step(self) -> None:
            batch = torch.arange(4, dtype=torch.float64).reshape(2, 2)[rank : rank + 1]
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    trainer = Trainer()

    def evaluate() -> dict[str, float]:
        evaluated.append(trainer.iter)
        return {"score": 1.0} if rank == 0 else {}

    trainer.register_hooks([engine.EvalHook(1, evaluate)])
    trainer.train(0, 2)
    mixed = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1, device="meta")])
    weights = [parameter.tolist() for parameter in plain.parameters()]
    return [type(model).__name__, weights, evaluated, trainer.storage.latest(), outcome(wrap_ddp, mixed)]
