"""Ray clusters of several nodes on this machine, and the end of a node as a machine's that loses its power."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

STORE_BYTES = 80 * 2**20  # the least that Ray takes
# Read when Ray is imported. A node whose helpers take longer to start, as on a busy machine, ends. And Ray turns
# 127.0.0.1 in an address into the machine's own, where a head on loopback does not listen: not where this is 0.
SETTINGS = {"RAY_agent_register_timeout_ms": "200000", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE_BYTES, "node_ip_address": "127.0.0.1"}
# Each helper is a process that imports Ray, and Ray waits 30 s for a node, on a busy machine too: only those needed.
NODE |= {"include_log_monitor": False}
HEAD = NODE | {"include_dashboard": False, "no_monitor": True}


@contextlib.contextmanager
def ray_cluster(nodes):
    """A cluster of so many nodes on loopback, with one CPU each; the first is its head."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        try:
            for number in range(nodes):
                cluster.add_node(**(NODE if number else HEAD))
        except Exception as error:  # Ray has no class of its own for it
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray's node did not start in the 30 s that Ray gives it: the machine is too busy")
        cluster.wait_for_nodes(timeout=200)
        yield cluster
    finally:
        cluster.shutdown()


def kill_node(node):
    """All processes of a node at once, those that its tasks have started too; their ids."""
    pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids
