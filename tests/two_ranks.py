"""Two real processes (gloo) that train a model together: how a test starts them, and what both sides do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[1]


def run_ranks(module: str, folder: Path) -> list[dict[str, Any]]:
    """What each rank of `python -m module RANK FOLDER` has saved as FOLDER/rank<RANK>.pth."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'projects' / 'ScaleEq'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", module]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=250)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


def train_on(model: nn.Module, images: list[torch.Tensor], rate: float) -> None:
    """A step of SGD on each of the images."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    for x in images:
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
