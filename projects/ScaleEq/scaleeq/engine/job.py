"""Start a job of one or several processes, and end it, with its cause, when one of them fails.

Source: the options of Detectron2's launcher, which starts the processes, and the environment variables of torchrun or
srun (scaleeq.slurm), which has started them already. Deviation: when a process fails, the others only lose their
connection to it. Such a process waits a moment before it ends, so that the launcher, or torchrun, meets the cause first
and shows that; the cause is the last thing that the command prints. A signal that asks any of the processes to end
(scaleeq.stopping), the launcher among them, asks all of this machine: none is ended while another still saves.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from scaleeq import console, slurm
from scaleeq.stopping import SIGNALS, Shared, Stopped, check_stop, ignore_stops, request_stop, share_stops, stop_signals

from . import comm, default_argument_parser, launch
from .job_options import check_options
from .parallel import leave_job

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)  # of one exchange between processes, as Detectron2's launcher has it
CAUSE_FIRST_S = 10.0  # longer than torchrun's look at its processes, which is every 5 seconds in older versions
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

Main = Callable[[argparse.Namespace], object]
Check = Callable[[argparse.Namespace, int], None]


def run_job(main: Main, args: argparse.Namespace, *, check: Check | None = None) -> None:
    """Run `main(args)` in every process of the job; returns when all of them have.

    Under torchrun or srun this process is one of the job's and joins it. Else `args` says how many there are: num_gpus
    (without CUDA: processes) on each of num_machines, of which this is machine_rank; dist_url is where rank 0 listens.

    main: found by its module and name, because processes are spawned.
    check: called with `args` and the number of processes of the job before there are any (under torchrun by the first
        process of each machine, before it joins), so that a mistake is told once.

    ValueError: options that contradict each other or the machine; what `check` says; a mistake that a process has
    found. SystemExit: a process failed; the message is what it said, or which signal ended it. Stopped: a signal asked
    the job to end, 130 after SIGINT, 143 after SIGTERM and SIGHUP.
    """
    try:
        with stop_signals(at_once=True):
            # Under torchrun, or srun.
            slurm.join_step(os.environ, num_gpus=args.num_gpus, num_machines=args.num_machines)
            if all(name in os.environ for name in TORCHRUN[:3]):
                _check_torchrun(args)
                if check and os.environ["LOCAL_RANK"] == "0":
                    check(args, int(os.environ["WORLD_SIZE"]))
                _join(main, args)
                return
            # By ourselves.
            processes = _check_options(args)
            if check:
                check(args, processes)
            if processes == 1:
                main(args)
            else:
                _launch(main, args)
    except Stopped as stop:
        if not stop.told:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(f"Stopped by {stop.signal_name}", file=sys.stderr, flush=True)
        raise


def _check_options(args: argparse.Namespace) -> int:
    """The number of processes of the whole job. ValueError: options that contradict each other or the machine."""
    check_options(args, default_url=_default_url())
    processes = max(args.num_gpus, 1) * args.num_machines
    if processes > 1:
        _check_gpus(args.num_gpus, "--num-gpus")
    return processes


def _check_torchrun(args: argparse.Namespace) -> None:
    if args.num_gpus > 1 or args.num_machines > 1:
        raise ValueError(
            "torchrun has started the processes: leave out --num-gpus and --num-machines, and give torchrun "
            "--nproc_per_node and --nnodes; or start the command without torchrun"
        )
    missing = [name for name in TORCHRUN if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment has {', '.join(TORCHRUN[:3])}, as under torchrun, but not {missing[0]}, the number of "
            "processes on this machine: set it, or start with torchrun; for a job of its own, unset RANK"
        )
    by_srun = slurm.has_started_several(os.environ)
    _check_gpus(
        int(os.environ["LOCAL_WORLD_SIZE"]), "srun's --ntasks-per-node" if by_srun else "torchrun's --nproc_per_node"
    )


def _check_gpus(processes: int, option: str) -> None:
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ValueError(
            f"{option} is {processes}, but this machine has {torch.cuda.device_count()} GPUs; give as many at most, or "
            "set CUDA_VISIBLE_DEVICES to the empty string for processes on the CPU"
        )


def _default_url() -> str:
    return default_argument_parser().get_default("dist_url")


def _launch(main: Main, args: argparse.Namespace) -> None:
    # Detectron2's default is one port per user, which keeps a second job of the same user from starting.
    dist_url = args.dist_url if args.num_machines > 1 or args.dist_url != _default_url() else "auto"
    if args.num_machines > 1:
        print(f"machine {args.machine_rank} of {args.num_machines}: waiting for the others, {dist_url}", flush=True)
    asked = multiprocessing.get_context("spawn").Value("i", 0, lock=False)
    share_stops(asked)
    try:
        with stop_signals(at_once=False):  # the processes end by themselves
            launch(
                _run_launched,
                max(args.num_gpus, 1),
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=dist_url,
                args=(main, args, asked),
                timeout=TIMEOUT,
            )
    except (ProcessRaisedException, ProcessExitedException) as error:
        if text := console.mistake_in(str(error)):
            raise console.Mistake(text) from error
        rank = args.machine_rank * max(args.num_gpus, 1) + error.error_index
        raise _stopped(error) or SystemExit(f"\n{_description(error, rank)}") from None
    finally:
        share_stops(None)


def _stopped(error: ProcessRaisedException | ProcessExitedException) -> Stopped | None:
    """For a process that a signal ended before it could answer to it, or a second one."""
    if isinstance(error, ProcessExitedException):
        number = -error.exit_code if error.exit_code < 0 else error.exit_code - 128
        if number in SIGNALS:
            return Stopped(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
    return None


def _description(error: ProcessRaisedException | ProcessExitedException, rank: int) -> str:
    """In words: how a process ended that ended the job."""
    who = f"rank {rank} (process {error.error_pid})"
    if isinstance(error, ProcessRaisedException):
        return f"{who} failed, and the job with it:\n{str(error).partition('following error:')[2].strip()}"
    if error.signal_name is None:
        return f"{who} ended with exit code {error.exit_code}, and the job with it; its message is above"
    hint = "; the system does that when memory runs out" if error.signal_name == "SIGKILL" else ""
    return f"{who} was killed by {error.signal_name}{hint}. The job ended with it; --resume goes on from its checkpoint"


@record  # tells torchrun the error
def _join(main: Main, args: argparse.Namespace) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    try:
        _run_rank(main, args)
    except Exception as error:
        if comm.get_rank() and console.mistake(error):
            time.sleep(CAUSE_FIRST_S)  # the first process tells the same mistake, and torchrun ends this one
        raise


def _run_launched(main: Main, args: argparse.Namespace, asked: Shared) -> None:
    """_run_rank in a process whose command tells what went wrong."""
    try:
        _run_rank(main, args, asked)
    except Exception as error:
        if text := console.mistake(error):
            raise console.Mistake(text) from error
        raise


def _run_rank(main: Main, args: argparse.Namespace, asked: Shared | None = None) -> None:
    """One process of the job, from its joining to its leaving.

    asked: by which signal the job is to end, shared with its launcher, which ends the others as soon as one has failed.
        So a process that was stopped returns as one that has finished.

    ConnectionError: another process is gone. Stopped: under torchrun.
    """
    share_stops(asked)
    try:
        with stop_signals(at_once=True):
            check_stop()
            _run_connected(main, args)
    except Stopped as stop:
        request_stop(stop.number)
        leave_job(comm)
        ignore_stops()
        if asked is None:
            raise
        return
    leave_job(comm)
    ignore_stops()


def _run_connected(main: Main, args: argparse.Namespace) -> None:
    try:
        main(args)
    except Exception as error:
        if not is_lost_connection(error):
            raise
        check_stop()  # the other one was stopped, too
        text = (
            f"rank {comm.get_rank()} lost the connection to another process of the job, which failed first: its "
            "message is in the output of the command on its own machine, and in its log.txt.rank<number>"
        )
        logger.error(text)
        time.sleep(CAUSE_FIRST_S)
        raise ConnectionError(f"{text} ({str(error).splitlines()[0]})") from error


def is_lost_connection(error: BaseException) -> bool:
    """Whether what went wrong first, before errors that followed from it, is that another process was gone."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    signs = ("gloo/transport/", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, (dist.DistBackendError, dist.DistNetworkError)) or (
        isinstance(error, (RuntimeError, ConnectionError)) and any(sign in str(error) for sign in signs)
    )
