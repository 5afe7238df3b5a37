"""How far a job of two processes is from one process with the same batch, by way of starting it.

    python -m tests.training.two_processes_table [--write]

prints the table as markdown; --write also makes docs/results/two_processes.json. Relative differences are those of
whole tensors: the largest difference over the largest value. Gradients that are zero but for rounding, such as that of
a bias in front of a batch norm, count against 1e-6 of the model's largest gradient.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleeq import engine
from tests.training.starting import ROOT, WAYS, Job, commands

PROGRAM = ["-m", "tests.training.two_processes"]
RESULT = ROOT / "docs" / "results" / "two_processes.json"
CASES = ("synchronized", "accumulated")
ZERO = 1e-6  # of the largest gradient


@dataclass
class Row:
    """Largest relative differences of two processes from one, over both cases; resumed: bit for bit."""

    way: str
    gradients: float
    worst_parameter: str
    losses: float
    weights: float
    statistics: float
    confusion_equal: bool
    resumed_equal: bool


def measure(
    folder: Path, way: str, weights: str = "", *, program: list[str] = PROGRAM, **environment: str
) -> list[dict[str, Any]]:
    """Start the program in one way ("": one process), and return what each rank found."""
    words = [str(folder), weights] if weights else [str(folder)]
    Job(commands(way, program, words), folder, environment).run()
    return [torch.load(file, weights_only=True) for file in sorted(folder.glob("rank*.pt"))]


def difference(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    largest = max(float(theirs.abs().max()), floor)
    return float((ours - theirs).abs().max()) / largest if largest else float((ours - theirs).abs().max())


def gradient_differences(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, float]:
    """Parameter -> relative difference."""
    assert one.keys() == two.keys()
    floor = ZERO * max(float(gradient.abs().max()) for gradient in one.values())
    return {name: difference(two[name], one[name], floor) for name in one}


def is_weight(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked")) and not is_statistic(name)


def is_statistic(name: str) -> bool:
    return ".equalizers." in name


def confusion(folder: Path) -> Any:
    return json.loads((folder / "evaluated" / "sem_seg_evaluation.json").read_text())["confusion"]


def compare(way: str, one: list[dict], two: list[dict], folders: tuple[Path, Path]) -> Row:
    """one, two: what the ranks of each job found; folders: of the two jobs."""
    ours, theirs = two[0], one[0]
    gradients: dict[str, float] = {}
    losses, weights, statistics = [], [], []
    for case in CASES:
        mine, other = ours[case], theirs[case]
        found = gradient_differences(other["gradients"], mine["gradients"])
        gradients |= {f"{case}: {name}": value for name, value in found.items()}
        for after, before in zip(mine["losses"], other["losses"], strict=True):
            losses += [abs(after[name] / before[name] - 1) for name in before]
        for name, tensor in other["model"].items():
            (weights if is_weight(name) else statistics if is_statistic(name) else []).append(
                difference(mine["model"][name].double(), tensor.double())
            )
    unbroken, resumed = ours["synchronized"], ours["resumed"]
    equal = [torch.equal(resumed[kind][n], t) for kind in ("model", "ema") for n, t in unbroken[kind].items()]
    worst = max(gradients, key=lambda name: gradients[name])
    return Row(
        way=way,
        gradients=gradients[worst],
        worst_parameter=worst,
        losses=max(losses),
        weights=max(weights),
        statistics=max(statistics),
        confusion_equal=confusion(folders[0]) == confusion(folders[1]),
        resumed_equal=all(equal),
    )


def table(rows: list[Row]) -> str:
    lines = [
        "| started by | gradients | losses | weights after 3 steps | statistics | confusion | resumed = unbroken |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{value:.1e}" for value in (row.gradients, row.losses, row.weights, row.statistics))
        words = ["equal" if value else "NOT equal" for value in (row.confusion_equal, row.resumed_equal)]
        lines.append(f"| {row.way} | {numbers} | {words[0]} | {words[1]} |")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = measure(folder / "one", "")
        weights = str(folder / "one" / "synchronized" / "model_final.pth")
        rows = []
        for number, way in enumerate(WAYS):
            two = measure(folder / str(number), way, weights)
            rows.append(compare(way, one, two, (folder / "one", folder / str(number))))
    print(f"Engine: {engine.NAME} {engine.VERSION}\n\n{table(rows)}")
    if "--write" in sys.argv[1:]:
        record = {
            "command": "python -m tests.training.two_processes_table --write",
            "engine": engine.NAME,
            "torch": torch.__version__,
            "rows": [asdict(row) for row in rows],
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
