"""A Ray cluster: the same units, done on any of its nodes; units of a lost node are done again on another."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.work import Unit, UnitFunction, run_unit
from rwtrain.errors import RWTrainError

LOCAL, RUNNING = "local", "auto"
RETRIES = 5
UNITS_AHEAD = 3  # units given to the cluster for each of its processors, so that none waits for this process
CONNECT_TIMEOUT_S = 10.0


class RayCluster:
    """The cluster at an address; this process connects to it, or takes the connection that it has.

    All nodes need the same files: the work folder, the inputs and this package at the same paths.

    Args:
        address: `HOST:PORT` of the head, "auto" for the cluster that this machine belongs to (or RAY_ADDRESS), "local" to start one here.
        workers: units done at the same time; None for all processors of the cluster.

    Raises:
        RWTrainError: Ray is not installed, or there is no cluster.
    """

    name = "Ray cluster"

    def __init__(self, address: str = RUNNING, *, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise RWTrainError("--engine ray needs the package ray. Install it with: pip install 'rwtrain[ray]'") from error
        self._ray = ray
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(ray, address, workers)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 0)))

    def map_units(self, function: UnitFunction, units: Sequence[Unit], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_run_there)
        queue, waiting = deque(range(len(units))), dict[Any, int]()
        try:
            while queue or waiting:
                while queue and len(waiting) < UNITS_AHEAD * self.workers:
                    number = queue.popleft()
                    waiting[remote.remote(function, units[number], folder.absolute(), os.getcwd())] = number
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready)
                yield number, self._result(ready, units[number])
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _result(self, reference: Any, unit: Unit) -> dict[str, Any]:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RWTrainError):
                raise error.cause from None
            raise
        except (self._ray.exceptions.RaySystemError, self._ray.exceptions.RayError) as error:
            raise RWTrainError(
                f"The Ray cluster lost the worker for {unit.what} {RETRIES + 1} times ({type(error).__name__}); most likely its nodes ran out of memory. "
                "Run the same command again when it is well: finished units are kept."
            ) from error

    def close(self) -> None:
        if self._connected:
            self._ray.shutdown()


def _run_there(function: UnitFunction, unit: Unit, folder: Path, current: str) -> dict[str, Any]:
    os.chdir(current)  # paths in a plan are relative to the folder in which the command was given
    return run_unit(function, unit, folder)


def _connect(ray: Any, address: str, workers: int | None) -> None:
    if address == LOCAL:
        ray.init(address=LOCAL, num_cpus=workers, include_dashboard=False, log_to_driver=False)
        return
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    hint = f"There is no Ray cluster at {address!r}. Start one with `ray start --head` and give its HOST:PORT with --address, or give --address local."
    try:
        if port.isdigit():  # Ray itself tries for a minute before it gives up
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise RWTrainError(f"{hint} ({error})") from error
