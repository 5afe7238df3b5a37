"""What the fusions of evidence/plans/fusions.yaml take beside each other, in docs/results/fusions_cost.json.

    python -m evidence.fusions_cost [--rounds 9]

Forward, and forward with backward, at the plan's crops and batches, interleaved in one process, one thread.
"""

from __future__ import annotations

import os
from typing import Any

from scaleeq import console

console.start()

import torch

from scaleeq.files import read_json, write_json
from scaleeq.reports.costs import count_table, time_table
from scaleeq.training import choose_device
from scaleeq.training.on_meta import count_config
from scaleeq.training.timing import time_configs

from .counting_speed.record import machine
from .study import NOT_RUN, RESULTS, commit, plan_of

RESULT = RESULTS / "fusions_cost.json"


def measure(rounds: int) -> dict[str, Any]:
    """Each variant's parameters, multiply-adds, times and memory; ratios are to the first."""
    torch.set_num_threads(1)
    configs = {variant.name: variant.load() for variant in plan_of("fusions").variants}
    for cfg in configs.values():
        choose_device(cfg)
    first = next(iter(configs.values()))
    size, batch = list(first.INPUT.CROP.SIZE), first.SOLVER.IMS_PER_BATCH
    load = [os.getloadavg()[0]]
    times = time_configs(list(configs.values()), sizes=[size] * len(configs), batch=batch, iterations=rounds)
    counts = [count_config(cfg, (size[0], size[1])).as_dict() for cfg in configs.values()]
    return {
        "command": f"python -m evidence.fusions_cost --rounds {rounds}",
        "code": commit(),
        "machine": machine([*load, os.getloadavg()[0]]),
        "torch": torch.__version__,
        "size": size,
        "batch": batch,
        "variants": {name: {**counted, **timed} for name, counted, timed in zip(configs, counts, times, strict=True)},
    }


def cost_tables() -> str:
    """Markdown: what `scaleeq benchmark` prints of configs, of the variants; "not run" where nothing was measured."""
    content = read_json(RESULT)
    records = [{"config": name, "size": content["size"], **of} for name, of in content.get("variants", {}).items()]
    return f"{count_table(records)}\n\n{time_table(records)}" if records else NOT_RUN


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    write_json(RESULT, measure(parser.parse_args().rounds), indent=1)
    print(cost_tables())


if __name__ == "__main__":
    console.run(main)
