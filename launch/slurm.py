"""The wall around Slurm: submit a script, ask how its job fares, cancel it. Nothing else here calls Slurm's commands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from rwtrain.errors import RWTrainError

COMMANDS = ("sbatch", "squeue", "scancel")


def require_slurm() -> None:
    """Raise a `RWTrainError` if this machine cannot submit jobs."""
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        raise RWTrainError(f"Slurm's {', '.join(missing)} is not on this machine's PATH. Give the command on a login node of the cluster.")


def fill_template(template: str, *, options: Sequence[str] = (), **values: object) -> str:
    """A script from `launch/templates`; `options` are further arguments of sbatch such as `--partition=cpu`."""
    text = (resources.files("launch") / "templates" / template).read_text(encoding="utf-8")
    return text.format(options="\n".join(f"#SBATCH {option}" for option in options), **values)


def array_script(
    command: Sequence[str], *, name: str, tasks: int, folder: Path, logs: Path, environment: Mapping[str, str], options: Sequence[str] = (), cpus: int = 1
) -> str:
    """A script for an array job; each task runs `command` in `folder` with its number in SLURM_ARRAY_TASK_ID.

    Args:
        command: program and arguments.
        name: of the job.
        tasks: how many.
        folder: the same on all nodes.
        logs: folder for one log a task.
        environment: variables to set.
        options: further arguments of sbatch.
        cpus: processors of a task.
    """
    variables = [f"{key}={value}" for key, value in environment.items()]
    line = shlex.join(["env", *variables, *command])
    return fill_template("array.sbatch", options=options, name=name, last=tasks - 1, cpus=cpus, logs=logs, folder=shlex.quote(str(folder)), command=line)


def submit(script: Path) -> str:
    """Submit a script; return the job's number."""
    return _run(["sbatch", "--parsable", str(script)]).split(";")[0].strip()


def unfinished_tasks(job: str) -> list[str]:
    """States of a job's tasks that wait or run (`PENDING`, `RUNNING` …); empty once the job is over, however it ended."""
    done = subprocess.run(["squeue", "--noheader", "--array", "--format=%T", f"--jobs={job}"], capture_output=True, text=True)
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise RWTrainError(f"squeue failed: {' '.join(done.stderr.split())} Finished units are kept; run the same command again when Slurm answers.")
    return done.stdout.split()


def cancel(job: str) -> None:
    """End a job; one that is over already is left alone."""
    subprocess.run(["scancel", "--quiet", job], capture_output=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RWTrainError(f"{command[0]} failed: {' '.join(done.stderr.split())} Correct the options given with --slurm.")
    return done.stdout
