"""The wall around Ray: a cluster over the nodes of a job, for as long as its command runs."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time

from launch.job import TOKEN, Job, JobFolder
from launch.ranks import Start

# Ray's workers listen on 10002 to 19999; its head must not, and the ports in which the kernel picks for clients begin at 32768.
HEAD_PORTS = range(20_000, 30_000)
POLL_S, START_S = 0.5, 120.0


def starts(job: Job, folder: JobFolder, *, number: int, address: str, port: int) -> list[Start]:
    """Processes of one node: Ray's own, and on node 0 beside it the job's command, once all nodes are there.

    Args:
        port: drawn by node 0 for all; Ray's head takes the one in `HEAD_PORTS` that it stands for.
    """
    head = HEAD_PORTS[port % len(HEAD_PORTS)]
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.path / TOKEN), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [job.python, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", f"--num-cpus={job.spec.cpus_per_process}"]
    ray += [f"--num-gpus={job.spec.gpus_per_node}"] if job.spec.gpus_per_node else []
    if number:
        return [Start([*ray, f"--address={address}:{head}"], variables, "ray")]
    temporary = tempfile.mkdtemp(prefix="rwray-", dir="/tmp")  # its sockets need a short path
    started = [*ray, "--head", f"--port={head}", f"--node-ip-address={address}", "--include-dashboard=false", f"--temp-dir={temporary}"]
    driver = [job.python, "-m", "launch.ray_cluster", str(job.spec.nodes), f"{address}:{head}", *job.argv]
    return [Start(started, variables, "ray"), Start(driver, variables | {"RAY_ADDRESS": f"{address}:{head}"}, "task")]


def wait_for_nodes(count: int, address: str) -> None:
    """Wait until the cluster at `address` has so many nodes.

    Raises:
        TimeoutError: it has not, after two minutes.
    """
    import ray

    deadline = time.monotonic() + START_S
    found = 0
    while found < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {count} nodes joined the Ray cluster at {address} within {START_S:.0f} s")
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            found = sum(node["Alive"] for node in ray.nodes())
        except (ConnectionError, RuntimeError, ValueError):
            ray.shutdown()
        time.sleep(POLL_S)
    ray.shutdown()


def main(count: str, address: str, *command: str) -> None:
    """Wait for the nodes, then become the command."""
    wait_for_nodes(int(count), address)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
