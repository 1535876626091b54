"""Slurm: one array job a stage. Its tasks share the units out, put results into the work folder, and this process collects them there."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.work import Unit, UnitFunction, WorkFolder, key_of, run_unit
from launch.slurm import array_script, cancel, require_slurm, submit, unfinished_tasks
from rwtrain.errors import RWTrainError
from rwtrain.files import atomic_path, write_text

POLL_S = 2.0
ATTEMPTS = 3  # jobs for one stage: a task that was killed leaves its units to the next job
LOG_SHOWN = 1500
FOLDER = "slurm"
ERROR_SUFFIX = ".error"


class SlurmArray:
    """Array jobs of `workers` tasks; task t of n does the units t, t + n, t + 2n …

    All nodes need the same files: the work folder, the inputs, this package and its Python at the same paths.

    Args:
        workers: tasks of a job.
        options: further arguments of sbatch, for example `--partition=cpu`.

    Raises:
        RWTrainError: this machine has no Slurm.
    """

    name = "Slurm array jobs"

    def __init__(self, workers: int, *, options: Sequence[str] = ()) -> None:
        require_slurm()
        self.workers = workers
        self.options = list(options)

    def map_units(self, function: UnitFunction, units: Sequence[Unit], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        work = WorkFolder(folder.absolute())
        missing = set(range(len(units)))
        log = Path()
        for _ in range(ATTEMPTS):
            job, log = self._submit(function, [units[number] for number in sorted(missing)], work.folder)
            try:
                running = True
                while running and missing:
                    running = bool(unfinished_tasks(job))
                    found = [(number, result) for number in sorted(missing) if (result := work.finished(units[number].stage, units[number].key)) is not None]
                    missing -= {number for number, _ in found}
                    yield from found
                    _raise_error(log)
                    if running and missing:
                        time.sleep(POLL_S)
            finally:
                if missing:
                    cancel(job)
            if not missing:
                return
        raise RWTrainError(
            f"{len(missing)} units, such as {units[min(missing)].what}, were left undone by {ATTEMPTS} Slurm jobs. The last log ends:\n{_last_log(log)}\n"
            "Correct what it says and run the same command again: finished units are kept."
        )

    def _submit(self, function: UnitFunction, units: Sequence[Unit], folder: Path) -> tuple[str, Path]:
        tasks = min(self.workers, len(units))
        base = folder / FOLDER / f"{units[0].stage}-{key_of([unit.key for unit in units], time.time_ns())[:12]}"
        logs = base.with_suffix(".logs")
        logs.mkdir(parents=True)
        with atomic_path(base.with_suffix(".units")) as temporary:
            temporary.write_bytes(pickle.dumps((function, list(units), folder, tasks)))
        script = base.with_suffix(".sbatch")
        environment = {name: os.environ[name] for name in ("PYTHONPATH", "PATH", "OMP_NUM_THREADS") if name in os.environ}
        command = [sys.executable, "-m", "data_prep.engines.slurm_array", str(base.with_suffix(".units"))]
        options = self.options
        text = array_script(command, name=f"prep-{units[0].stage}", tasks=tasks, folder=Path.cwd(), logs=logs, environment=environment, options=options)
        write_text(script, text)
        return submit(script), logs

    def close(self) -> None:
        """Nothing to let go: a job ends with its units, or is cancelled."""


def _raise_error(logs: Path) -> None:
    """Raise what a task said could not be helped by doing it again."""
    for path in sorted(logs.glob(f"*{ERROR_SUFFIX}")):
        raise pickle.loads(path.read_bytes())  # noqa: S301 (written by our own task)


def _last_log(logs: Path) -> str:
    texts = [path.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:] for path in sorted(logs.glob("*.log"))]
    return next((text for text in reversed(texts) if text.strip()), f"(nothing in {logs})")


def run_task(file: Path, task: int) -> None:
    """Do one task's share of the units that are not finished."""
    function, units, folder, tasks = pickle.loads(file.read_bytes())  # noqa: S301 (written by the process that submitted us)
    work = WorkFolder(folder)
    for unit in units[task::tasks]:
        if work.finished(unit.stage, unit.key) is None:
            try:
                run_unit(function, unit, folder)
            except RWTrainError as error:
                with atomic_path(file.with_suffix(".logs") / f"{task}{ERROR_SUFFIX}") as temporary:
                    temporary.write_bytes(pickle.dumps(error))
                raise


if __name__ == "__main__":
    run_task(Path(sys.argv[1]), int(os.environ["SLURM_ARRAY_TASK_ID"]))
