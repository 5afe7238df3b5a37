"""What the options of a job cannot mean: numbers of processes and machines, and where rank 0 listens.

Needs the standard library alone, so that a command refuses them before torch is loaded. Under torchrun and srun the
processes are there, and their numbers are not read.
"""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

_WANTED = "tcp://HOST:PORT"


def check_options(args: argparse.Namespace, *, default_url: str) -> None:
    """ValueError: options that mean nothing, or that contradict each other; names the option and the way out.

    args: num_gpus, num_machines, machine_rank, dist_url. default_url: the dist_url of a command line without one.
    """
    if args.num_gpus < 0:
        raise ValueError(f"--num-gpus is {args.num_gpus}; give the number of processes on this machine, from 1 on")
    if args.num_machines < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank {args.machine_rank} with --num-machines {args.num_machines}: machines are numbered from 0 "
            "to --num-machines - 1, and every machine starts the command with its own number"
        )
    if args.num_machines > 1 and args.dist_url in ("auto", default_url):
        raise ValueError(
            f"--num-machines {args.num_machines} needs --dist-url {_WANTED}, the same on every machine: HOST is "
            "the machine of --machine-rank 0, as the others reach it, and PORT is free there"
        )
    if args.dist_url != "auto" and not _is_url(args.dist_url):
        raise ValueError(f"--dist-url is {args.dist_url!r}; give {_WANTED}, or on one machine auto")


def _is_url(text: str) -> bool:
    """Whether torch.distributed has a way to meet there; of a host, its port is needed."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("file", "env") or (parts.scheme == "tcp" and bool(parts.hostname and parts.port))
    except ValueError:  # a port that is no number
        return False
