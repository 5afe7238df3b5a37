"""One of two processes that calibrate together; run by test_two_processes.py with the rank and a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from scaleeq import calibrate
from scaleeq.engine import comm, leave_job
from tests.equalization.test_calibration import NoNorm


def batches() -> list[torch.Tensor]:
    """Eight batches of unlike scale, float64."""
    generator = torch.Generator().manual_seed(0)
    return [(1 + i) * torch.randn(2, 3, 12, 15, generator=generator, dtype=torch.float64) for i in range(8)]


def measured(model: NoNorm) -> dict[str, list[float]]:
    return {name: [float(e.mean), float(e.std)] for name, e in model.fusion.equalizer_of.items()}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = NoNorm().double()
    report = calibrate(model, batches()[rank::2], num_images=-1, gather=comm.all_gather)
    result = {"measured": measured(model), "report": report.to_dict()["fusion"]}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    leave_job(comm)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
