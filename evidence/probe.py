"""When do the scales of a fusion's branches matter? Fusions alone, trained on frozen, pretrained features of CamVid.

    python -m evidence.probe features [--network NAME ...] [--data toy3d]    caches them, 1 MB an image, elsewhere
    python -m evidence.probe check                             the side-by-side trainer against modules, on the features
    python -m evidence.probe run [--cells NAME/DESIGN/OPTIMIZER ...] [--seeds N]

`run` appends to docs/results/probes.jsonl, a line a finished part, and goes on where it was stopped (Ctrl-C, between
two parts). `--list` says what the cells are. docs/evidence.md is printed from the file: python -m evidence.page.
"""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

import torch

from scaleeq.stopping import stop_signals

from .probes import training
from .probes.arms import ARMS, Statistics
from .probes.features import CAMVID, DEPTH_MM, TOY3D, Features, extract
from .probes.side_by_side import DESIGNS, Probe
from .probes.study import CELLS, LITE0, Study
from .probes.written_out import SPECS, UNKNOWN, losses_alone

RESULT = Path(__file__).parents[1] / "docs" / "results" / "probes.jsonl"
CACHE = Path.home() / ".cache" / "scaleeq" / "probes"
CHECKED = ("linear", "hidden", "no_norm", "sum", "upernet")
STEPS, AGREE = 25, 1e-3  # of the check; relative difference of mean losses


def main() -> int:
    parser = console.parser(__doc__)
    parser.add_argument("what", choices=("features", "check", "run"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the features, default %(default)s")
    parser.add_argument("--network", nargs="+", default=[LITE0], help=f"of timm, pretrained, or {DEPTH_MM}")
    parser.add_argument("--data", choices=(CAMVID, TOY3D), default=CAMVID, help="of the features, default %(default)s")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument(
        "--cells", nargs="+", help="patterns of names, such as 'res5/*/SGD'; default all but extra ones"
    )
    parser.add_argument("--seeds", type=int, help="instead of the cells' own numbers")
    parser.add_argument("--list", action="store_true", help="say which cells there are, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the bits depend on their number
    if arguments.what == "features":
        for network in arguments.network:
            for split in ("train", "val"):
                print(*extract(network, split, arguments.cache, data=arguments.data), sep="\n")
        return 0
    if arguments.what == "check":
        return check(arguments.cache)
    cells = [cell for cell in CELLS.values() if not cell.extra]
    if arguments.cells:
        cells = [cell for name, cell in CELLS.items() if any(fnmatch.fnmatch(name, each) for each in arguments.cells)]
    if not cells:
        raise ValueError(f"--cells {' '.join(arguments.cells)} names no cell; there are {', '.join(CELLS)}")
    if arguments.list:
        for cell in cells:
            more = f" (extra, {', '.join(cell.networks)})" if cell.extra else ""
            print(f"{cell.title}: {cell.steps} steps, {cell.seeds} seeds, {', '.join(cell.arms)}{more}")
        return 0
    with stop_signals(at_once=False):
        study = Study(arguments.output, arguments.cache, command="python -m evidence.probe run", say=_say)
        study.run(cells, seeds=arguments.seeds)
    return 0


def check(cache: Path) -> int:
    """Mean losses of 25 steps, side by side and alone, of every arm; 1 where two of them differ."""
    features = Features(cache, "train", [LITE0])
    images = range(len(features))
    given: dict[str, Any] = {
        "features": features,
        "images": images,
        "statistics": Statistics.measured(features, images),
    }
    sample = training.Sample.of(features, images[:4], 20)
    worst = 0.0
    for design in CHECKED:
        for optimizer, rate in (("SGD", 1e-2), ("ADAMW", 1e-3)):
            probes = [Probe(arm, rate) for arm in ARMS if arm not in UNKNOWN.get(design, ())]
            options: dict[str, Any] = {"optimizer": optimizer, "steps": STEPS, "seed": 3, **given}
            trained = training.train(DESIGNS[design], probes, sample=sample, **options)
            for probe, mine in zip(probes, trained.loss.tolist(), strict=True):
                alone = losses_alone(DESIGNS[design], probe, **options)[-STEPS // 5 :]
                mean = sum(alone) / len(alone)
                worst = max(worst, abs(mine / mean - 1))
                by = "module" if probe.arm in SPECS else "weights"
                print(f"{design}, {optimizer}, {probe.arm} ({by}): {mine:.6f} {mean:.6f}", flush=True)
    print(f"largest relative difference {worst:.1e}")
    return 0 if worst < AGREE else console.FAILED


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    console.run(main, stopped="what is finished is written; the same command goes on")
