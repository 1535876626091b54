"""Processes of this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from data_prep.work import Unit, UnitFunction, run_unit
from rwtrain.errors import RWTrainError
from rwtrain.processes import worker_pool

PRELOADED = ["data_prep.preload"]


class Processes:
    """Processes that live for a whole run; with one worker everything happens in this process.

    Args:
        workers: number of processes.
    """

    name = "process pool"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()  # its imports go on while this process looks at the inputs

    def map_units(self, function: UnitFunction, units: Sequence[Unit], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.workers == 1 or len(units) == 1:
            for number, unit in enumerate(units):
                yield number, run_unit(function, unit, folder)
            return
        if self._executor is None:
            self._executor = worker_pool(self.workers, preload=PRELOADED)
        waiting: dict[Future, int] = {}
        queue = deque(range(len(units)))
        try:
            while queue or waiting:
                while queue and len(waiting) < 2 * self.workers:
                    number = queue.popleft()
                    waiting[self._executor.submit(run_unit, function, units[number], folder)] = number
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    yield number, future.result()
        except BrokenProcessPool as error:
            running = ", ".join(units[number].what for number in list(waiting.values())[: self.workers])
            raise RWTrainError(
                f"A worker process died while working on {running}; most likely the machine ran out of memory. "
                "Run the same command again with fewer --workers: finished units are kept."
            ) from error

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
