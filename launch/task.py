"""One task of an array job: `python -m launch.task JOB_FOLDER`. It becomes the job's command, with the task's number in RWTRAIN_TASK."""

from __future__ import annotations

import os
import sys

from launch.environment import node_environment
from launch.job import JobFolder, read_secrets
from rwtrain.errors import RWTrainError

TASK_VARIABLES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")


def main(path: str) -> int:
    try:
        folder = JobFolder.open(path)
        job = folder.job
        environment = node_environment(job, folder, secrets=read_secrets(job.spec, {}))
        environment["RWTRAIN_TASK"] = next((os.environ[name] for name in TASK_VARIABLES if name in os.environ), "0")
        os.chdir(job.folder)
        os.execvpe(job.argv[0], job.argv, environment)
    except RWTrainError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or job.argv[0]}: {error.strerror} (in {job.folder})", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
