"""Prepare PLAN into OUT on a Ray cluster of three nodes in this process's network: `python -m tests.data_prep.ray_run PLAN OUT [--lose-a-node]`."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="rwray-", dir="/tmp")  # sockets need a short path

import ray
from ray.cluster_utils import Cluster

from data_prep.engines.ray_cluster import RayCluster
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from rwtrain.config.load import load_config

NODE = {"include_dashboard": False, "object_store_memory": 80 << 20}


def main(plan: str, out: str, *flags: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    nodes = [cluster.add_node(num_cpus=1, **NODE) for _ in range(2)]
    engine = RayCluster(cluster.address)
    assert engine.workers == 2

    def lose() -> None:
        while len(list(Path(out, "work/ingest").glob("*.json"))) < 3:
            time.sleep(0.01)
        cluster.remove_node(nodes[1], allow_graceful=False)
        print("lost a node")

    killer = threading.Thread(target=lose)
    if "--lose-a-node" in flags:
        killer.start()
    Preparation(load_config(Plan, plan), out, engine=engine, quiet=True).run()
    if killer.ident:
        killer.join()
    assert not ray.is_initialized()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
