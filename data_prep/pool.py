"""Run work units on all cores: results in the order of the units, whatever the number of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.work import WorkFolder
from rwtrain.errors import RWTrainError
from rwtrain.processes import worker_pool

PRELOADED = ["data_prep.preload"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work.

    Attributes:
        stage: name of the stage it belongs to.
        key: hash of everything its result depends on.
        weight: how much work it is, in input bytes.
        what: what it works on, for messages.
        arguments: passed to the stage's function.
    """

    stage: str
    key: str
    weight: int
    what: str
    arguments: Any


UnitFunction = Callable[[Any, Path], dict[str, Any]]


class Pool:
    """Processes that live for a whole run; with one worker everything happens in this process.

    Args:
        workers: number of processes.
        work: where results are kept and found again.
        quiet: show no progress bars.
    """

    def __init__(self, workers: int, work: WorkFolder, *, quiet: bool = False) -> None:
        self.workers = workers
        self.work = work
        self.quiet = quiet
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run(self, function: UnitFunction, units: Sequence[Unit], *, label: str) -> list[dict[str, Any]]:
        """Results of `function(arguments, output prefix)` for all units; finished units are not done again.

        Raises:
            RWTrainError: a worker process died, for want of memory for example.
        """
        results: dict[int, dict[str, Any]] = {}
        for number, unit in enumerate(units):
            if (found := self.work.finished(unit.stage, unit.key)) is not None:
                results[number] = found
        missing = [number for number in range(len(units)) if number not in results]
        done = sum(units[number].weight for number in results)
        total = sum(unit.weight for unit in units)
        with tqdm(total=total, initial=done, desc=f"{label:<10}", unit="B", unit_scale=True, disable=self.quiet, mininterval=0.5) as bar:
            for number, result in self._compute(function, units, missing):
                results[number] = result
                bar.update(units[number].weight)
        return [results[number] for number in range(len(units))]

    def _compute(self, function: UnitFunction, units: Sequence[Unit], missing: Sequence[int]):
        if self.workers == 1 or len(missing) <= 1:
            for number in missing:
                yield number, run_unit(function, units[number], self.work.folder)
            return
        executor = self._started()
        waiting: dict[Future, int] = {}
        queue = list(missing)
        try:
            while queue or waiting:
                while queue and len(waiting) < 2 * self.workers:
                    number = queue.pop(0)
                    waiting[executor.submit(run_unit, function, units[number], self.work.folder)] = number
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    yield number, future.result()
        except BrokenProcessPool as error:
            running = ", ".join(units[number].what for number in list(waiting.values())[: self.workers])
            raise RWTrainError(
                f"A worker process died while working on {running}; most likely the machine ran out of memory. "
                "Run the same command again with fewer --workers: finished units are kept."
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = worker_pool(self.workers, preload=PRELOADED)
        return self._executor


def run_unit(function: UnitFunction, unit: Unit, folder: Path) -> dict[str, Any]:
    """Do one unit and record it as finished; the result says how long it took."""
    work = WorkFolder(folder)
    prefix = work.path(unit.stage, unit.key, "")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    cpu_seconds, seconds = time.process_time(), time.perf_counter()
    result = function(unit.arguments, prefix)
    result["cpu_seconds"] = round(time.process_time() - cpu_seconds, 4)
    result["seconds"] = round(time.perf_counter() - seconds, 4)
    work.finish(unit.stage, unit.key, result)
    return result
