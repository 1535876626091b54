"""The command that starts the launcher's process on a node, in a container if the job has an image."""

from __future__ import annotations

from pathlib import Path

from launch.job import CODE, Job, JobFolder
from rwtrain.errors import ConfigError


def node_command(job: Job, folder: JobFolder, *arguments: str, apptainer: bool = False) -> list[str]:
    """Program and arguments of `launch.node`, with the snapshot's code.

    Args:
        arguments: of `launch.node`, after the folder.
        apptainer: run it in the job's image.
    """
    command = ["env", f"PYTHONPATH={folder.path / CODE}"] if job.spec.snapshot or job.spec.code else []
    command += [job.python, "-m", "launch.node", str(folder.path), *arguments]
    if not apptainer or job.spec.image is None:
        return command
    binds = [f"--bind={mount}" for mount in mounts(job, folder)]
    gpus = ["--nv"] if job.spec.gpus_per_node else []
    return ["apptainer", "exec", *gpus, *binds, f"--pwd={job.folder}", job.spec.image, *command]


def mounts(job: Job, folder: JobFolder) -> list[str]:
    """SOURCE:TARGET[:ro] of everything that a container must see: the site's mounts, the job's folders, its data.

    Raises:
        ConfigError: a path cannot be written in this form.
    """
    found = [f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in job.site.mounts]
    seen = {Path(mount.target) for mount in job.site.mounts}
    for path in map(Path, [job.folder, job.output, str(folder.path), *job.data]):
        if any(path == other or other in path.parents for other in seen):
            continue
        if any(character in str(path) for character in ":,"):
            raise ConfigError(f"{path}: a container cannot mount a path with `:` or `,` in it. Rename the folder.")
        seen.add(path)
        found.append(f"{path}:{path}")
    return found
