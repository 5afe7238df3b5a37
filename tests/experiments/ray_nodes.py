"""Ray clusters of several nodes on this machine, and the end of a node as a machine's that loses its power."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

STORE_BYTES = 80 * 2**20  # the least that Ray takes
# A node whose helpers take longer to start, as on a busy machine, ends.
PATIENCE = {"RAY_raylet_start_wait_time_s": "200", "RAY_agent_register_timeout_ms": "200000"}
# Ray turns 127.0.0.1 in an address into the machine's own, where a head on loopback does not listen; off, it does not.
# It reads this when it is imported.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
for name, value in {**PATIENCE, **LOOPBACK}.items():
    os.environ.setdefault(name, value)
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE_BYTES, "node_ip_address": "127.0.0.1"}


@contextlib.contextmanager
def ray_cluster(nodes):
    """A cluster of so many nodes on loopback, with one CPU each; the first is its head."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**NODE)
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
