"""What decoders, losses and steps take, beside the peers that are installed, interleaved in one process.

    python -m evidence.benchmark_decoders --output docs/results/decoders.json
    python -m evidence.benchmark_decoders --works uper_512 psp_512 --rounds 9 --threads 1
    python -m evidence.benchmark_decoders --device cuda --output $OUT/decoders.json
    python -m evidence.tables                                     writes the tables of docs/performance.md from it

CPU time and wall time (on a CUDA device: its own) as ratios of the same round, lower quartile, median and upper one;
peaks of the allocator's memory. Outputs are compared first, gradients in float64. A file that is there keeps the works
that are not measured. How a peer is made importable: evidence/decoder_speed/peers.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

import torch

from scaleeq.files import write_json

from .collected import command_line
from .counting_speed.record import machine
from .decoder_speed import peers
from .decoder_speed.heads import EQUALIZED, FOLDED, LAST, OURS, Goals, Maps, Setting, aspp, psp, semantic_fpn, uper
from .decoder_speed.losses import arg_max, cross_entropy
from .decoder_speed.rounds import Contender, measure
from .decoder_speed.steps import pyramids, start_up, training_step, waits_of_a_step

TO_OURS = {EQUALIZED: (1.02, 1.05)}
NONE: Goals = {}
Make = Callable[[Setting], list[Contender]]
# Name -> what it is, and who contends. A goal: at most, of time and of peak memory.
WORKS: dict[str, tuple[str, Make]] = {
    "uper_512": (
        "UPer 512, Swin-T's levels, 512 x 512, inference",
        partial(
            uper, maps=Maps(512, 1), goals={OURS: (0.58, 0.65), LAST: (0.58, 0.65), FOLDED: (0.58, 0.65), **TO_OURS}
        ),
    ),
    "uper_256": ("the same, 256 x 256", partial(uper, maps=Maps(256, 1), goals=TO_OURS)),
    "uper_training": (
        "UPer 512, 256 x 256, batch 2, training",
        partial(uper, maps=Maps(256, 2, True), goals={OURS: (0.60, 0.75), **TO_OURS}),
    ),
    "uper_training_512": ("the same, 512 x 512", partial(uper, maps=Maps(512, 2, True), goals=TO_OURS)),
    "psp_512": (
        "PSP 512, 64 x 64 cells, inference",
        partial(psp, maps=Maps(512, 1), goals={OURS: (0.55, None), FOLDED: (0.55, None), **TO_OURS}),
    ),
    "psp_training": (
        "PSP 512, 32 x 32 cells, batch 2, training",
        partial(psp, maps=Maps(256, 2, True), goals={OURS: (0.62, 0.90), **TO_OURS}),
    ),
    "aspp_512": (
        "ASPP 256, 64 x 64 cells, inference",
        partial(aspp, maps=Maps(512, 1), goals={LAST: (0.70, None)}),
    ),
    "aspp_training": ("ASPP 256, 32 x 32 cells, batch 2, training", partial(aspp, maps=Maps(256, 2, True), goals=NONE)),
    "semantic_fpn": ("semantic FPN 128, 512 x 512, inference", partial(semantic_fpn, maps=Maps(512, 1), goals=NONE)),
    "semantic_fpn_training": (
        "semantic FPN 128, 256 x 256, batch 2, training",
        partial(semantic_fpn, maps=Maps(256, 2, True), goals=NONE),
    ),
    "cross_entropy_150": (
        "cross entropy, 150 classes, 256 x 256, batch 2",
        partial(cross_entropy, classes=150, image=256, batch=2, goals={OURS: (0.50, 0.20)}),
    ),
    "cross_entropy_19": (
        "cross entropy, 19 classes, 512 x 512, batch 2",
        partial(cross_entropy, classes=19, image=512, batch=2, goals={OURS: (0.72, 0.30)}),
    ),
    "arg_max_150": (
        "labels, 150 classes, 512 x 683",
        partial(arg_max, classes=150, size=(512, 683), goals={OURS: (0.70, None)}),
    ),
    "arg_max_19": ("labels, 19 classes, 512 x 1024", partial(arg_max, classes=19, size=(512, 1024), goals=NONE)),
    "fapn": (
        "pyramids of 256, ResNet-50's levels, 256 x 256, batch 2, training",
        partial(pyramids, image=256, batch=2, goals={"FaPN": (7.0, None)}),
    ),
    "step": (
        "a whole training step, ade20k/uper_r50, 256 x 256, batch 2",
        partial(training_step, crop=256, batch=2, goals={OURS: (0.72, None)}),
    ),
    "help": ("the training command's --help", partial(start_up, goals={OURS: (0.15, None)})),
}


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS), metavar="WORK")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--shrink", type=int, default=1, help="divides widths and sizes (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="a JSON file; what it has of other works stays")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.shrink < 1:
        parser.error("--rounds and --shrink are at least 1")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device is {arguments.device}, and there is no CUDA device")
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {"works": {}}
    if arguments.output and arguments.output.is_file():
        record = json.loads(arguments.output.read_text())
    for name in arguments.works:
        record["works"][name] = _measured(name, arguments)
        for row in record["works"][name]["rows"]:
            print(name, json.dumps(row), flush=True)
        if arguments.output:
            record["works"] = {key: record["works"][key] for key in WORKS if key in record["works"]}
            write_json(arguments.output, record)


def _measured(name: str, arguments: Any) -> dict[str, Any]:
    title, make = WORKS[name]
    setting = Setting(arguments.device, arguments.shrink)
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    rows = measure(make(setting), rounds=arguments.rounds, device=arguments.device)
    result: dict[str, Any] = {
        "title": title,
        "command": command_line("benchmark_decoders"),
        "torch": torch.__version__,
        "peers": peers.versions(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "shrink": arguments.shrink,
        "machine": machine([load, os.getloadavg()[0]]),
        "rows": rows,
    }
    if arguments.device != "cpu":
        result["device"] = torch.cuda.get_device_name()
        if name == "step":
            result["waits"] = waits_of_a_step(setting, crop=256, batch=2)
    return result


if __name__ == "__main__":
    console.run(main)
