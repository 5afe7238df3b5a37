"""Runs as tasks of a Ray cluster: one that is there, or one that is started here for as long as the command runs.

Source: Ray's tasks, their resources and their cancellation (docs.ray.io). A task holds a share of a node's CPUs and
GPUs; Ray sets CUDA_VISIBLE_DEVICES. Ray's own retries are off: a run that was lost is submitted again from here, so
that it is said.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from types import ModuleType

from scaleeq.extras import require
from scaleeq.stopping import Stopped

from .jobs import STOP_S, End
from .remote import Answer, Lost, RemoteRun

STORE_BYTES = 128 * 2**20  # of a cluster that is started here: tasks exchange no data
MARGIN_S = 5.0


def run_on_node(run: RemoteRun) -> Answer:
    """The task. One that was cancelled ends as its run does, with a checkpoint."""
    started = time.monotonic()
    try:
        return run()
    except Stopped as stop:
        return Answer("", End(run.job, 128 + stop.number, time.monotonic() - started, None))


class RayCluster:
    """address: "": $RAY_ADDRESS, or one is started here. cpus, gpus: of each run; gpus None: 1 where there are any."""

    poll_s = 0.2

    def __init__(self, address: str, *, jobs: int | None, cpus: int, gpus: float | None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS", "")
        self.window, self.cpus, self.gpus = jobs, cpus, gpus
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a comparison tells nobody that it runs
        self._ray: ModuleType = require("ray", why="--executor ray: ")

    def start(self, num_jobs: int, say: Callable[[str], None]) -> int:
        ray = self._ray
        self._connect()
        # What is there, and what fits.
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        if self.gpus is None:
            self.gpus = 1.0 if gpus else 0.0
        fit = sum(self._fitting(node) for node in nodes)
        if not fit:
            raise ValueError(
                f"--executor ray: no node has the {self.cpus} CPUs and {self.gpus:g} GPUs that each run is to get; "
                "lower --cpus-per-run or --gpus-per-run"
            )
        at_a_time = min(fit, num_jobs, self.window or num_jobs)
        cpus = sum(node.get("CPU", 0) for node in nodes)
        say(
            f"ray: {len(nodes)} node{'s' * (len(nodes) > 1)}, {cpus:g} CPUs, {gpus:g} GPUs; runs at a time: {at_a_time}"
        )
        return at_a_time

    def _fitting(self, node: dict[str, float]) -> int:
        assert self.gpus is not None
        by_gpu = node.get("GPU", 0) / self.gpus if self.gpus else float("inf")
        return int(min(node.get("CPU", 0) / self.cpus, by_gpu) + 1e-9)

    def _connect(self) -> None:
        """ValueError: nobody answers there."""
        own: dict[str, object] = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        own["_node_ip_address"] = "127.0.0.1"  # a cluster for this command alone listens to nobody else
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(
                address=self.address or "local",
                configure_logging=True,
                logging_level="error",
                log_to_driver=False,  # a run's own console is in its folder
                ignore_reinit_error=True,
                **({} if self.address else own),
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ValueError(
                f"no Ray cluster answers at {self.address or 'this machine'}: start one with `ray start --head`, or "
                f"leave --ray-address out for one that is started here ({str(error).splitlines()[0]})"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own, which would end this process at once

    def submit(self, runs: Sequence[RemoteRun]) -> list[object]:
        task = self._ray.remote(run_on_node)
        return [
            task.options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, name=run.job.name).remote(run)
            for run in runs
        ]

    def ended(self, handle: object) -> bool:
        return bool(self._ray.wait([handle], timeout=0)[0])

    def answer(self, handle: object) -> Answer:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except exceptions.RayTaskError:  # a fault of the program, with the traceback of the node
            raise
        except exceptions.RayError as error:
            raise Lost(f"Ray: {type(error).__name__}") from error

    def stop(self, handles: Sequence[object]) -> None:
        if not self._ray.is_initialized():
            return
        for handle in handles:
            self._ray.cancel(handle)
        if handles:
            self._ray.wait(list(handles), num_returns=len(handles), timeout=STOP_S + MARGIN_S)
        self._ray.shutdown()
