"""Variables of the processes that the launcher starts on a node."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from launch.job import CODE, Job, JobFolder
from launch.spec import RESERVED

HUB_VARIABLE, ATTEMPT_VARIABLE = "RWTRAIN_HUB", "RWTRAIN_ATTEMPT"


def node_environment(job: Job, folder: JobFolder, *, secrets: dict[str, str]) -> dict[str, str]:
    """Variables of a node's processes: those of this process < the site's < the job's < secrets, and what the snapshot needs."""
    variables = {name: value for name, value in os.environ.items() if name not in (HUB_VARIABLE, "RWTRAIN_TOKEN", *RESERVED)}
    me = pwd.getpwuid(os.getuid())
    for name, value in {"HOME": me.pw_dir, "USER": me.pw_name, "LOGNAME": me.pw_name, "OMP_NUM_THREADS": str(job.spec.cpus_per_process)}.items():
        variables.setdefault(name, value)
    variables |= job.site.environment | job.spec.environment | secrets
    paths = [str(folder.path / CODE)] if (folder.path / CODE).is_dir() else []
    variables["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [variables.get("PYTHONPATH", "")])])
    if os.sep in job.python:
        variables["PATH"] = os.pathsep.join([str(Path(job.python).parent), variables.get("PATH", os.defpath)])
    return variables | {"PYTHONUNBUFFERED": "1", "RWTRAIN_JOB": str(folder.path)}
