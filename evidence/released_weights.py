"""Weights of a name that come with the package, in projects/ScaleEq/scaleeq/weights/, and their entry in zoo.json.

    python -m evidence.released_weights camvid/uper_lite0 output/camvid_uper_lite0/model_final.pth
    scaleeq eval camvid/uper_lite0 MODEL.WEIGHTS projects/ScaleEq/scaleeq/weights/camvid_uper_lite0.pth \\
        OUTPUT_DIR output/released
    python -m evidence.released_weights camvid/uper_lite0 --results output/released/inference/results.json

The first writes the file: the evaluated weights of a run, its convolutions' kernels in float16 and all else, which is
small and which norms divide by, as it is. The last enters the file's sha256 and what was measured with these very
weights, and leaves docs/results/<name>_released.json. A file of more than 12 MB is refused: it lies in every wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from scaleeq import console

console.start()

import torch
from torch import Tensor

from scaleeq.config.parts import config_files
from scaleeq.engine.checkpoint_file import read_checkpoint, write_checkpoint
from scaleeq.files import write_json
from scaleeq.training.evaluate import hash_weights
from scaleeq.zoo import TABLE, read_table

from .record_run import run_name as stem_of  # camvid/uper_lite0 -> camvid_uper_lite0

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FOLDER = "weights"  # beside the table
MAX_BYTES = 12e6
HEADLINE = "sem_seg/mIoU"
KEPT = ("sem_seg", "datasets", "num_images", "absent_classes", "parameters", "device", "engine", "weights_sha256")


def rounded(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """A state dict with its kernels, tensors of two or more axes, in float16, and the largest relative change of one.

    The change is measured in the norm of a tensor. FloatingPointError: a number that float16 has not.
    """
    result, largest = dict(weights), 0.0
    for name, value in weights.items():
        if not value.is_floating_point() or value.dim() < 2:
            continue
        half = value.half()
        if not bool(torch.isfinite(half).all()):
            raise FloatingPointError(f"{name} holds {value.abs().max():g}, which float16 has not")
        result[name] = half
        largest = max(largest, float((half.double() - value.double()).norm() / value.double().norm().clamp_min(1e-30)))
    return result, largest


def write(name: str, checkpoint: Path, table: Path = TABLE) -> Path:
    """Write the weights of a run's checkpoint beside a table, under the name of a config; returns the file.

    ValueError: a file that is too large. FileNotFoundError: no such config or checkpoint.
    """
    config_files(name)
    content = read_checkpoint(checkpoint, checksums=True)
    kind = "ema" if "ema" in content else content.get("weights_kind", "trained")
    weights, change = rounded(content["ema" if "ema" in content else "model"])
    num_bytes = sum(value.numel() * value.element_size() for value in weights.values())
    if num_bytes > MAX_BYTES:
        raise ValueError(f"{checkpoint} holds {num_bytes / 1e6:.1f} MB of weights; a wheel takes {MAX_BYTES / 1e6:g}")
    file = file_of(name, table)
    file.parent.mkdir(exist_ok=True)
    write_checkpoint(file, {"model": weights, "weights_kind": kind}, parameters=weights.keys())
    size = file.stat().st_size / 1e6
    print(f"{file}: {size:.1f} MB, sha256 {sha256_of(file)}; kernels change by {change:.1e} at most")
    return file


def enter(name: str, results: Path, *, table: Path = TABLE, evidence: Path = RESULTS) -> None:
    """Enter a name's file and what was measured with it. ValueError: the results are of other weights."""
    file = file_of(name, table)
    state = {key: _loaded(value) for key, value in read_checkpoint(file)["model"].items()}
    found = json.loads(results.read_text(encoding="utf-8"))
    if found.get("weights_sha256") != hash_weights(state):
        raise ValueError(f"{results} was measured with other weights than those of {file}: {found.get('weights')}")
    task, metric = HEADLINE.split("/")
    page = evidence / f"{stem_of(name)}_released.json"
    command = f"scaleeq eval {name} MODEL.WEIGHTS scaleeq/{FOLDER}/{file.name}"
    kept = {key: found[key] for key in KEPT if key in found}
    write_json(page, {"command": command, "config": name, "file_sha256": sha256_of(file), **kept})
    entry = {
        "weights": f"{FOLDER}/{file.name}",
        "sha256": sha256_of(file),
        "measured": {HEADLINE: round(found[task][metric], 2)},
        "evidence": f"docs/results/{page.name}",
    }
    write_json(table, {**json.loads(table.read_text(encoding="utf-8")), name: entry})
    print(f"{table}: {name} {read_table(table)[name].measured}")


def file_of(name: str, table: Path) -> Path:
    return table.parent / FOLDER / f"{stem_of(name)}.pth"


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _loaded(value: Tensor) -> Tensor:
    """As a model holds it."""
    return value.float() if value.dtype == torch.float16 else value


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="of `scaleeq models`")
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a run's model_final.pth")
    parser.add_argument("--results", type=Path, metavar="FILE", help="inference/results.json of the written file")
    arguments: argparse.Namespace = parser.parse_args()
    if bool(arguments.checkpoint) == bool(arguments.results):
        parser.error("give a checkpoint, or --results of the file that was made of it")
    if arguments.checkpoint:
        write(arguments.name, arguments.checkpoint)
    else:
        enter(arguments.name, arguments.results)


if __name__ == "__main__":
    console.run(main)
